"""What a running server is asked over GraphQL, without Dagster."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestration import OrchestrationError
from orchestration.catalog.names import PARTITION_TAG, STAGES, TEAM_FILE, following_sensor
from orchestration.cli.moments import Moment, iso
from orchestration.lifecycle.child import first_sentence
from orchestration.server.graphql import query

LOCATIONS_QUERY = """
{ workspaceOrError { ... on PythonError { message } ... on Workspace { locationEntries {
  name
  locationOrLoadError {
    ... on PythonError { message errorChain { error { message } } }
    ... on RepositoryLocation { dagsterLibraryVersions { name version } repositories {
      assetNodes { isExecutable assetKey { path } }
      schedules {
        name cronSchedule executionTimezone
        scheduleState { status } futureTicks(limit: 1) { results { timestamp } }
      }
      sensors { name sensorState { status } }
    } }
  }
} } } }
"""
RUNS_QUERY = """
query Runs($stages: [AssetKeyInput!]!, $products: [AssetKeyInput!]!) {
  assetsLatestInfo(assetKeys: $stages) {
    assetKey { path }
    latestRun { status stepStats { stepKey status } }
    latestMaterialization { partition timestamp }
  }
  assetNodes(assetKeys: $products) {
    assetKey { path }
    partitionKeys
    owners { ... on TeamAssetOwner { team } ... on UserAssetOwner { email } }
  }
  runsOrError(filter: {statuses: [FAILURE]}, limit: 500) { ... on Runs { results {
    id endTime
    repositoryOrigin { repositoryLocationName }
    assetSelection { path }
    tags { key value }
  } } }
}
"""
# For one run each, under a name of its own.
WHY_QUERY = """%(name)s: logsForRun(runId: "%(id)s") { ... on EventConnection { events {
  ... on ExecutionStepFailureEvent { error { message } failureMetadata { description } }
  ... on RunFailureEvent { message }
} } }
"""


@dataclass(frozen=True)
class LocationStatus:
    """One location, as the server has it."""

    name: str
    assets: int
    error: str | None
    """The first line of why it is broken, or is served without what its team defines."""
    last_runs: Mapping[str, str] = field(default_factory=dict)
    """The state of each stage's last run."""
    owners: Sequence[str] = ()
    schedules: Sequence[Mapping[str, Any]] = ()
    """Each with its `name`, `cron`, `timezone`, whether it `is_on`, and when it is `next`."""
    follows_inputs: bool | None = None
    """Whether it is built when all of its inputs are new; None where it is not to be."""
    partitions: Sequence[str] = ()
    last_good: Moment | None = None
    """The last build that went well."""
    last_failed: Moment | None = None
    """Any of its runs that failed."""

    def described(self) -> dict[str, Any]:
        """As a program reads it, its times in ISO 8601."""
        return {
            **asdict(self),
            "schedules": [{**each, "next": iso(each["next"])} for each in self.schedules],
            "last_good": self.last_good and self.last_good.described(),
            "last_failed": self.last_failed and self.last_failed.described(),
        }


def read_status(url: str) -> list[LocationStatus]:
    """The locations of the server at `url`.

    Raises OrchestrationError when it does not answer.
    """
    workspace = query(url, LOCATIONS_QUERY)["workspaceOrError"]
    if "message" in workspace:
        raise OrchestrationError(f"The server at {url} has no workspace: {workspace['message']}")
    assets = {entry["name"]: _assets(entry) for entry in workspace["locationEntries"]}
    stages = [
        [name, stage]
        for name, paths in assets.items()
        for stage in STAGES
        if [name, stage] in paths
    ]
    products = [path for path in stages if path[-1] == STAGES[0]]
    found = query(
        url,
        RUNS_QUERY,
        {
            "stages": [{"path": path} for path in stages],
            "products": [{"path": path} for path in products],
        },
    )
    latest = {tuple(info["assetKey"]["path"]): info for info in found["assetsLatestInfo"]}
    nodes = {node["assetKey"]["path"][0]: node for node in found["assetNodes"]}
    failures = _failures(url, found["runsOrError"].get("results", ()))
    return [
        LocationStatus(
            name=(name := entry["name"]),
            assets=len(assets[name]),
            error=_first_line(entry),
            last_runs={
                stage: _of_stage(latest.get((name, stage), {}).get("latestRun"), f"{name}__{stage}")
                for stage in STAGES
            },
            owners=[_owner(each) for each in nodes.get(name, {}).get("owners", ())],
            schedules=_schedules(entry),
            follows_inputs=_follows_inputs(entry),
            partitions=nodes.get(name, {}).get("partitionKeys", ()),
            last_good=_last_good(latest.get((name, STAGES[2]))),
            last_failed=failures.get(name),
        )
        for entry in workspace["locationEntries"]
    ]


def _of_stage(run: Mapping[str, Any] | None, step: str) -> str:
    """What became of the stage in its last run."""
    if not run:
        return ""
    if run["status"] not in ("FAILURE", "CANCELED"):
        return str(run["status"])
    steps = {each["stepKey"]: each["status"] for each in run["stepStats"]}
    # One whose turn never came has not failed: what failed is the one before.
    state = "SKIPPED" if step not in steps else steps[step] or run["status"]
    # Who is cancelled is interrupted, which Dagster counts as a failure of the step.
    return run["status"] if state == "FAILURE" else state


def _owner(owner: Mapping[str, str]) -> str:
    return f"team:{owner['team']}" if "team" in owner else owner["email"]


def _last_good(info: Mapping[str, Any] | None) -> Moment | None:
    made = info and info["latestMaterialization"]
    return Moment(made["partition"], float(made["timestamp"]) / 1000) if made else None


def _failures(url: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Moment]:
    """When a run of each location last failed, and why. The runs come latest first."""
    last: dict[str, Mapping[str, Any]] = {}
    for run in runs:
        # One of `materialize` has no origin, but always a selection.
        origin, selected = run["repositoryOrigin"], run["assetSelection"]
        if origin or selected:
            name = origin["repositoryLocationName"] if origin else selected[0]["path"][0]
            last.setdefault(name, run)
    asked = [
        WHY_QUERY % {"name": f"run{n}", "id": run["id"]} for n, run in enumerate(last.values())
    ]
    answers = query(url, f"{{{''.join(asked)}}}") if asked else {}
    return {
        name: Moment(
            next((tag["value"] for tag in run["tags"] if tag["key"] == PARTITION_TAG), None),
            run["endTime"],
            _why(answers[f"run{n}"].get("events", ())),
        )
        for n, (name, run) in enumerate(last.items())
    }


def _why(events: Sequence[Mapping[str, Any]]) -> str | None:
    for event in events:
        said, error = event.get("failureMetadata") or {}, event.get("error") or event
        if sentence := first_sentence(said.get("description") or error.get("message") or ""):
            return sentence
    return None


def _repositories(entry: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = (entry["locationOrLoadError"] or {}).get(
        "repositories", ()
    )
    return found


def _schedules(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": schedule["name"],
            "cron": schedule["cronSchedule"],
            "timezone": schedule["executionTimezone"] or "UTC",
            "is_on": schedule["scheduleState"]["status"] == "RUNNING",
            "next": schedule["futureTicks"]["results"][0]["timestamp"],
        }
        for repository in _repositories(entry)
        for schedule in repository["schedules"]
    ]


def _follows_inputs(entry: Mapping[str, Any]) -> bool | None:
    own = following_sensor(entry["name"])
    return next(
        (
            sensor["sensorState"]["status"] == "RUNNING"
            for repository in _repositories(entry)
            for sensor in repository["sensors"]
            if sensor["name"] == own
        ),
        None,
    )


def _assets(entry: Mapping[str, Any]) -> list[list[str]]:
    return [
        node["assetKey"]["path"]
        for repository in _repositories(entry)
        for node in repository["assetNodes"]
        if node["isExecutable"]
    ]


def _first_line(entry: Mapping[str, Any]) -> str | None:
    location = entry["locationOrLoadError"]
    if location is None:
        return "it is still loading"
    if "message" not in location:
        libraries = {each["name"]: each["version"] for each in location["dagsterLibraryVersions"]}
        return libraries.get(TEAM_FILE)
    chain = [location, *(link["error"] for link in location["errorChain"])]
    lines = str(chain[-1]["message"]).strip().splitlines()
    # Python begins a syntax error with the place, and ends it with what is wrong.
    return lines[0] if not lines[0].startswith("File ") else f"{lines[-1]} ({lines[0]})"
