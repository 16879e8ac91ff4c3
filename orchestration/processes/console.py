"""Standard output that nothing can break: no text, no closed or full pipe, no lost terminal."""

import atexit
import errno
import io
import os
import select
import stat
import sys
import time

READER_IS_GONE = (errno.EPIPE, errno.EIO, errno.ECONNRESET)
MAX_WAITING = 1_000_000
LAST_SECONDS = 1.0
_is_ending = False


def settle(*, waits: bool) -> None:
    """Has this process print to streams that take any text, also once nobody reads them.

    Where `waits` is False, a reader who is slow, or stopped, does not keep it from its work either:
    what cannot be written yet is kept, and dropped in the end. What it starts writes UTF-8.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Else the next file to be opened would become the standard stream.
            os.open(os.devnull, os.O_RDWR)
    encodings = [getattr(stream, "encoding", None) for stream in (sys.stdout, sys.stderr)]
    sys.stdout, sys.stderr = (
        stream_to(number, encoding=encoding or "utf-8", waits=waits)
        for number, encoding in zip((1, 2), encodings, strict=True)
    )
    os.environ.pop("PYTHONIOENCODING", None)


def stream_to(number: int, *, encoding: str = "utf-8", waits: bool = True) -> io.TextIOWrapper:
    """A stream to the open file of that number which takes any text, also once nobody reads it."""
    return io.TextIOWrapper(
        _Stream(number, waits=waits),  # type: ignore[arg-type]
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=True,
        write_through=True,
    )


def stop_waiting() -> None:
    """Has no stream of this process wait for its reader any more; to be called by what ends it."""
    global _is_ending
    _is_ending = True


def settle_fork() -> None:
    """Has a fork of such a process print to its own standard output, as any program does."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and isinstance(raw := stream.buffer, _Stream):
            raw.wait_from_now_on()
            stream.reconfigure(encoding="utf-8")


class _Stream(io.RawIOBase):
    """One standard stream. All that it is given counts as written."""

    def __init__(self, number: int, *, waits: bool) -> None:
        self._number, self._waits = number, waits
        self._file = number if waits else _own(number)
        self._waiting = bytearray()
        self._lost = 0
        self._has_no_reader = False
        if not waits:
            atexit.register(self._finish)

    def wait_from_now_on(self) -> None:
        self._file, self._waits = self._number, True
        self._waiting.clear()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def write(self, data: bytes) -> int:  # type: ignore[override]
        if self._waits:
            self._write_all(data)
        elif len(self._waiting) + len(data) > MAX_WAITING:
            self._lost += len(data)
        else:
            self._waiting += data
            self.flush()
        return len(data)

    def _write_all(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                if self._is_ready(0 if self._has_no_reader else LAST_SECONDS):
                    # What is ready takes so much at once.
                    rest = rest[os.write(self._file, rest[: select.PIPE_BUF]) :]
                elif _is_ending:
                    self._has_no_reader = True
                    return
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno in READER_IS_GONE:
                    return
                raise

    def flush(self) -> None:
        try:
            # What is ready takes so much at once.
            while self._waiting and self._is_ready(0):
                written = os.write(self._file, self._waiting[: select.PIPE_BUF])
                del self._waiting[:written]
                if self._lost and not self._waiting:
                    self._waiting += f"… nobody read {self._lost} more bytes\n".encode()
                    self._lost = 0
        except BlockingIOError:
            return
        except OSError:
            self._waiting.clear()

    def _is_ready(self, seconds: float) -> bool:
        return bool(select.select([], [self._file], [], seconds)[1])

    def _finish(self) -> None:
        end = time.monotonic() + LAST_SECONDS
        while self._waiting and (left := end - time.monotonic()) > 0:
            self._is_ready(left)
            self.flush()


def _own(number: int) -> int:
    """The stream opened anew, so that its not waiting does not reach others who write to it."""
    mode = os.fstat(number).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        return number
    try:
        return os.open(f"/dev/fd/{number}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return number
