"""Launches a run in a process of its own, forked by `up`, which outlives its code server.

Dagster's own launcher has the code server spawn a fresh interpreter, which takes seconds, dies with
that server, and cannot be asked whether it is alive.
"""

import os
import signal

from dagster import DagsterRun, DefaultRunLauncher

from orchestration.instance.workers import (
    LAUNCHER_TAG,
    WORKER_TAG,
    has_ended,
    is_elsewhere,
    pid_of,
    process_identity,
)
from orchestration.server import control
from orchestration.server.dagster_internals import (
    CheckRunHealthResult,
    LaunchRunContext,
    WorkerStatus,
    run_command,
)


class ForkedRunLauncher(DefaultRunLauncher):
    """Has `up` fork the run's process; where there is no `up`, does what Dagster does."""

    def launch_run(self, context: LaunchRunContext) -> None:
        """Starts the run. Raises RuntimeError when `up` refuses, OSError when it is gone."""
        run = context.dagster_run
        # A run that repeats another has the other's tags.
        launching = {WORKER_TAG: "", LAUNCHER_TAG: process_identity(os.getpid())}
        self._instance.add_run_tags(run.run_id, launching)
        try:
            command = ["dagster", *run_command(run, self._instance)]
        except ImportError as error:
            print(f"warning: starting a run as Dagster does, which is slow: {error}", flush=True)
            command = None
        if command is None or not control.is_served():
            super().launch_run(context)
            return
        origin = run.remote_job_origin
        location = origin.location_name if origin else ""
        answer = control.request(control.Run(run.run_id, location, command))
        tags = {WORKER_TAG: process_identity(answer["pid"])}
        self._instance.add_run_tags(run.run_id, tags)

    def terminate(self, run_id: str) -> bool:
        """Asks the run's process to end; False where there is none any more.

        Raises RuntimeError where the process is another host's.
        """
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        identity = run.tags.get(WORKER_TAG)
        if not identity:
            return bool(super().terminate(run_id))  # type: ignore[no-untyped-call]
        if is_elsewhere(identity):
            host = identity.partition("@")[2] or "another host"
            raise RuntimeError(
                f"The run's process {pid_of(identity)} is on {host}: cancel the run there. Where "
                "that host is gone, force its termination here."
            )
        self._instance.report_run_canceling(run)
        if has_ended(identity):
            self._instance.report_run_canceled(run, "The run's process had ended already.")
            return False
        os.kill(pid_of(identity), signal.SIGTERM)
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        """True: run monitoring finds runs whose process has died."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the run's process is alive; one of somebody else's is taken to be."""
        identity = run.tags.get(WORKER_TAG)
        if not identity or not has_ended(identity):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(
            WorkerStatus.FAILED,
            f"The run's process {pid_of(identity)} has died without saying why.",
        )
