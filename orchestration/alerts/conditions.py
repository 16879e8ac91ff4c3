"""What can be broken beside runs: locations, schedules, sensors, the cleaning, and disks."""

import json
import shutil
import urllib.request
from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from orchestration.catalog.names import TEAM_FILE
from orchestration.catalog.retention import Retention
from orchestration.lifecycle.child import first_sentence
from orchestration.lifecycle.cleaning import failure_of
from orchestration.lifecycle.results import lifecycle_dir

ASK_SECONDS = 20.0
LOCATIONS_QUERY = """
{ workspaceOrError { ... on Workspace { locationEntries {
  name
  locationOrLoadError {
    ... on RepositoryLocation { dagsterLibraryVersions { name version } }
    ... on PythonError { message errorChain { error { message } } }
  }
} } } }
"""
# Never by way of a proxy, which HTTP_PROXY would mean.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Troubles:
    """What of one kind is broken, by name, each with its sentence."""

    broken: Mapping[str, str]
    unknown: Collection[str] = ()
    """Of which it is not known at the moment."""


def location_troubles(url: str) -> tuple[Troubles, Troubles]:
    """The code locations that cannot be loaded, and those that do without their definitions.py.

    Raises OSError where the webserver is not there.
    """
    body = json.dumps({"query": LOCATIONS_QUERY}).encode()
    request = urllib.request.Request(f"{url}/graphql", body, {"Content-Type": "application/json"})
    with OPENER.open(request, timeout=ASK_SECONDS) as response:
        workspace = json.load(response)["data"]["workspaceOrError"]
    states = {
        entry["name"]: entry["locationOrLoadError"] or {}
        for entry in workspace.get("locationEntries", ())
    }
    loading = {name for name, state in states.items() if not state}
    broken = {name: _in_short(state) for name, state in states.items() if state.get("message")}
    left_out = {
        name: shown["version"]
        for name, state in states.items()
        for shown in state.get("dagsterLibraryVersions") or ()
        if shown["name"] == TEAM_FILE
    }
    return Troubles(broken, loading), Troubles(left_out, loading | broken.keys())


def _in_short(error: dict[str, Any]) -> str:
    """How what a location says begins and ends."""
    messages = [error["message"], *(link["error"]["message"] for link in error["errorChain"])]
    lines = [line.strip() for line in messages[-1].splitlines() if line.strip()]
    return " … ".join(dict.fromkeys([*lines[:1], *lines[-1:]])) or "Nobody knows why."


def failed_ticks(instance: DagsterInstance, kind: str) -> Troubles:
    """The schedules, or the sensors, that could not do what they had to when they were due last.

    `kind` is SCHEDULE or SENSOR. Each is called by its name and its location's.
    """
    storage = instance.schedule_storage
    states = {
        state.selector_id: state
        for state in instance.all_instigator_state()
        if state.is_running and state.instigator_type.value == kind
    }
    if not storage or not states:
        return Troubles({})
    unqueued = set(instance.get_run_ids(RunsFilter(statuses=[DagsterRunStatus.NOT_STARTED])))
    found = {}
    # Of one that is at it this moment, it is the time before that tells.
    for selector_id, ticks in storage.get_batch_ticks(list(states), limit=2).items():
        done = (tick for tick in ticks if tick.status.value != "STARTED")
        if (tick := next(done, None)) and (why := _problem_with(tick, unqueued)):
            origin = states[selector_id].origin
            location = origin.repository_origin.code_location_origin.location_name
            found[f"{origin.instigator_name} of {location}"] = why
    return Troubles(found)


def _problem_with(tick: Any, unqueued: AbstractSet[str]) -> str | None:
    if tick.status.value == "FAILURE":
        error = tick.error
        while error and error.cause:
            error = error.cause
        return (first_sentence(error.message) if error else "") or "Nobody knows why."
    if lost := sorted(unqueued & {*tick.run_ids}):
        return f"It could not queue what it was to launch: run {', '.join(lost)}."
    return None


def failed_cleaning(retention: Retention | None) -> Troubles:
    """The cleaning that `up` does by night, where it is to do one, and the last has failed."""
    why = failure_of(lifecycle_dir()) if retention else ""
    return Troubles({"by night": why} if why else {})


def full_disks(folders: Iterable[Path], free_gb: float) -> Troubles:
    """The folders on whose disk there is less room than that, one for each disk."""
    found = {}
    seen = set()
    for folder in folders:
        device = folder.stat().st_dev
        free = shutil.disk_usage(folder).free / 1e9
        if device not in seen and free < free_gb:
            found[str(folder)] = (
                f"{free:.1f} GB are free, less than {free_gb:g} GB. `python3 -m orchestration "
                "clean` says what could go."
            )
        seen.add(device)
    return Troubles(found)
