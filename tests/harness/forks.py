"""Processes that have imported everything already, so that many can be started, and killed."""

import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from orchestration.catalog.checkout import PROJECT_ROOT
from tests.harness.processes import PATIENCE, is_running

PRELOADED = [
    "tests.harness.forks",
    "orchestration.processes.dagster_internals",
    "orchestration.generator.generate",
    "orchestration.definitions.ingest",
    "orchestration.cli.run_process",
    "dagster._core.storage.sqlite_storage",
    "dagster._core.run_coordinator.queued_run_coordinator",
    "orchestration.runs.run_launcher",
    "sqlalchemy.dialects.sqlite",
]
_context = get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


class Fork:
    """A forked process that calls a function, its output going to a file."""

    def __init__(
        self, work: Callable[..., Any], *arguments: Any, log: Path, env: Mapping[str, str]
    ) -> None:
        self.log = log
        self._process: BaseProcess = _context.Process(
            target=_in_fork, args=(work, arguments, log, {**os.environ, **env})
        )
        self._process.start()
        assert self._process.pid
        self.pid = self._process.pid

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its exit status, negative for a signal."""
        self._process.join(seconds)
        assert self._process.exitcode is not None, f"still running:\n{self.output}"
        return self._process.exitcode

    @property
    def is_running(self) -> bool:
        return self._process.is_alive()

    @property
    def output(self) -> str:
        """What it and its children have printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def descendants(self) -> set[int]:
        """All processes that it has started, and those have, by now."""
        return descendants(self.pid)

    def kill(self) -> None:
        """Ends it without a warning."""
        self._process.kill()


def _in_fork(
    work: Callable[..., Any], arguments: tuple[Any, ...], log: Path, env: Mapping[str, str]
) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir(PROJECT_ROOT)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(work(*arguments))


@contextmanager
def forked(
    work: Callable[..., Any], *arguments: Any, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[Fork]:
    """A process that calls the function, and is killed if it is still there at the end."""
    fork = Fork(work, *arguments, log=log, env=env or {})
    try:
        yield fork
    finally:
        fork.kill()
        fork.wait()


def descendants(pid: int) -> set[int]:
    """All processes below the one with that id, as far as they are still known as such."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text(errors="replace")
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found: set[int] = set()
    new = {pid}
    while new := {each for each, parent in parents.items() if parent in new} - found:
        found |= new
    return {each for each in found if is_running(each)}


def on_instructions(
    module: str, strike: Callable[[int], object]
) -> Callable[[FrameType, str, Any], Any]:
    """A trace function that strikes before each of the module's instructions, with its number."""
    numbers = itertools.count()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_globals.get("__name__") != module:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            strike(next(numbers))
        return trace

    return trace


def at_instruction(
    number: int, module: str, strike: Callable[[], object]
) -> Callable[[FrameType, str, Any], Any]:
    """A trace function that strikes before the module's instruction of that number."""
    return on_instructions(module, lambda reached: reached == number and strike())


def kill_self() -> None:
    """The end, without a warning."""
    os.kill(os.getpid(), signal.SIGKILL)


def command_of(pid: int) -> bytes:
    """The command line of a process, empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
