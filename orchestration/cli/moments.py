"""When something went well, or did not, or is due, as people and programs read it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True)
class Moment:
    """A time at which something went well, or did not."""

    partition: str | None
    time: float
    """In seconds since the epoch."""
    why: str | None = None
    """Of a failure."""

    def described(self) -> dict[str, Any]:
        """As a program reads it, its time in ISO 8601."""
        return {"partition": self.partition, "time": iso(self.time), "why": self.why}


def schedule_lines(
    schedules: Sequence[Mapping[str, Any]], follows_inputs: bool | None = None
) -> Iterator[str]:
    """A line for each: its `name`, `cron` and `timezone`; in this machine's, when it is `next`.

    One more says whether a product is built when all of its inputs are new, unless that is None.
    """
    for schedule in schedules:
        due = local(schedule["next"]) if schedule["is_on"] else "off"
        times = f"{schedule['cron']}, {schedule['timezone']}"
        yield f"  schedule     {schedule['name']} ({times}): {due}"
    if follows_inputs is not None:
        yield f"  schedule     when all inputs are new{'' if follows_inputs else ': off'}"


def last_lines(last_good: Moment | None, last_failed: Moment | None) -> Iterator[str]:
    """What is known, a line each, in this machine's time."""
    if last_good:
        yield f"  last good    {last_good.partition}, {local(last_good.time)}"
    if last_failed:
        failed = f"{last_failed.partition}, {local(last_failed.time)}"
        is_mended = last_good and last_good.partition == last_failed.partition
        if last_good and is_mended and last_good.time > last_failed.time:
            failed += ", good since"
        yield f"  last failed  {failed}: {last_failed.why or 'nobody knows why'}"


def local(seconds: float) -> str:
    """The time in this machine's zone, to the minute."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M %Z")


def iso(seconds: float) -> str:
    """The time in ISO 8601, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
