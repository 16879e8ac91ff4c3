"""A process of Dagster's that `up` keeps: its log with its name before each line, and its end."""

import os
import selectors
import sys
import time
from collections.abc import Callable, Mapping
from functools import lru_cache

from orchestration.lifecycle.child import CONTROL_SEQUENCE
from orchestration.lifecycle.redaction import Redactor
from orchestration.processes.forkserver import Process
from orchestration.processes.tail import Tail

MAX_LINE = 65_536


class Service:
    """One process, whose output is shown line by line, its name in front, without secrets."""

    def __init__(
        self,
        name: str,
        start: Callable[[int], Process],
        env: Mapping[str, str],
        selector: selectors.BaseSelector,
    ) -> None:
        """Has `start` start it, its output going to the file descriptor that this is given.

        `env` is its environment, whose secrets are not shown; `selector` tells when there is
        output. Raises OSError where the system refuses a process.
        """
        self.name = name
        self.started = time.monotonic()
        self._output, write_end = os.pipe()
        os.set_blocking(self._output, False)
        try:
            self.process = start(write_end)
        except OSError:
            os.close(self._output)
            raise
        finally:
            os.close(write_end)
        self._pending = b""
        self._tail = Tail()
        self._redact = _redactor(tuple(env.items()))
        self._selector = selector
        self._is_closed = False
        selector.register(self._output, selectors.EVENT_READ, self._show)

    @property
    def tail(self) -> str:
        """What to say of its end."""
        return str(self._tail)

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.started

    def drain(self) -> None:
        """Shows all that it has written by now; what it has left behind may write for ever."""
        # A pipe holds no more than is read at once, and its end is seen by the next reading.
        for _ in range(2):
            if not self._show():
                return

    def _show(self) -> bool:
        """Shows a part of what it has written; False where there is nothing at the moment."""
        if self._is_closed:
            return False
        try:
            chunk = os.read(self._output, 65_536)
        except BlockingIOError:
            return False
        *lines, self._pending = (self._pending + chunk).split(b"\n")
        if self._pending and (not chunk or len(self._pending) > MAX_LINE):
            lines, self._pending = [*lines, self._pending], b""
        # Dagster colours its lines for a terminal wherever they go.
        shown = (CONTROL_SEQUENCE.sub("", line.decode(errors="replace")) for line in lines)
        texts = [self._redact.text(text) for text in shown]
        for text in texts:
            self._tail.add(text)
        sys.stdout.write("".join(f"[{self.name}] {text}\n" for text in texts))
        if not chunk:
            self._is_closed = True
            self._selector.unregister(self._output)
            os.close(self._output)
        return bool(chunk)


@lru_cache(maxsize=8)
def _redactor(env: tuple[tuple[str, str], ...]) -> Redactor:
    # Hundreds of processes have one environment.
    return Redactor(dict(env))
