"""Starts Dagster's processes: by a fork of this one, or as fresh interpreters.

A fresh interpreter spends a second and 60 MB on importing Dagster, and a workspace has one per
location. This process imports Dagster once; a fork of it shares that memory and starts at once. It
has one thread and never starts gRPC, so that a fork is safe.
"""

import gc
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

from dagster import Definitions

from orchestration.lifecycle.reaper import adopt_orphans
from orchestration.processes import console

SCRIPTS = ("dagster", "dagster-webserver", "dagster-daemon")
# Of at most 1000. To raise it needs no privilege, to lower it does. Source: proc(5).
GIVEN_UP_FIRST = 500
# The supervisor and the broker have some for each location; many systems begin with 256 or 1024.
MOST_OPEN_FILES = 4096
HANDLED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Process(Protocol):
    """A process that was started here."""

    @property
    def pid(self) -> int | None:
        """Its process id."""

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""

    def terminate(self) -> None:
        """Sends SIGTERM."""

    def kill(self) -> None:
        """Sends SIGKILL."""


class _Forked:
    def __init__(self, process: multiprocessing.process.BaseProcess) -> None:
        self._process = process
        self.terminate, self.kill = process.terminate, process.kill

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode


class Forkserver:
    """Starts processes; by forking where `warm`, and that can be done.

    `location` makes definitions such as a code location has; they are loaded before the fork.
    """

    def __init__(self, warm: bool, location: Callable[[], Definitions]) -> None:
        self.warm = warm and self._preload(location)
        self._processes: list[Process] = []

    def _preload(self, location: Callable[[], Definitions]) -> bool:
        try:
            from orchestration.processes import dagster_internals

            dagster_internals.preload()
            dagster_internals.rehearse(location())
            scripts = entry_points(group="console_scripts")
            self._scripts = {name: scripts[name] for name in SCRIPTS}
        except Exception as error:
            # Whatever it is that another release of Dagster does differently.
            reason = f"{type(error).__name__}: {error}"
            print(f"warning: starting stock servers, which is slow: {reason}", flush=True)
            return False
        self._own_modules = {
            name: module.__file__ or os.devnull
            for name, module in sys.modules.items()
            if name.partition(".")[0] == "orchestration"
        }
        self._imported_files = self.own_files
        gc.freeze()
        return True

    def forget_stale_modules(self) -> None:
        """In a fork: has this project's modules imported anew where one of their files is not any
        more what was imported."""
        if self.own_files != self._imported_files:
            for name in self._own_modules:
                sys.modules.pop(name, None)

    @property
    def own_files(self) -> tuple[tuple[str, int, int], ...]:
        """What this project's modules look like on disk."""
        return _files_of(self._own_modules)

    @property
    def pids(self) -> set[int]:
        """The ids of all that it has started and that has not ended."""
        self._processes = [process for process in self._processes if process.poll() is None]
        return {process.pid for process in self._processes if process.pid}

    def start(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        output: int,
        interpreter: Path | None = None,
        prepare: Callable[[], None] = lambda: None,
        is_expendable: bool = False,
        has_session: bool = False,
    ) -> Process:
        """Starts one of Dagster's commands, its output going to the file descriptor `output`.

        `command` begins with the name of a console script, such as `dagster`, which another
        `interpreter` than this one may have to run. `prepare` is called in a fork before it. A
        process that `is_expendable`, and all that it starts, is given up first when the machine
        runs out of memory; one that `has_session` has one of its own.

        Raises OSError where the system refuses a process.
        """
        if interpreter:
            return self.call(
                lambda: _execute(interpreter, command, prepare),
                env=env,
                output=output,
                is_expendable=is_expendable,
                has_session=has_session,
            )
        if not self.warm:
            process: Process = subprocess.Popen(
                [str(Path(sys.executable).with_name(command[0])), *command[1:]],
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=has_session,
                preexec_fn=adopt_orphans,
            )
            self._processes.append(process)
            if is_expendable:
                _give_up_first(process)
            return process
        script = self._scripts[command[0]]

        def work() -> None:
            prepare()
            self.forget_stale_modules()
            sys.argv = list(command)
            script.load()()

        return self.call(
            work, env=env, output=output, is_expendable=is_expendable, has_session=has_session
        )

    def call(
        self,
        work: Callable[[], None],
        *,
        env: Mapping[str, str],
        output: int,
        is_expendable: bool = False,
        has_session: bool = False,
    ) -> Process:
        """Runs a function in a fork; otherwise as `start`."""
        sys.stdout.flush()
        sys.stderr.flush()
        process = multiprocessing.get_context("fork").Process(
            target=_in_fork, args=(work, env, output, has_session)
        )
        before = _open_files()
        # A signal that came before the fork has handlers of its own would be lost on it.
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)
        try:
            process.start()
        except OSError:
            # multiprocessing leaves its pipes open where the system refuses a process.
            for left in _open_files() - before:
                os.close(left)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED_SIGNALS)
        forked = _Forked(process)
        self._processes.append(forked)
        if is_expendable:
            _give_up_first(forked)
        return forked


def allow_open_files() -> None:
    """Lets this process, and what it starts, have as many open files as are needed here."""
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_OPEN_FILES if most == resource.RLIM_INFINITY else min(most, MOST_OPEN_FILES)
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _files_of(modules: Mapping[str, str]) -> tuple[tuple[str, int, int], ...]:
    found = []
    for name, path in modules.items():
        with suppress(OSError):
            status = os.stat(path)
            found.append((name, status.st_mtime_ns, status.st_ctime_ns))
    return tuple(found)


def _give_up_first(process: Process) -> None:
    # Not everywhere, and the process may have ended.
    with suppress(OSError):
        Path(f"/proc/{process.pid}/oom_score_adj").write_text(f"{GIVEN_UP_FIRST}")


def _open_files() -> set[int]:
    found = set()
    for name in os.listdir("/dev/fd"):
        # Not the one that listed them.
        with suppress(OSError):
            os.fstat(int(name))
            found.add(int(name))
    return found


def _in_fork(
    work: Callable[[], None], env: Mapping[str, str], output: int, has_session: bool
) -> None:
    if has_session:
        os.setsid()
    adopt_orphans()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED_SIGNALS)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.closerange(3, MOST_OPEN_FILES)
    console.settle_fork()
    os.environ.clear()
    os.environ.update(env)
    random.seed()
    work()


def _execute(interpreter: Path, command: Sequence[str], prepare: Callable[[], None]) -> None:
    prepare()
    try:
        os.execv(interpreter, [str(interpreter), "-m", *command])
    except OSError as error:
        sys.exit(f"{interpreter} cannot be started: {error.strerror}")
