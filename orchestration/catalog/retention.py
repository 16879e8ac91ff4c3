"""How much of what runs leave is kept."""

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, StrictInt

SECONDS = {"d": 86_400.0, "h": 3_600.0}


def seconds_of(age: object) -> float:
    """The seconds of an age such as `90d` or `12h`. Raises ValueError for anything else."""
    match = re.fullmatch(r"(\d{1,6})([dh])", age.strip()) if isinstance(age, str) else None
    if not match:
        raise ValueError("must be a number of days or hours, such as 90d or 12h")
    return int(match[1]) * SECONDS[match[2]]


Age = Annotated[float, PlainValidator(seconds_of, json_schema_input_type=str)]


class Retention(BaseModel):
    """What is kept; all else is removed. The latest good version always stays."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keep: StrictInt = Field(
        default=5, ge=1, description="So many versions of each product and ingest template."
    )
    older_than: Age = Field(
        default=seconds_of("30d"),
        json_schema_extra={"default": "30d"},
        description="Nothing younger is removed, such as 90d or 12h. What is older goes: versions "
        "beyond `keep`, what failed attempts have left, and runs of which no kept version is.",
    )
