"""Groups of ingest templates: what products.yml says of ingest."""

from collections.abc import Iterable
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from orchestration.catalog.checks import Checks
from orchestration.catalog.fields import Owner, Text
from orchestration.catalog.names import slug_of
from orchestration.catalog.retries import Retries
from orchestration.catalog.schedules import CronSchedules, checked_version, key_at

SOURCE = "source"


def _not_empty(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        raise ValueError("is an empty list")
    return values


Patterns = Annotated[tuple[Text, ...], AfterValidator(_not_empty)]
Version = Annotated[Text, AfterValidator(checked_version)]


class IngestGroup(BaseModel):
    """Templates that are ingested together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Text = Field(description="The group's name, unique in the file.")
    templates: Patterns = Field(
        description="Its templates: their names, or patterns of names such as `dcp_*`.",
    )
    schedule: CronSchedules = Field(
        default=(),
        description="When they are ingested by themselves, in cron's notation; or a mapping of "
        "`cron` and `timezone`; or a list of these.",
    )
    version: Version = Field(
        default=SOURCE,
        description="The version to ingest: `source`, which is the one that the source has now, "
        "and only where it is not there yet; or a Jinja template over `date` and `time`, such as "
        "\"{{ date.strftime('%Y%m%d') }}\".",
    )

    checks: Checks = Field(
        default=Checks(),
        description="What it does when a version is empty, or differs from the one before.",
    )
    owners: tuple[Owner, ...] = Field(
        default=(),
        description="Who owns its templates. Default: who owns the products that take them in.",
    )

    @property
    def slug(self) -> str:
        """The name as a Python identifier."""
        return slug_of(self.name)

    @property
    def job(self) -> str:
        """The name of the job that ingests it."""
        return f"ingest_{self.slug}"

    @property
    def asks_source(self) -> bool:
        """Whether each template has a version of its own, which its source knows."""
        return self.version == SOURCE

    def version_at(self, time: datetime) -> str:
        """The version to ingest at that time, where its source is not asked for it."""
        return key_at(self.version, time)

    def members(self, template_ids: Iterable[str]) -> list[str]:
        """Those of the templates that belong to it, in their order."""
        return [name for name in template_ids if any(fnmatchcase(name, p) for p in self.templates)]

    def unmatched(self, template_ids: Iterable[str]) -> list[str]:
        """The names and patterns in `templates` that none of the templates has."""
        known = list(template_ids)
        return [p for p in self.templates if not any(fnmatchcase(name, p) for name in known)]


class Ingest(BaseModel):
    """What products.yml says of ingest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    groups: tuple[IngestGroup, ...] = Field(
        default=(),
        description="Templates that are ingested together, each group with a job of its own.",
    )
    retries: Retries = Field(
        default=Retries(),
        description="How often an ingest is tried again that failed for what may pass. Default: "
        "as `defaults` says.",
    )
    checks: Checks = Field(
        default=Checks(),
        description="What it does when a version is empty, or differs from the one before. "
        "Default: as `defaults` says.",
    )

    def checks_of(self, template_id: str) -> Checks:
        """Those of all templates, with what the first of its groups that has some says instead."""
        said = (
            group.checks.model_dump(exclude_unset=True)
            for group in self.groups
            if "checks" in group.model_fields_set and group.members([template_id])
        )
        return self.checks.model_copy(update=next(said, {}))
