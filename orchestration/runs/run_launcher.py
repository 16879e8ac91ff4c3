"""Launches a run in a process of its own, forked by `up`, which outlives its code server.

Dagster's own launcher has the code server spawn a fresh interpreter, which takes seconds, dies with
that server, and cannot be asked whether it is alive.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from dagster import DagsterRun, DagsterRunStatus, DefaultRunLauncher

from orchestration.instance.workers import (
    LAUNCHER_TAG,
    WORKER_TAG,
    has_ended,
    is_elsewhere,
    pid_of,
    process_identity,
)
from orchestration.processes import control
from orchestration.processes.dagster_internals import (
    CheckRunHealthResult,
    LaunchRunContext,
    WorkerStatus,
    run_command,
)
from orchestration.runs.run_protocol import (
    GRPC_INFO_TAG,
    HostAway,
    cancel_on,
    host_of,
    runs_on,
    start_elsewhere,
)

# A host that was cut off for 20 s is asked again before that, by a monitoring that looks every 15.
PATIENCE_SECONDS = 25.0
SILENT_SECONDS = 5.0
# A run that somebody cancels for the second time does not fail.
VERDICT_SECONDS = 2.0


class ForkedRunLauncher(DefaultRunLauncher):
    """Has `up` fork the run's process, here or on the host that serves the run's location.

    Where there is no `up`, it does what Dagster does.
    """

    def __init__(self, inst_data: Any = None) -> None:
        super().__init__(inst_data)
        # Of each host that does not answer: since when, and when it was asked last.
        self._silent: dict[str, tuple[float, float]] = {}

    def launch_run(self, context: LaunchRunContext) -> None:
        """Starts the run. Raises RuntimeError when `up` refuses, OSError when it is gone."""
        run = context.dagster_run
        # A run that repeats another has the other's tags.
        launching = {WORKER_TAG: "", LAUNCHER_TAG: process_identity(os.getpid())}
        if GRPC_INFO_TAG in run.tags:
            launching[GRPC_INFO_TAG] = ""
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
        if host := answer.get("elsewhere"):
            # This process may end while that host goes on.
            self._instance.add_run_tags(run.run_id, {LAUNCHER_TAG: ""})
            start_elsewhere(self._instance, run, socket=answer["socket"], host=host)
            threading.Thread(target=self._see_start, args=(run.run_id, host), daemon=True).start()
            return
        tags = {WORKER_TAG: process_identity(answer["pid"])}
        self._instance.add_run_tags(run.run_id, tags)

    def _see_start(self, run_id: str, host: str) -> None:
        """Has the run fail whose host has died before it began: monitoring would wait longer."""
        while True:
            time.sleep(SILENT_SECONDS)
            run = self._instance.get_run_by_id(run_id)
            if run is None or run.status is not DagsterRunStatus.STARTING:
                return
            health = self._health_on(host, run)
            if health.status is WorkerStatus.FAILED:
                self._instance.report_run_failed(run, health.msg)
                return

    def terminate(self, run_id: str) -> bool:
        """Asks the run's process to end; False where there is none any more.

        Also where that is out of reach, which the run's events say then.
        """
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        if host := host_of(run.tags):
            return self._terminate_on(host, run)
        identity = run.tags.get(WORKER_TAG)
        if not identity:
            if not run.tags.get(GRPC_INFO_TAG):
                self._instance.report_run_canceling(run)
                return False
            return bool(super().terminate(run_id))  # type: ignore[no-untyped-call]
        if is_elsewhere(identity):
            host = identity.partition("@")[2] or "another host"
            return self._refuse(
                run,
                f"its process {pid_of(identity)} is on {host}, outside of any `up`: cancel it "
                "there. Where that host is gone, force its termination here.",
            )
        self._instance.report_run_canceling(run)
        if has_ended(identity):
            self._instance.report_run_canceled(run, "The run's process had ended already.")
            return False

        def ask() -> bool:
            if has_ended(identity):
                return False
            os.kill(pid_of(identity), signal.SIGTERM)
            return True

        return self._ask_to_end(run, ask)

    def _ask_to_end(self, run: DagsterRun, ask: Callable[[], bool]) -> bool:
        if run.status is not DagsterRunStatus.CANCELING:
            return ask()
        # By run monitoring, which says that the run has failed as soon as this returns. A process
        # that ended before that would say that it was cancelled.
        threading.Thread(target=self._ask_once_failed, args=(run.run_id, ask), daemon=True).start()
        return True

    def _ask_once_failed(self, run_id: str, ask: Callable[[], bool]) -> None:
        end = time.monotonic() + VERDICT_SECONDS
        while time.monotonic() < end:
            run = self._instance.get_run_by_id(run_id)
            if run is None or run.is_finished:
                break
            time.sleep(0.05)
        # On a host that has just gone it ends itself, as the run has.
        with suppress(HostAway):
            ask()

    def _refuse(self, run: DagsterRun, why: str) -> bool:
        # Where the run is shown: what is raised here is told to nobody.
        self._instance.report_engine_event(f"The run cannot be cancelled: {why}", run)
        return False

    def _terminate_on(self, host: str, run: DagsterRun) -> bool:
        try:
            has_run = runs_on(host, run.run_id)
        except HostAway as error:
            return self._refuse(
                run,
                f"{host}, where it is, does not answer ({error}). Where that lasts, it fails by "
                "itself within a minute; or force its termination.",
            )
        self._instance.report_run_canceling(run)
        if not has_run:
            self._instance.report_run_canceled(run, "The run's process had ended already.")
            return False
        return self._ask_to_end(run, partial(cancel_on, host, run.run_id))

    @property
    def supports_check_run_worker_health(self) -> bool:
        """True: run monitoring finds runs whose process has died."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the run's process is alive; one of somebody else's is taken to be."""
        if host := host_of(run.tags):
            return self._health_on(host, run)
        identity = run.tags.get(WORKER_TAG)
        if not identity or not has_ended(identity):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(
            WorkerStatus.FAILED,
            f"The run's process {pid_of(identity)} has died without saying why.",
        )

    def _health_on(self, host: str, run: DagsterRun) -> CheckRunHealthResult:
        now = time.monotonic()
        since, asked = self._silent.get(host, (now, 0.0))
        if now - asked > PATIENCE_SECONDS:
            # What it was before is not known, since nobody has asked.
            since = now
        try:
            if now - asked < SILENT_SECONDS:
                raise TimeoutError
            has_run = runs_on(host, run.run_id)
        except (HostAway, TimeoutError) as error:
            # Of many runs on a host that is off, the first is asked after.
            self._silent[host] = (since, asked if isinstance(error, TimeoutError) else now)
            if now - since < PATIENCE_SECONDS:
                return CheckRunHealthResult(WorkerStatus.RUNNING)
            what = f"{host}, where it was, has not answered for {now - since:.0f} seconds"
            return CheckRunHealthResult(WorkerStatus.FAILED, f"The run was given up: {what}.")
        self._silent.pop(host, None)
        if has_run:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(
            WorkerStatus.FAILED, f"{host} has no process of the run any more."
        )
