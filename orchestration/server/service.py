"""A process of Dagster's that `up` keeps: its log with its name before each line, and its end."""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from orchestration.lifecycle.redaction import Redactor
from orchestration.server.forkserver import Forkserver, Process
from orchestration.server.tail import Tail

MAX_LINE = 65_536


class Service:
    """One process, whose output is shown line by line, its name in front, without secrets."""

    def __init__(
        self,
        name: str,
        forkserver: Forkserver,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        on_reload: Callable[[], bool] | None = None,
        is_expendable: bool = False,
    ) -> None:
        self.name = name
        self.started = time.monotonic()
        self.output, write_end = os.pipe()
        os.set_blocking(self.output, False)
        try:
            self.process: Process = forkserver.start(
                command,
                env=env,
                output=write_end,
                on_reload=on_reload,
                is_expendable=is_expendable,
            )
        except OSError:
            os.close(self.output)
            raise
        finally:
            os.close(write_end)
        self.has_ended = False
        """Whether its end has been told."""
        self.is_shown = False
        """Whether somebody calls `show_output` whenever there is some."""
        self._is_closed = False
        self._pending = b""
        self._tail = Tail()
        self._redact = Redactor(env)

    @property
    def tail(self) -> str:
        """What to say of its end."""
        return str(self._tail)

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.started

    def show_output(self) -> bool:
        """Shows what it has written since; False once nothing more can come."""
        if self._is_closed:
            return False
        try:
            chunk = os.read(self.output, 65_536)
        except BlockingIOError:
            return True
        *lines, self._pending = (self._pending + chunk).split(b"\n")
        if self._pending and (not chunk or len(self._pending) > MAX_LINE):
            lines, self._pending = [*lines, self._pending], b""
        texts = [self._redact.text(line.decode(errors="replace")) for line in lines]
        for text in texts:
            self._tail.add(text)
        sys.stdout.write("".join(f"[{self.name}] {text}\n" for text in texts))
        return bool(chunk)

    def close(self) -> None:
        """Lets go of its output."""
        self._is_closed = True
        os.close(self.output)
