"""What a running server is asked over GraphQL, without Dagster."""

from dataclasses import dataclass, field
from typing import Any

from orchestration import OrchestrationError
from orchestration.catalog.names import STAGES
from orchestration.server.graphql import query

LOCATIONS_QUERY = """
{ workspaceOrError { ... on PythonError { message } ... on Workspace { locationEntries {
  name
  locationOrLoadError {
    ... on PythonError { message errorChain { error { message } } }
    ... on RepositoryLocation { repositories { assetNodes { isExecutable assetKey { path } } } }
  }
} } } }
"""
RUNS_QUERY = """
query Runs($keys: [AssetKeyInput!]!) {
  assetsLatestInfo(assetKeys: $keys) { assetKey { path } latestRun { status } }
}
"""


@dataclass(frozen=True)
class LocationStatus:
    """One location, as the server has it."""

    name: str
    assets: int
    error: str | None
    """The first line of why it is broken."""
    last_runs: dict[str, str] = field(default_factory=dict)
    """The state of each stage's last run."""


def read_status(url: str) -> list[LocationStatus]:
    """The locations of the server at `url`.

    Raises OrchestrationError when it does not answer.
    """
    workspace = query(url, LOCATIONS_QUERY)["workspaceOrError"]
    if "message" in workspace:
        raise OrchestrationError(f"The server at {url} has no workspace: {workspace['message']}")
    assets = {entry["name"]: _assets(entry) for entry in workspace["locationEntries"]}
    keys = [
        {"path": path}
        for name, paths in assets.items()
        for path in paths
        if path[0] == name and path[-1] in STAGES
    ]
    info = query(url, RUNS_QUERY, {"keys": keys})["assetsLatestInfo"] if keys else []
    runs = {
        tuple(asset["assetKey"]["path"]): asset["latestRun"]["status"]
        for asset in info
        if asset["latestRun"]
    }
    return [
        LocationStatus(
            name=entry["name"],
            assets=len(assets[entry["name"]]),
            error=_first_line(entry),
            last_runs={stage: runs.get((entry["name"], stage), "") for stage in STAGES},
        )
        for entry in workspace["locationEntries"]
    ]


def _assets(entry: dict[str, Any]) -> list[list[str]]:
    location = entry["locationOrLoadError"] or {}
    return [
        node["assetKey"]["path"]
        for repository in location.get("repositories", [])
        for node in repository["assetNodes"]
        if node["isExecutable"]
    ]


def _first_line(entry: dict[str, Any]) -> str | None:
    location = entry["locationOrLoadError"]
    if location is None:
        return "it is still loading"
    if "message" not in location:
        return None
    chain = [location, *(link["error"] for link in location["errorChain"])]
    lines = str(chain[-1]["message"]).strip().splitlines()
    # Python begins a syntax error with the place, and ends it with what is wrong.
    return lines[0] if not lines[0].startswith("File ") else f"{lines[-1]} ({lines[0]})"
