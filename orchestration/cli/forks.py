"""Work in a process of its own, forked from this one once it has imported what takes time.

The process tells what it does in lines of JSON. It has no terminal, so that a Ctrl-C there is not
its business, and it ends when the one that forked it ends, however that does.
"""

import functools
import gc
import json
import os
import selectors
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, cast

from orchestration.processes import console

Message = Mapping[str, Any]
Tell = Callable[[Message], None]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = 130
PRINTED = "printed"


_ours: set[int] = set()
"""This process's ends of the pipes to all its forks."""


@contextmanager
def importing() -> Iterator[None]:
    """Importing what forks share: it stays, so that nothing is gained by looking for garbage in it.

    Of what Dagster takes to import, that is a fifth; looked at in a fork, it is shared no more.
    Ctrl-C ends the process meanwhile: raised in an import, it can become any other error.
    """
    heard = signal.getsignal(signal.SIGINT)
    if heard == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        signal.signal(signal.SIGINT, heard)


class Fork:
    """A process that calls `work` with a function by which to tell something."""

    def __init__(self, work: Callable[[Tell], None]) -> None:
        self._file, write = os.pipe()
        held_read, self._held = os.pipe()
        _ours.update((self._file, self._held))
        self._pending = b""
        self._process = get_context("fork").Process(target=_in_fork, args=(work, write, held_read))
        with _blocked_signals():
            self._process.start()
        os.close(write)
        os.close(held_read)
        self.status: int | None = None
        """Its exit status once it has ended, negative for a signal."""

    def fileno(self) -> int:
        """The file to wait on for more to be read."""
        return self._file

    def read(self) -> Iterator[Message]:
        """What it has told since; blocks where that is nothing. Sets `status` at the end.

        What was printed in it, by whomever, is a message with the line as `printed`.
        """
        chunk = os.read(self._file, 65_536)
        *lines, self._pending = (self._pending + chunk).split(b"\n")
        if not chunk:
            lines = [*lines, self._pending] if self._pending else lines
            self._process.join()
            for file in (self._file, self._held):
                _ours.remove(file)
                os.close(file)
            self.status = self._process.exitcode
        for line in lines:
            if line.startswith(b"{"):
                yield json.loads(line)
            else:
                yield {PRINTED: line.decode(errors="replace")}

    def interrupt(self) -> None:
        """Sends it what Ctrl-C would."""
        if self._process.exitcode is None and self._process.pid:
            os.kill(self._process.pid, signal.SIGINT)


@contextmanager
def _blocked_signals() -> Iterator[None]:
    # One that came before the fork has handlers of its own would be lost on it.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _in_fork(work: Callable[[Tell], None], write: int, held_read: int) -> None:
    os.setsid()
    # While another fork holds one of them, nobody hears that this process has ended.
    for file in _ours:
        os.close(file)
    _ours.clear()
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    for standard in (1, 2):
        os.dup2(write, standard)
    console.settle(waits=True)
    end_with(held_read)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        work(telling(write))
    except KeyboardInterrupt:
        # Whoever wants it to end does not want to hear where it was.
        sys.exit(INTERRUPTED)


def telling(pipe: int) -> Tell:
    """A function that tells the process at the other end of the pipe.

    It is not to be standard output, which Dagster has go to a file while a step is at work.
    """
    stream = console.stream_to(pipe)

    def tell(message: Message) -> None:
        stream.write(json.dumps(message) + "\n")

    return tell


def end_with(file: int) -> None:
    """Has this process end, as by Ctrl-C, when nobody holds the other end of the pipe any more."""

    def wait() -> None:
        os.read(file, 1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()


def each_in_a_fork(
    names: Sequence[str], work: Callable[[str, Tell], None]
) -> Iterator[tuple[str, list[Message], int]]:
    """Does the work for each name in a process of its own, as many at a time as there are CPUs.

    Gives the name, what was told, and the exit status, whoever is first.
    """
    waiting = list(reversed(names))
    going: dict[Fork, tuple[str, list[Message]]] = {}
    with selectors.DefaultSelector() as selector:
        while waiting or going:
            while waiting and len(going) < (os.cpu_count() or 1):
                name = waiting.pop()
                fork = Fork(functools.partial(work, name))
                going[fork] = (name, [])
                selector.register(fork, selectors.EVENT_READ)
            for key, _ in selector.select():
                fork = cast(Fork, key.fileobj)
                going[fork][1].extend(fork.read())
                if fork.status is not None:
                    selector.unregister(fork)
                    name, messages = going.pop(fork)
                    yield name, messages, fork.status
