"""What a run that has ended tells of products and templates."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dagster import AssetKey, DagsterEventType, DagsterInstance, DagsterRun

from orchestration import OrchestrationError
from orchestration.catalog.names import INGEST, PARTITION_TAG, REPOSITORY_TAG, STAGES
from orchestration.catalog.partition_keys import read_build_key
from orchestration.lifecycle.child import first_sentence


@dataclass
class Told:
    """What a run tells of one subject."""

    name: str
    """Of the subject, as people read it."""
    slug: str | None = None
    """Of the product whose location it is in, where it is one's."""
    planned: list[str] = field(default_factory=list)
    """The assets that the run was to make."""
    missing: list[str] = field(default_factory=list)
    """Those of them that it has not made."""


def told_by(instance: DagsterInstance, run: DagsterRun) -> list[Told]:
    """What the run was to make, by subject: a product's builds of one note, or a template.

    A run that makes no assets is a subject by its job.
    """
    found: dict[str, Told] = {}
    made = set(_assets(instance, run, DagsterEventType.ASSET_MATERIALIZATION))
    # What failed first is named, of a product the earliest stage.
    for key in sorted(_planned(instance, run), key=_place):
        subject = _subject(key, run)
        told = found.setdefault(subject.name, subject)
        told.planned.append(key.to_user_string())
        if key not in made:
            told.missing.append(key.to_user_string())
    location = location_of(run)
    job = [run.job_name]
    missing = job if run.is_failure else []
    return list(found.values()) or [Told(f"{location}: {run.job_name}", location, job, missing)]


def _place(key: AssetKey) -> int:
    last = key.path[-1]
    return STAGES.index(last) if last in STAGES else len(STAGES)


def location_of(run: DagsterRun) -> str:
    """The name of the run's code location; empty where it is not known."""
    # What a server has launched has no such tag, but in the database's table of tags.
    if run.remote_job_origin:
        return run.remote_job_origin.location_name
    return run.tags.get(REPOSITORY_TAG, "").rpartition("@")[2]


def _planned(instance: DagsterInstance, run: DagsterRun) -> list[AssetKey]:
    planned = _assets(instance, run, DagsterEventType.ASSET_MATERIALIZATION_PLANNED)
    # One that has never begun has planned nothing.
    return list(dict.fromkeys(planned)) or sorted(run.asset_selection or ())


def _assets(
    instance: DagsterInstance, run: DagsterRun, kind: DagsterEventType
) -> Iterator[AssetKey]:
    for record in instance.get_records_for_run(run.run_id, of_type=kind).records:
        event = record.event_log_entry.dagster_event
        if event and event.asset_key:
            yield event.asset_key


def _subject(key: AssetKey, run: DagsterRun) -> Told:
    first, last = key.path[0], key.path[-1]
    if first == INGEST:
        return Told(key.to_user_string())
    if last not in STAGES:
        location = location_of(run)
        return Told(f"{location}: {key.to_user_string()}", location)
    partition = run.tags.get(PARTITION_TAG, "")
    try:
        # Those of one note, such as each night's, are one thing in the course of time.
        note = read_build_key(partition).note
    except OrchestrationError:
        note = partition
    return Told(f"{first} ({note})", slug=first)


def reason(instance: DagsterInstance, run: DagsterRun, told: Told) -> str:
    """Why the run has failed: the sentence of the subject's own step, else the first there is."""
    reasons = list(reasons_of(instance, run.run_id))
    own = tuple(f"Template {name.rpartition('/')[2]!r}" for name in told.missing)
    for sentence in reasons:
        if sentence.startswith(own):
            return sentence
    return next(iter(reasons), "It was ended before it could say why.")


def reasons_of(instance: DagsterInstance, run_id: str) -> Iterator[str]:
    """Why the run has failed: a sentence for each step that did, then one for the run itself."""
    for kind in (DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE):
        for record in instance.get_records_for_run(run_id, of_type=kind).records:
            event = record.event_log_entry.dagster_event
            if event and event.is_step_failure:
                said = event.step_failure_data.user_failure_data
                error = event.step_failure_data.error
                cause = error and (error.cause or error)
                text = (said and said.description) or (cause and cause.message) or ""
            else:
                text = (event and event.message) or ""
            if sentence := first_sentence(text):
                yield sentence


def owners_of(slug: str | None, owners: Mapping[str, Sequence[str]]) -> str:
    """The line of a message that says whose it is; empty where nobody owns it."""
    names = ", ".join(owners.get(slug or "", ()))
    return f"Owners: {names}" if names else ""
