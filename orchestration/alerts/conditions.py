"""What can be broken beside runs: locations, schedules and disks, each with a sentence."""

import json
import shutil
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dagster import DagsterInstance

from orchestration.lifecycle.child import first_sentence

ASK_SECONDS = 20.0
LOCATIONS_QUERY = """
{ workspaceOrError { ... on Workspace { locationEntries {
  name
  locationOrLoadError { ... on PythonError { message errorChain { error { message } } } }
} } } }
"""
# Never by way of a proxy, which HTTP_PROXY would mean.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def broken_locations(url: str) -> dict[str, str]:
    """The code locations that cannot be loaded. Raises OSError where the webserver is not there."""
    body = json.dumps({"query": LOCATIONS_QUERY}).encode()
    request = urllib.request.Request(f"{url}/graphql", body, {"Content-Type": "application/json"})
    with OPENER.open(request, timeout=ASK_SECONDS) as response:
        workspace = json.load(response)["data"]["workspaceOrError"]
    return {
        entry["name"]: _in_short(entry["locationOrLoadError"])
        for entry in workspace.get("locationEntries", ())
        if (entry["locationOrLoadError"] or {}).get("message")
    }


def _in_short(error: dict[str, Any]) -> str:
    """How what a location says begins and ends."""
    messages = [error["message"], *(link["error"]["message"] for link in error["errorChain"])]
    lines = [line.strip() for line in messages[-1].splitlines() if line.strip()]
    return " … ".join(dict.fromkeys([*lines[:1], *lines[-1:]])) or "Nobody knows why."


def failed_schedules(instance: DagsterInstance) -> dict[str, str]:
    """The schedules that could not launch when they were due last."""
    storage = instance.schedule_storage
    schedules = {
        state.selector_id: state
        for state in instance.all_instigator_state()
        if state.is_running and state.instigator_type.value == "SCHEDULE"
    }
    if not storage or not schedules:
        return {}
    found = {}
    for selector_id, ticks in storage.get_batch_ticks(list(schedules), limit=1).items():
        for tick in ticks:
            if tick.status.value == "FAILURE":
                why = first_sentence(tick.error.message) if tick.error else ""
                found[schedules[selector_id].instigator_name] = why or "Nobody knows why."
    return found


def full_disks(folders: Iterable[Path], free_gb: float) -> dict[str, str]:
    """The folders on whose disk there is less room than that, one for each disk."""
    found = {}
    seen = set()
    for folder in folders:
        device = folder.stat().st_dev
        free = shutil.disk_usage(folder).free / 1e9
        if device not in seen and free < free_gb:
            found[str(folder)] = (
                f"{free:.1f} GB are free, less than {free_gb:g} GB. `python -m orchestration "
                "clean` says what could go."
            )
        seen.add(device)
    return found
