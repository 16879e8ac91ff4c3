"""When something runs by itself: schedules, as products.yml has them."""

import re
import zoneinfo
from collections.abc import Callable, Sequence
from datetime import datetime
from difflib import get_close_matches
from itertools import chain, count
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictStr

from orchestration.catalog.fields import rendered
from orchestration.catalog.names import STARTER_KEYS, slug_of
from orchestration.catalog.partition_keys import PartitionKeyError, check_key, read_build_key

ON_NEW_INPUTS = "on_new_inputs"
# For trying out whether a template gives a key.
SOME_TIME = datetime(2026, 1, 31, 5, 30)
EXAMPLE = "such as `0 5 * * *` for each day at 5:00"
RANDOM = re.compile(r"(^|[\s,])r", re.IGNORECASE)


def _cron(value: str) -> str:
    if problem := _problem_with_cron(value):
        raise ValueError(f"is no time in cron's notation, {EXAMPLE}: {problem}")
    return value


def _cron_or_inputs(value: str) -> str:
    if value != ON_NEW_INPUTS and (problem := _problem_with_cron(value)):
        if get_close_matches(value, [ON_NEW_INPUTS]):
            raise ValueError(f"is no time in cron's notation; did you mean `{ON_NEW_INPUTS}`?")
        raise ValueError(
            f"is neither a time in cron's notation, {EXAMPLE}, nor `{ON_NEW_INPUTS}`: {problem}"
        )
    return value


def _problem_with_cron(value: str) -> str | None:
    # Imported only where there is a schedule, since it takes time.
    from croniter import CroniterBadDateError, CroniterError, croniter

    if len(value.split()) != 5 and not value.startswith("@"):
        return "it must have five fields"
    if RANDOM.search(value):
        return "it is another time whenever it is read"
    try:
        croniter(value, SOME_TIME).get_next()
    except CroniterBadDateError:
        return "it never comes"
    except CroniterError as error:
        return str(error)
    return None


def _timezone(value: str) -> str:
    try:
        zoneinfo.ZoneInfo(value)
    except (OSError, ValueError, zoneinfo.ZoneInfoNotFoundError) as error:
        raise ValueError("is no time zone, such as America/New_York") from error
    return value


def _partition(value: str) -> str:
    return _giving("partition key", read_build_key, value)


def checked_version(value: str) -> str:
    """A template of versions to ingest. Raises ValueError where it gives none."""
    return _giving("version", check_key, value)


def _giving(what: str, check: Callable[[str], object], template: str) -> str:
    try:
        check(key_at(template, SOME_TIME))
    except PartitionKeyError as error:
        raise ValueError(f"gives no {what}: {error.reason}") from error
    return template


def key_at(template: str, time: datetime) -> str:
    """The partition key that a template over `date` and `time` gives for the time.

    Raises ValueError where it is no template over these.
    """
    return rendered(template, {"date": time.date(), "time": time.time()})


def now(timezone: str) -> datetime:
    """The time it is in the time zone."""
    return datetime.now(zoneinfo.ZoneInfo(timezone))


def _as_list(value: Any) -> Any:
    entries = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(entry, str | dict | CronSchedule) for entry in entries):
        raise ValueError(f"must be a time, {EXAMPLE}, a mapping with `cron`, or a list of these")
    return [{"cron": entry} if isinstance(entry, str) else entry for entry in entries]


Cron = Annotated[StrictStr, AfterValidator(_cron)]
CronOrInputs = Annotated[StrictStr, AfterValidator(_cron_or_inputs)]
Timezone = Annotated[StrictStr, AfterValidator(_timezone)]
Partition = Annotated[StrictStr, AfterValidator(_partition)]


class CronSchedule(BaseModel):
    """A time at which something runs, again and again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cron: Cron = Field(description="The times in cron's notation, such as `0 5 * * *`.")
    timezone: Timezone = Field(default="UTC", description="The time zone of these times.")

    @property
    def kind(self) -> str:
        """A word for what it makes."""
        return "schedule"


class Schedule(CronSchedule):
    """When a product is built by itself, and as which partition."""

    cron: CronOrInputs = Field(
        description="The times in cron's notation, such as `0 5 * * *`; or `on_new_inputs`: "
        "whenever all ingested inputs are newer than the last build of this kind."
    )
    partition: Partition = Field(
        default=STARTER_KEYS[0],
        description="The partition to build: a key, or a Jinja template over `date` and `time` of "
        'the schedule, such as "{{ date }}-nightly".',
    )

    @property
    def follows_inputs(self) -> bool:
        """Whether it has no times of its own, but those at which the inputs are new."""
        return self.cron == ON_NEW_INPUTS

    @property
    def kind(self) -> str:
        """A word for what it makes."""
        return ON_NEW_INPUTS if self.follows_inputs else slug_of(self.partition).strip("_")

    def key_at(self, time: datetime) -> str:
        """The partition to build at that time."""
        return key_at(self.partition, time)


CronSchedules = Annotated[
    tuple[CronSchedule, ...],
    BeforeValidator(_as_list, json_schema_input_type=str | CronSchedule | list[str | CronSchedule]),
]
Schedules = Annotated[
    tuple[Schedule, ...],
    BeforeValidator(_as_list, json_schema_input_type=str | Schedule | list[str | Schedule]),
]
AnySchedule = TypeVar("AnySchedule", bound=CronSchedule)


def schedule_names(job: str, schedules: Sequence[AnySchedule]) -> dict[str, AnySchedule]:
    """The names of a job's schedules in Dagster, which knows by them what is switched off.

    A name says what is made, and not when, so that it stays as it is where the time is changed.
    """
    names: dict[str, AnySchedule] = {}
    for schedule in schedules:
        first = f"{job}_{schedule.kind}"
        others = (f"{first}_{number}" for number in count(2))
        names[next(name for name in chain([first], others) if name not in names)] = schedule
    return names
