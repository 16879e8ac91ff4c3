"""The one runner of child processes: every stage's work happens in one."""

import codecs
import logging
import math
import os
import re
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from orchestration import OrchestrationError
from orchestration.lifecycle import reaper
from orchestration.lifecycle.outcomes import CheckResult
from orchestration.lifecycle.redaction import Redactor

GRACE_SECONDS = 10.0
REAPER_SECONDS = 10.0
TAIL_LINES = 20
# Of these, what a failure says: the UI shows no more of it at once, and the last is what counts.
SAID_LINES = 5
MAX_LINE = 16_384
MAX_LOG_BYTES = 64 * 2**20
# What is held of the output that the log has no room for: enough for the last lines.
KEPT_CHARACTERS = 4 * MAX_LINE
# Every event is a row in Dagster's database, read whole by the UI.
MAX_EVENT_CHARACTERS = 500_000
EVENT_SECONDS = 0.5
# What a shell ends with that cannot run a command, or does not find it (POSIX, 2.8.2).
CANNOT_BE_RUN = (126, 127)
# What a terminal takes for colours and the like (ECMA-48, 5.4); nothing else does.
CONTROL_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


@dataclass(frozen=True)
class Finished:
    """A child that has ended."""

    returncode: int
    """Its exit status, negative for a signal."""
    seconds: float
    tail: str
    """Its last lines of output."""

    @property
    def outcome(self) -> str:
        """How it ended, in words."""
        return ending(self.returncode)

    def failure(self, what: str, log: Path) -> "StageFailed":
        """The failure of the stage whose work this child was.

        `what` is the sentence's beginning, `log` where the log is found afterwards.
        """
        end = "\n".join(self.tail.split("\n")[-SAID_LINES:])
        last = f" Its last output:\n{end}" if end else " It printed nothing."
        is_transient = self.returncode not in CANNOT_BE_RUN
        return StageFailed(f"{what} {self.outcome}.{last}", self, log, is_transient=is_transient)


def ending(status: int) -> str:
    """How a process ended, in words; the status is negative for a signal."""
    if status >= 0:
        return f"ended with exit code {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


class StageFailed(OrchestrationError):
    """A stage has not done its work; the text names its product or template, and says why.

    `finished` and `log` are of the process that failed, where it was one, and `workspace` is what
    it left behind; `checks` are the results of those that were made. What `is_transient` may go
    well when it is tried again.
    """

    def __init__(
        self,
        text: str,
        finished: Finished | None = None,
        log: Path | None = None,
        *,
        is_transient: bool = False,
    ) -> None:
        super().__init__(text)
        self.finished, self.log, self.is_transient = finished, log, is_transient
        self.workspace: Path | None = None
        self.checks: Sequence[CheckResult] = ()


def first_sentence(error: str) -> str:
    """Of what a failure says, what it begins with: the rest is its output, or a traceback."""
    return error.strip().split("\n")[0].partition(" Its last output:")[0]


def run(
    logger: logging.Logger,
    *,
    command: Sequence[str],
    cwd: Path,
    env: Mapping[str, str],
    log: Path,
    redact: Redactor,
    grace: float = GRACE_SECONDS,
) -> Finished:
    """Runs the command to its end, its output going to `logger`, to the end of `log`, and on.

    Nothing that it started is left when this returns or raises, nor when this process is killed.
    When this is interrupted the command gets SIGTERM, and SIGKILL after `grace` seconds.
    """
    started = time.monotonic()
    output = _Output(logger, log, redact)
    reaper.adopt_orphans()
    unrelated = reaper.descendants({os.getpid()})
    process = None
    try:
        # Whoever is interrupted while it starts would not know what to wait for.
        with _interrupts_held():
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", reaper.__file__, str(grace), *command],
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        output.copy(process)
        returncode = process.wait()
    finally:
        with _interrupts_held(), closing(output):
            if process is not None:
                _end(process, output, grace + REAPER_SECONDS, unrelated)
    return Finished(returncode, time.monotonic() - started, output.tail)


def _end(
    process: subprocess.Popen[bytes], output: "_Output", seconds: float, unrelated: set[int]
) -> None:
    """Has the reaper end its command, and waits for it; after so many seconds it is killed."""
    assert process.stdin and process.stdout
    # Closing its standard input is what tells the reaper to end the command.
    process.stdin.close()
    end = time.monotonic() + seconds
    try:
        output.copy(process, seconds)
    finally:
        # Also where the output had nowhere to go.
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, end - time.monotonic()))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            # The reaper itself was killed: what it looked after is this process's now.
            reaper.end_descendants(except_for=unrelated)
        process.stdout.close()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Has interrupts wait for the block's end: whoever cancels twice must not be faster than it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: held.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


class _Output:
    """Carries a child's output to the log file, to a logger and to this process's standard output,
    without its secrets."""

    def __init__(self, logger: logging.Logger, log: Path, redact: Redactor) -> None:
        self._logger = logger
        # Unbuffered, so that what could not be written is not tried again and again.
        self._file = log.open("ab", buffering=0)
        self._redact = redact
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._pending = ""
        self._event: list[str] = []
        self._event_characters = 0
        self._log_bytes = self._file.tell()
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)

    @property
    def tail(self) -> str:
        """The last lines so far."""
        return "\n".join(self._tail)

    def copy(self, process: subprocess.Popen[bytes], seconds: float = math.inf) -> None:
        """Reads until the other end closes, the process has ended, or `seconds` are over."""
        assert process.stdout
        end = time.monotonic() + seconds
        next_event = time.monotonic() + EVENT_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while time.monotonic() < end:
                if selector.select(timeout=EVENT_SECONDS):
                    chunk = os.read(process.stdout.fileno(), 65_536)
                    self._take(self._decoder.decode(chunk, final=not chunk))
                    if not chunk:
                        return
                if time.monotonic() >= next_event:
                    self._send_event()
                    next_event = time.monotonic() + EVENT_SECONDS
                    if process.poll() is not None:
                        end = min(end, next_event)

    @property
    def _is_full(self) -> bool:
        return self._log_bytes > MAX_LOG_BYTES

    def _take(self, text: str) -> None:
        text = self._pending + text
        if self._is_full:
            self._pending = text[-KEPT_CHARACTERS:]
            return
        whole, newline, self._pending = text.rpartition("\n")
        if newline:
            self._lines(whole)
        while len(self._pending) > MAX_LINE + self._redact.longest:
            # A part of a line that never ends; what is held back may be the start of a secret.
            shown = self._redact.text(self._pending)
            if len(shown) <= MAX_LINE + self._redact.longest:
                self._pending = shown
                return
            self._lines(shown[:MAX_LINE])
            self._pending = shown[MAX_LINE:]

    def _lines(self, text: str) -> None:
        if "\x1b" in text:
            text = CONTROL_SEQUENCE.sub("", text)
        lines = self._redact.text(text).split("\n")
        if "\r" in text:
            # Of a progress bar, what it showed last.
            lines = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in lines]
        if any(len(line) > MAX_LINE for line in lines):
            lines = [
                line[start : start + MAX_LINE]
                for line in lines
                for start in range(0, max(len(line), 1), MAX_LINE)
            ]
        self._tail.extend(line[:500] for line in lines[-TAIL_LINES:])
        text = "\n".join(lines)
        self._write(text)
        if self._event_characters <= MAX_EVENT_CHARACTERS:
            self._event_characters += len(text) + 1
            self._event.append(text)

    def _print(self, text: str) -> None:
        # Not by `print`, which would keep what a full disk has no room for, and try it again.
        with suppress(OSError, ValueError):
            os.write(sys.stdout.fileno(), text.encode(errors="replace") + b"\n")

    def _write(self, text: str) -> None:
        if self._is_full:
            return
        data = text.encode(errors="replace") + b"\n"
        self._log_bytes += len(data)
        try:
            self._file.write(data)
            if self._is_full:
                self._file.write("… from here on only the last lines are kept:\n".encode())
        except OSError as error:
            self._log_bytes = MAX_LOG_BYTES + 1
            self._logger.warning(f"{self._file.name} is not complete: {error.strerror}")

    def _send_event(self) -> None:
        if self._event:
            if self._event_characters > MAX_EVENT_CHARACTERS:
                self._event.append("… this is a lot of output; the rest is in the log file only")
            event, self._event = "\n".join(self._event), []
            self._logger.info(event)
            self._print(event)

    def close(self) -> None:
        """Writes what is still held back."""
        with self._file:
            if len(self._pending) == KEPT_CHARACTERS:
                # It begins anywhere: in a secret, too.
                begun, _, rest = self._pending.partition("\n")
                self._pending = rest or begun[self._redact.longest :]
                self._tail.clear()
            if self._pending:
                self._lines(self._pending.removesuffix("\n"))
                self._pending = ""
            self._send_event()
            if self._is_full:
                with suppress(OSError):
                    self._file.write(self.tail.encode(errors="replace") + b"\n")
