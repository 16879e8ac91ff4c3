"""The processes of runs, which the run launcher asks for."""

import selectors
from collections.abc import Mapping, Sequence
from functools import partial

from orchestration.definitions.abandoned_runs import ABANDONED
from orchestration.definitions.interpreter import Interpreter
from orchestration.instance.home import wait_for_database
from orchestration.lifecycle.child import ending
from orchestration.processes.background import Background, fail_run
from orchestration.processes.forkserver import Forkserver
from orchestration.processes.service import Service


class Runs:
    """All that are at work."""

    def __init__(
        self,
        forkserver: Forkserver,
        selector: selectors.BaseSelector,
        background: Background,
    ) -> None:
        self._forkserver, self._selector, self._background = forkserver, selector, background
        self._running: dict[str, Service] = {}

    @property
    def services(self) -> list[Service]:
        """Their processes."""
        return list(self._running.values())

    def start(
        self,
        run_id: str,
        command: Sequence[str],
        env: Mapping[str, str],
        interpreter: Interpreter | None,
    ) -> int | None:
        """Starts the process of a run that has none, with these variables, and gives its id.

        `interpreter` is that of its location, where it has one for itself. Raises OSError where
        the system refuses a process.
        """
        if self.is_running(run_id):
            # Whoever asked has not heard the answer.
            return self._running[run_id].process.pid
        run = self._running[run_id] = Service(
            f"run {run_id[:8]}",
            lambda output: self._forkserver.start(
                command,
                interpreter=interpreter.path if interpreter else None,
                env=env,
                output=output,
                prepare=wait_for_database,
                is_expendable=True,
            ),
            env,
            self._selector,
        )
        return run.process.pid

    def is_running(self, run_id: str) -> bool:
        """Whether the run has a process here."""
        run = self._running.get(run_id)
        return run is not None and run.process.poll() is None

    def cancel(self, run_id: str) -> bool:
        """Has the run's process end; False where it has none here."""
        is_running = self.is_running(run_id)
        if is_running:
            self._running[run_id].process.terminate()
        return is_running

    def watch(self) -> None:
        """Has those fail whose process ended before it could say how the run went."""
        for run_id, run in list(self._running.items()):
            if (status := run.process.poll()) is None:
                continue
            del self._running[run_id]
            if status == ABANDONED:
                told = "somebody had ended it meanwhile; so has its process, and published nothing"
                print(f"run {run_id}: {told}", flush=True)
            if status in (0, ABANDONED):
                continue
            how = ending(status)
            try:
                self._background.start(partial(fail_run, run_id, how))
            except OSError as error:
                print(
                    f"run {run_id}: its process {how}; nobody to write that down: {error.strerror}",
                    flush=True,
                )
