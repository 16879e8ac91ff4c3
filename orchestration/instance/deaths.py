"""Runs whose process ended before it could say how the run went."""

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from orchestration.instance.workers import LAUNCHER_TAG, WORKER_TAG, has_ended


def note_deaths(instance: DagsterInstance) -> None:
    """Has the runs fail whose process has ended unnoticed, with the `up` that had started it."""
    unfinished = RunsFilter(
        statuses=[DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
    )
    for run in instance.get_runs(unfinished):
        worker = run.tags.get(WORKER_TAG) or run.tags.get(LAUNCHER_TAG)
        if worker and has_ended(worker):
            note_death(instance, run, "was killed, or the machine went down")


def note_death(instance: DagsterInstance, run: DagsterRun, how: str) -> None:
    """Has the run fail, or be cancelled, whose process ended before it could say how it went."""
    if run.status is DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, f"The run's process {how}.")
    elif not run.is_finished:
        instance.report_run_failed(run, f"The run's process {how}.")
