"""What a schedule launches, at which times, and what it says of those that were missed."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from dagster import (
    DagsterInstance,
    DagsterRunStatus,
    RunRequest,
    ScheduleDefinition,
    build_schedule_context,
)
from dagster._core.remote_origin import (
    GrpcServerCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
    TickData,
    TickStatus,
)
from dagster._utils.schedules import schedule_execution_time_iterator

from orchestration.definitions.product import product_definitions
from orchestration.definitions.schedules import DUE_TAG, MISSED_TAG, SCHEDULE_TAG

NIGHT = datetime(2026, 3, 10, 5, tzinfo=UTC)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


def schedules(*entries: Any) -> dict[str, ScheduleDefinition]:
    definitions = product_definitions(id="a b", build_command="make", schedule=list(entries))
    return {schedule.name: schedule for schedule in definitions.get_repository_def().schedule_defs}


def the_schedule(**fields: str) -> ScheduleDefinition:
    [schedule] = schedules({"cron": "0 5 * * *", **fields}).values()
    return schedule


def evaluate(schedule: ScheduleDefinition, instance: DagsterInstance, due: datetime = NIGHT) -> Any:
    definitions = product_definitions(id="a b", build_command="make")
    context = build_schedule_context(
        instance=instance,
        scheduled_execution_time=due.astimezone(ZoneInfo(schedule.execution_timezone or "UTC")),
        repository_def=definitions.get_repository_def(),
    )
    return schedule.evaluate_tick(context)


def request(
    schedule: ScheduleDefinition, instance: DagsterInstance, due: datetime = NIGHT
) -> RunRequest:
    [request] = evaluate(schedule, instance, due).run_requests
    return request  # type: ignore[no-any-return]


def test_it_is_on_from_the_start_and_builds_nightly_qa_whose_key_it_makes(
    instance: DagsterInstance,
) -> None:
    schedule = the_schedule()
    assert schedule.name == "build_a_b_nightly_qa"
    assert schedule.default_status.value == "RUNNING"
    for _ in range(2):
        assert request(schedule, instance).partition_key == "nightly_qa"
    assert instance.get_dynamic_partitions("build_a_b") == ["nightly_qa"]


def test_a_template_gives_each_night_a_key_of_its_own_on_the_schedules_own_date(
    instance: DagsterInstance,
) -> None:
    schedule = the_schedule(timezone="America/New_York", partition="{{ date }}-nightly")
    for hours in (-2, 0, 24):
        request(schedule, instance, NIGHT + timedelta(hours=hours))
    assert instance.get_dynamic_partitions("build_a_b") == [
        "2026-03-09-nightly",
        "2026-03-10-nightly",
        "2026-03-11-nightly",
    ]


def test_a_schedules_name_does_not_depend_on_its_time_or_on_the_others() -> None:
    one = {"cron": "0 5 * * *"}
    two = {"cron": "0 7 * * *", "partition": "{{ date }}-nightly"}
    again = {"cron": "0 9 * * *"}
    assert set(schedules(one, two, again)) == {
        "build_a_b_nightly_qa",
        "build_a_b_date_nightly",
        "build_a_b_nightly_qa_2",
    }
    assert set(schedules(two)) == {"build_a_b_date_nightly"}


@pytest.mark.parametrize(
    ("cron", "day", "expected"),
    [
        # 2:30 does not exist on the first of these days; 1:30 comes twice on the second.
        ("30 2 * * *", datetime(2026, 3, 7, 12, tzinfo=UTC), ["2026-03-08 03:00 EDT"]),
        ("30 1 * * *", datetime(2026, 10, 31, 12, tzinfo=UTC), ["2026-11-01 01:30 EST"]),
        ("0 5 * * *", datetime(2026, 3, 7, 12, tzinfo=UTC), ["2026-03-08 05:00 EDT"]),
    ],
)
def test_a_night_of_changing_clocks_is_one_night(
    cron: str, day: datetime, expected: Sequence[str]
) -> None:
    [schedule] = schedules({"cron": cron, "timezone": "America/New_York"}).values()
    times = schedule_execution_time_iterator(
        day.timestamp(), str(schedule.cron_schedule), schedule.execution_timezone
    )
    until = day + timedelta(days=1)
    found = [time for time, _ in zip(times, range(3), strict=False) if time < until]
    assert [time.strftime("%Y-%m-%d %H:%M %Z") for time in found] == expected


def test_while_what_it_launched_goes_on_it_launches_nothing_and_says_so(
    instance: DagsterInstance,
) -> None:
    schedule = the_schedule()
    tags = {
        SCHEDULE_TAG: schedule.name,
        DUE_TAG: (NIGHT - timedelta(days=1)).isoformat(),
    }
    job = product_definitions(id="a b", build_command="make").resolve_job_def("build_a_b")
    run = instance.create_run_for_job(job, tags=tags, status=DagsterRunStatus.STARTED)
    skipped = evaluate(schedule, instance)
    assert not skipped.run_requests
    assert skipped.skip_message == (
        f"What it launched before has not ended yet: run {run.run_id}. Nothing is launched for "
        "2026-03-10 05:00 UTC."
    )
    instance.report_run_failed(run)
    assert request(schedule, instance).partition_key == "nightly_qa"


def test_a_tick_that_was_cut_short_finds_its_own_run_again(instance: DagsterInstance) -> None:
    schedule = the_schedule()
    tags = {SCHEDULE_TAG: schedule.name, DUE_TAG: NIGHT.isoformat()}
    job = product_definitions(id="a b", build_command="make").resolve_job_def("build_a_b")
    instance.create_run_for_job(job, tags=tags, status=DagsterRunStatus.STARTED)
    assert request(schedule, instance)


def remember(instance: DagsterInstance, schedule: ScheduleDefinition, *nights: datetime) -> None:
    """Has the instance know the schedule as on since January, with ticks in these nights."""
    server = GrpcServerCodeLocationOrigin("localhost", socket="s", location_name="a_b")
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(server, "__repository__"), schedule.name)
    data = ScheduleInstigatorData("0 5 * * *", datetime(2026, 1, 1, tzinfo=UTC).timestamp())
    state = InstigatorState(
        origin, InstigatorType.SCHEDULE, InstigatorStatus.DECLARED_IN_CODE, data
    )
    instance.add_instigator_state(state)
    for night in nights:
        instance.create_tick(
            TickData(
                instigator_origin_id=origin.get_id(),
                instigator_name=schedule.name,
                instigator_type=InstigatorType.SCHEDULE,
                status=TickStatus.SUCCESS,
                run_ids=[],
                timestamp=night.timestamp(),
                selector_id=origin.get_selector().get_id(),
            )
        )


def test_the_run_that_makes_up_for_missed_nights_says_which(instance: DagsterInstance) -> None:
    schedule = the_schedule()
    remember(instance, schedule, NIGHT - timedelta(days=3), NIGHT)
    assert request(schedule, instance).tags[MISSED_TAG] == (
        "2026-03-08 05:00 UTC, 2026-03-09 05:00 UTC"
    )


def test_of_many_missed_nights_the_last_are_named(instance: DagsterInstance) -> None:
    schedule = the_schedule()
    remember(instance, schedule)
    missed = request(schedule, instance).tags[MISSED_TAG]
    assert missed.startswith("63 earlier ones, 2026-03-05 05:00 UTC, ")


def test_a_night_after_the_one_before_makes_up_for_nothing(instance: DagsterInstance) -> None:
    schedule = the_schedule()
    remember(instance, schedule, NIGHT - timedelta(days=1), NIGHT)
    assert MISSED_TAG not in request(schedule, instance).tags


def test_a_missed_night_in_which_an_hour_comes_twice_is_told_once(
    instance: DagsterInstance,
) -> None:
    schedule = the_schedule(cron="30 1 * * *", timezone="America/New_York")
    due = datetime(2026, 11, 2, 6, 30, tzinfo=UTC)
    remember(instance, schedule, due - timedelta(days=2, hours=1))
    assert request(schedule, instance, due).tags[MISSED_TAG] == "2026-11-01 01:30 EST"
