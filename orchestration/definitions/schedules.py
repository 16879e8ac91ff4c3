"""Schedules: when a job runs by itself, and what becomes of the times that were missed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any

from dagster import (
    DagsterInstance,
    DagsterRunStatus,
    DefaultScheduleStatus,
    RunRequest,
    RunsFilter,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SkipReason,
)
from dagster._utils.schedules import cron_string_iterator

from orchestration.catalog.names import build_job, build_partition_set
from orchestration.catalog.schedules import CronSchedule, Schedule, schedule_names
from orchestration.definitions.partitions import add_partition

# Dagster's own names of tags: of what has launched a run, and of the time that this was due.
SCHEDULE_TAG = "dagster/schedule_name"
DUE_TAG = ".dagster/scheduled_execution_time"
# Of a run: the times that it makes up for.
MISSED_TAG = "orchestration/makes_up_for"
# One that is not even queued is one that could not be, and never will be by itself.
UNFINISHED = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]
MAX_TOLD = 5


def build_schedules(slug: str, job: Any, schedules: Sequence[Schedule]) -> list[ScheduleDefinition]:
    """The schedules of a product's builds: each launches the job for its partition."""

    def launching(schedule: Schedule) -> Callable[[ScheduleEvaluationContext], RunRequest]:
        def request(context: ScheduleEvaluationContext) -> RunRequest:
            key = schedule.key_at(context.scheduled_execution_time)
            add_partition(context.instance, build_partition_set(slug), key)
            return RunRequest(partition_key=key)

        return request

    return [
        build_schedule(
            name=name,
            schedule=schedule,
            job=job,
            description=f"Builds {schedule.partition}.",
            request=launching(schedule),
        )
        for name, schedule in schedule_names(build_job(slug), schedules).items()
        if not schedule.follows_inputs
    ]


def build_schedule(
    *,
    name: str,
    schedule: CronSchedule,
    job: Any,
    description: str,
    request: Callable[[ScheduleEvaluationContext], RunRequest],
) -> ScheduleDefinition:
    """A schedule that is on from the start, and launches what `request` gives.

    Where several of its times were missed, that is said, and they are made up for once. What it
    launched before goes on first: meanwhile it launches nothing.
    """

    def execute(context: ScheduleEvaluationContext) -> RunRequest | SkipReason:
        due = context.scheduled_execution_time
        if running := _unfinished_run(context.instance, name, due):
            return SkipReason(
                f"What it launched before has not ended yet: run {running}. Nothing is launched "
                f"for {_told(due)}."
            )
        launched = request(context)
        tags: Mapping[str, str] = {}
        if missed := _missed(context.instance, name, schedule, due):
            tags = {MISSED_TAG: ", ".join(missed)}
            context.log.warning(f"This makes up for what was missed: {tags[MISSED_TAG]}.")
        return launched.with_replaced_attrs(tags={**launched.tags, **tags})

    return ScheduleDefinition(
        name=name,
        job=job,
        cron_schedule=schedule.cron,
        execution_timezone=schedule.timezone,
        default_status=DefaultScheduleStatus.RUNNING,
        description=description,
        execution_fn=execute,
    )


def _unfinished_run(instance: DagsterInstance, name: str, due: datetime) -> str | None:
    runs = instance.get_runs(RunsFilter(tags={SCHEDULE_TAG: name}, statuses=UNFINISHED))
    # One of the same time is there already where the daemon was ended in between.
    others = (run.run_id for run in runs if not _is_at(run.tags.get(DUE_TAG), due))
    return next(others, None)


def _is_at(tag: str | None, due: datetime) -> bool:
    return tag is not None and datetime.fromisoformat(tag) == due


def _missed(
    instance: DagsterInstance, name: str, schedule: CronSchedule, due: datetime
) -> Sequence[str]:
    """The times since the last one that was seen to, as they are told: the last few of them."""
    begun = _last_seen_to(instance, name, due)
    missed = list(_ticks_between(schedule, begun, due)) if begun else []
    shown = [_told(time) for time in missed[-MAX_TOLD:]]
    more = [f"{len(missed) - MAX_TOLD} earlier ones"] if len(missed) > MAX_TOLD else []
    return [*more, *shown]


def _ticks_between(schedule: CronSchedule, begin: datetime, end: datetime) -> Iterator[datetime]:
    """The times between two others, both left out, as Dagster has them where clocks change."""
    after, before = begin.timestamp(), end.timestamp()
    times = cron_string_iterator(after, schedule.cron, schedule.timezone)
    # Of one time zone, Python compares what clocks show.
    until = takewhile(lambda time: time.timestamp() < before, times)
    return (time for time in until if time.timestamp() > after)


def _last_seen_to(instance: DagsterInstance, name: str, due: datetime) -> datetime | None:
    states = instance.all_instigator_state()
    state = next((state for state in states if state.instigator_name == name), None)
    if state is None:
        return None
    ticks = instance.get_ticks(
        state.instigator_origin_id,
        state.selector_id,
        before=(due - timedelta(seconds=1)).timestamp(),
        limit=1,
    )
    # Since it was switched on, at most.
    switched_on = getattr(state.instigator_data, "start_timestamp", None) or 0.0
    times = [switched_on, *(tick.timestamp for tick in ticks)]
    return datetime.fromtimestamp(max(times), due.tzinfo)


def _told(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M %Z")
