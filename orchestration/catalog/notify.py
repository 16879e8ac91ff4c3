"""Who is told when something breaks."""

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
)
from pydantic_core import PydanticCustomError

from orchestration.catalog.fields import Text

URLS_VARIABLE = "APPRISE_URLS"
"""The variable of addresses, with spaces between them, that apprise's own command reads."""


def _address(value: str) -> str:
    if "://" not in value:
        # Of a ValueError the value would be told, too, and what it says is for one service only.
        raise PydanticCustomError(
            "address", "must be a URL of apprise, such as mailto://… or slack://…"
        )
    return value


def _time_of_day(value: str) -> str:
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value):
        raise ValueError("must be a time of the day in quotes, such as '08:00'")
    return value


class Notify(BaseModel):
    """Who is told when something breaks, and when it is well again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    urls: tuple[Annotated[Text, AfterValidator(_address)], ...] = Field(
        default=(),
        description="Where to, as URLs of apprise: Slack, Teams, mail, a webhook and many more. "
        f"Those in the variable {URLS_VARIABLE}, which nobody commits, are added.",
    )
    digest: Annotated[Text, AfterValidator(_time_of_day)] | None = Field(
        default=None,
        description="When to tell once a day how it all went, such as '08:00', in the time of the "
        "machine. Default: never.",
    )
    disk_free_gb: StrictInt | StrictFloat = Field(
        default=5, ge=0, description="A disk with less room than that is told of, too."
    )
    link: Annotated[Text, AfterValidator(_address)] | None = Field(
        default=None,
        description="Where people find the UI, for links to runs. Default: where `up` listens.",
    )


def _as_mapping(value: Any) -> Any:
    return {"urls": value} if isinstance(value, list) else value


NotifyField = Annotated[
    Notify | None,
    BeforeValidator(_as_mapping, json_schema_input_type=list[str] | Notify | None),
]


def is_anybody_told(notify: Notify | None, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether there is an address, in products.yml or in the environment."""
    return bool(addresses(notify, environ))


def addresses(notify: Notify | None, environ: Mapping[str, str] = os.environ) -> list[str]:
    """All addresses, each once: those in products.yml, then those in the environment."""
    more = re.split(r"[\s,]+(?=[\w+.-]+://)", environ.get(URLS_VARIABLE, "").strip())
    return list(dict.fromkeys([*(notify.urls if notify else ()), *filter(None, more)]))
