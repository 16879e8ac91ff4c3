"""Runs in a running `up`: launched, followed and cancelled over GraphQL."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestration import OrchestrationError
from orchestration.catalog.names import ASSET_JOB, INGEST, PARTITION_TAG, build_job
from orchestration.cli.forks import Message
from orchestration.cli.runs import Display, Run, State, check_options
from orchestration.server.graphql import Refused, query

POLL_SECONDS = 0.5
# For how long the server may answer nothing but errors: as long as its runs wait for a database
# that is away.
PATIENCE_SECONDS = 1800.0
ASSETS_QUERY = """
query Assets($keys: [AssetKeyInput!]!) {
  assetNodes(assetKeys: $keys) {
    assetKey { path }
    opNames
    configField { configType { ... on CompositeConfigType { fields { name } } } }
    repository { name location { name } }
  }
}
"""
ADD_PARTITION = """
mutation Add($location: RepositorySelector!, $set: String!, $key: String!) {
  addDynamicPartition(repositorySelector: $location, partitionsDefName: $set, partitionKey: $key) {
    __typename
    ... on PythonError { message }
    ... on UnauthorizedError { message }
  }
}
"""
DELETE_PARTITION = """
mutation Delete($location: RepositorySelector!, $set: String!, $key: String!) {
  deleteDynamicPartitions(
    repositorySelector: $location, partitionsDefName: $set, partitionKeys: [$key]
  ) { __typename }
}
"""
LAUNCH = """
mutation Launch($parameters: ExecutionParams!) {
  launchPipelineExecution(executionParams: $parameters) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""
EVENTS_QUERY = """
query Events($id: ID!, $cursor: String) {
  logsForRun(runId: $id, afterCursor: $cursor) { ... on EventConnection { cursor events {
    __typename
    ... on MessageEvent { message stepKey timestamp }
    ... on ExecutionStepFailureEvent {
      error { message className }
      failureMetadata { description metadataEntries { label ... on PathMetadataEntry { path } } }
    }
    ... on MaterializationEvent { metadataEntries {
      label
      ... on PathMetadataEntry { path }
      ... on IntMetadataEntry { intValue }
    } }
  } } }
}
"""
RUN_QUERY = "query Run($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
TERMINATE = """
mutation Terminate($id: String!) { terminateRun(runId: $id) { __typename } }
"""
# One that is about to begin Dagster does not cancel before it has.
CANCELLABLE = ("QUEUED", "STARTED")
ENDED = {
    "SUCCESS": State.SUCCEEDED,
    "FAILURE": State.FAILED,
    "CANCELED": State.CANCELLED,
}


class LaunchedRuns:
    """The runs of a server at an address."""

    def __init__(self, url: str, display: Display) -> None:
        self.url = url
        self._display = display
        self._cursors: dict[str, str | None] = {}
        self._begun: dict[tuple[str, str], float] = {}
        self._prepared: dict[str, dict[str, Any]] = {}
        self._to_cancel: set[str] = set()

    def prepare(self, runs: Iterable[Run]) -> None:
        """Finds out where each run's location is served, and whether its config can be.

        Raises OrchestrationError where one is not served, or has no such option.
        """
        self._prepared = {run.id: self._parameters(run) for run in runs}

    def _launch(self, run: Run) -> None:
        parameters = self._prepared[run.id]
        selector = {
            name: parameters["selector"][name]
            for name in ("repositoryName", "repositoryLocationName")
        }
        variables = {"location": selector, "set": run.selection.partition_set, "key": run.partition}
        added = self._answer(run, ADD_PARTITION, variables)["addDynamicPartition"]
        if "message" in added:
            raise OrchestrationError(f"{self.url} adds no partition: {added['message']}")
        answer = query(self.url, LAUNCH, {"parameters": parameters})["launchPipelineExecution"]
        if "run" not in answer:
            if added["__typename"] == "AddDynamicPartitionSuccess":
                query(self.url, DELETE_PARTITION, variables)
            errors = [error["message"] for error in answer.get("errors", [])]
            why = answer.get("message") or "; ".join(errors) or answer["__typename"]
            raise OrchestrationError(f"{self.url} does not launch {run.selection.name}: {why}")
        run.id, run.state, run.began = answer["run"]["runId"], State.RUNNING, time.monotonic()
        self._display.show(run, {"run": run.id})

    def _parameters(self, run: Run) -> dict[str, Any]:
        selection = run.selection
        paths = [[selection.location, asset] for asset in selection.assets]
        keys = [{"path": path} for path in paths]
        nodes = query(self.url, ASSETS_QUERY, {"keys": keys})["assetNodes"]
        found = {tuple(node["assetKey"]["path"]): node for node in nodes}
        if missing := [path for path in paths if tuple(path) not in found]:
            raise OrchestrationError(
                f"The server at {self.url} does not serve {'/'.join(missing[0])}. What it serves "
                "is listed by `python3 -m orchestration status`."
            )
        repository = nodes[0]["repository"]
        return {
            "selector": {
                "repositoryName": repository["name"],
                "repositoryLocationName": repository["location"]["name"],
                "pipelineName": build_job(selection.location) if selection.is_whole else ASSET_JOB,
                "assetSelection": keys,
            },
            "runConfigData": {"ops": _op_config(nodes, run.config)},
            "mode": "default",
            "executionMetadata": {"tags": [{"key": PARTITION_TAG, "value": run.partition}]},
        }

    def follow(self, runs: Sequence[Run]) -> None:
        """Launches each run once what it comes after is there, and shows what they do.

        Returns once all have ended. A new partition key is added. Raises OrchestrationError where
        the server refuses, or does not answer any more.
        """
        while going := [run for run in runs if not run.has_ended]:
            for run in going:
                if run.state is State.RUNNING:
                    self._look_at(run)
                elif why := run.unreachable:
                    run.state, run.error = State.NOT_STARTED, why
                    self._display.show(run, {"ended": run.state.value})
                elif run.is_due:
                    self._launch(run)
            time.sleep(POLL_SECONDS)

    def _look_at(self, run: Run) -> None:
        # The state first: what is told afterwards is all there is.
        state = self._answer(run, RUN_QUERY, {"id": run.id})["runOrError"].get("status")
        self._read_events(run)
        if run.id in self._to_cancel and state in CANCELLABLE:
            query(self.url, TERMINATE, {"id": run.id})
        if state in ENDED:
            run.state = ENDED[state]
            self._display.show(run, {"ended": run.state.value})
        elif state is None:
            raise OrchestrationError(f"{self.url} knows no run {run.id} any more.")

    def _read_events(self, run: Run) -> None:
        variables = {"id": run.id, "cursor": self._cursors.get(run.id)}
        answer = self._answer(run, EVENTS_QUERY, variables)["logsForRun"]
        self._cursors[run.id] = answer["cursor"]
        run.seconds = time.monotonic() - run.began
        for event in answer["events"]:
            if message := self._message(run, event):
                run.take(message)
                self._display.show(run, message)

    def _answer(self, run: Run, text: str, variables: dict[str, Any]) -> dict[str, Any]:
        """What can be asked again without harm is, until there is an answer."""
        end, told = time.monotonic() + PATIENCE_SECONDS, False
        while True:
            try:
                return query(self.url, text, variables)
            except Refused as error:
                if time.monotonic() > end:
                    raise
                if not told:
                    self._display.show(run, {"waits": str(error)})
                told = True
            time.sleep(POLL_SECONDS)

    def _message(self, run: Run, event: Mapping[str, Any]) -> Message | None:
        selection, step = run.selection, event.get("stepKey") or ""
        name = selection.assets[0] if selection.location == INGEST else step.rpartition("__")[2]
        asset = f"{selection.location}/{name}"
        at = float(event.get("timestamp") or 0) / 1000
        match event["__typename"]:
            case "ExecutionStepStartEvent":
                self._begun[run.id, step] = at
                return {"began": asset}
            case "LogMessageEvent" if run.asset == asset:
                return {"output": event["message"]}
            case "ExecutionStepSuccessEvent":
                return {"done": asset, "seconds": at - self._begun.get((run.id, step), at)}
            case "MaterializationEvent":
                entries = {entry["label"]: entry for entry in event["metadataEntries"]}
                path = entries.get("path", {}).get("path")
                rows = entries.get("dagster/row_count", {}).get("intValue")
                shown = {"path": path, "rows": rows}
                known = {label: value for label, value in shown.items() if value is not None}
                return {"materialized": asset, **known}
            case "ExecutionStepFailureEvent":
                if (event["error"] or {}).get("className") == "DagsterExecutionInterruptedError":
                    return {"interrupted": asset}
                said = event["failureMetadata"] or {}
                entries = {entry["label"]: entry for entry in said.get("metadataEntries") or ()}
                error = said.get("description") or (event["error"] or {}).get("message", "")
                return {
                    "failed": asset,
                    "error": error,
                    "log": entries.get("log", {}).get("path"),
                }
        return None

    def cancel(self, runs: Iterable[Run]) -> None:
        """Has `follow` cancel those of the runs that go on, as the UI's Terminate button does."""
        for run in runs:
            if run.state is State.RUNNING:
                self._to_cancel.add(run.id)
            elif run.state is State.WAITING:
                run.state = State.NOT_STARTED


def _op_config(
    nodes: Sequence[Mapping[str, Any]], config: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The run config of the assets' ops: each gets those of the options that it has."""
    found: dict[str, dict[str, Any]] = {}
    known: set[str] = set()
    for node in nodes if config else ():
        [op] = node["opNames"]
        kind = (node["configField"] or {}).get("configType") or {}
        fields = {each["name"] for each in kind.get("fields", ())}
        known |= fields
        if own := {name: value for name, value in config.items() if name in fields}:
            found[op] = {"config": own}
    check_options(config, known)
    return found
