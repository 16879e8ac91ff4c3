"""A schedule that cannot launch is tried again, and told of once; it launches nothing twice.

Dagster's own scheduler looks, at times that the tests give, with the settings of the project.
"""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster._daemon.daemon  # noqa: F401  (the scheduler cannot be imported before it)
import pytest
import yaml
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, build_sensor_context
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._core.scheduler import DagsterDaemonScheduler
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._scheduler.scheduler import launch_scheduled_runs

from orchestration.definitions import schedules
from orchestration.definitions.operations import alerts
from orchestration.instance.home import prepare_dagster_home
from tests.harness.receivers import Webhook, receiving

LOCATION = """\
from orchestration.definitions.product import product_definitions
defs = product_definitions(id="own", build_command="true", schedule=["0 5 * * *"])
"""
# Ticks of long ago are not kept.
NIGHT = datetime(2031, 3, 10, 5, tzinfo=UTC)


class Daemon:
    """The scheduler, and the sensor that tells, each of which looks when it is told to."""

    def __init__(
        self, instance: DagsterInstance, context: WorkspaceProcessContext, webhook: Webhook
    ) -> None:
        self.instance, self.webhook, self._context = instance, webhook, context

    def minutes(self, number: int, begin: datetime = NIGHT) -> None:
        """Lets these minutes pass."""
        scheduler = self.instance.scheduler
        assert isinstance(scheduler, DagsterDaemonScheduler)
        for minute in range(number):
            for _ in launch_scheduled_runs(
                self._context,
                logging.getLogger("scheduler"),
                begin + timedelta(minutes=minute),
                iteration_times={},
                max_catchup_runs=scheduler.max_catchup_runs,
                max_tick_retries=scheduler.max_tick_retries,
            ):
                pass
            alerts.evaluate_tick(build_sensor_context(self.instance))

    def queued(self) -> list[str]:
        """The times for which a run is queued."""
        runs = self.instance.get_runs()
        queued = [run for run in runs if run.status is DagsterRunStatus.QUEUED]
        return sorted(run.tags[schedules.DUE_TAG][:10] for run in queued)

    def attempts(self) -> int:
        """How often the last tick has failed."""
        [state] = self.instance.all_instigator_state()
        [tick] = self.instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)
        return tick.failure_count


@pytest.fixture
def daemon(
    checkout: Path, lifecycle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Daemon]:
    webhook = Webhook()
    notify = {"urls": [webhook.url], "disk_free_gb": 0}
    product = {"id": "own", "build_command": "true", "owners": ["team:housing"]}
    file = checkout / "products" / "products.yml"
    file.write_text(yaml.safe_dump({"products": [product], "notify": notify}))
    (checkout / "products" / "own").mkdir(exist_ok=True)
    (tmp_path / "own.py").write_text(LOCATION)
    monkeypatch.setenv("DATA_ENGINEERING_ROOT", str(checkout))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    prepare_dagster_home()
    origin = InProcessCodeLocationOrigin(
        LoadableTargetOrigin(python_file=str(tmp_path / "own.py")), location_name="own"
    )
    with (
        receiving(webhook),
        DagsterInstance.get() as instance,
        WorkspaceProcessContext(instance, InProcessWorkspaceLoadTarget(origin)) as context,
    ):
        daemon = Daemon(instance, context, webhook)
        daemon.minutes(1, NIGHT - timedelta(minutes=1))
        yield daemon


def test_a_tick_that_fails_is_tried_again_and_launches_once(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(schedules, "add_partition", None)
        daemon.minutes(3)
    assert daemon.attempts() == 3
    assert daemon.queued() == []
    daemon.minutes(4, NIGHT + timedelta(minutes=3))
    assert daemon.queued() == ["2031-03-10"]


def test_a_schedule_that_goes_on_failing_is_told_once_and_launches_the_next_night(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(schedules, "add_partition", None)
        daemon.minutes(15)
    [message] = daemon.webhook.got
    assert message["title"] == "Schedule build_own_nightly_qa of own: could not launch"
    assert "NoneType" in message["message"]
    assert "Owners: team:housing" in message["message"]
    assert 1 < daemon.attempts() < 15
    daemon.minutes(3, NIGHT + timedelta(days=1))
    assert daemon.queued() == ["2031-03-11"]
    assert daemon.webhook.titles[1:] == ["Schedule build_own_nightly_qa of own is well again"]


def test_a_run_that_could_not_be_queued_is_told_and_keeps_no_other_from_being_launched(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> DagsterRun:
        raise OSError("No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(QueuedRunCoordinator, "submit_run", refuse)
        # With a full disk, that is not written down either.
        broken.setattr(DagsterInstance, "report_run_failed", refuse)
        daemon.minutes(1)
    daemon.minutes(3, NIGHT + timedelta(minutes=1))
    [run] = daemon.instance.get_runs()
    [message] = daemon.webhook.got
    assert f"It could not queue what it was to launch: run {run.run_id}." in message["message"]
    daemon.minutes(3, NIGHT + timedelta(days=1))
    assert daemon.queued() == ["2031-03-11"]
    assert len(daemon.webhook.got) == 2
