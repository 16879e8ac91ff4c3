"""A real `up` for the tests: on a copy of the project, on a free port, ended without a trace."""

import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from dagster import DagsterInstance

from orchestration import OrchestrationError
from orchestration.catalog.checkout import PROJECT_ROOT, SAMPLE_ROOT
from orchestration.catalog.names import TEAM_FILE
from orchestration.instance.home import INNER
from orchestration.instance.workers import WORKER_TAG, pid_of
from orchestration.server.graphql import query
from tests.harness.processes import (
    ORCHESTRATION,
    PATIENCE,
    is_running,
    orchestration,
    pause_after,
    wait_until,
)

# Every process of a server has it in its environment, and no other has that value.
MARK = "TEST_SERVER_MARK"
FINISHED = {"SUCCESS", "FAILURE", "CANCELED"}

LOCATIONS_QUERY = """
{ workspaceOrError { ... on Workspace { locationEntries {
  name
  locationOrLoadError { __typename
    ... on PythonError { message errorChain { error { message } } }
    ... on RepositoryLocation { dagsterLibraryVersions { name version } } }
} } } }
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
PLAN_QUERY = """
query Plan($pipeline: PipelineSelector!) {
  executionPlanOrError(pipeline: $pipeline, mode: "default") {
    __typename
    ... on ExecutionPlan { steps { key } }
    ... on InvalidSubsetError { message }
  }
}
"""
RUN_QUERY = """
query Run($id: ID!) {
  runOrError(runId: $id) { ... on Run { status } }
}
"""
RUNS_QUERY = "{ runsOrError { ... on Runs { results { runId } } } }"
EVENTS_QUERY = """
query Events($id: ID!) {
  logsForRun(runId: $id) { ... on EventConnection { events {
    __typename
    ... on MessageEvent { message }
  } } }
}
"""
ASSETS_QUERY = """
query Assets($keys: [AssetKeyInput!]!) {
  assetNodes(assetKeys: $keys) {
    assetKey { path }
    partitionKeys
    dependencyKeys { path }
    assetMaterializations { partition }
  }
}
"""
ADD_PARTITION = """
mutation Add($location: RepositorySelector!, $set: String!, $key: String!) {
  addDynamicPartition(repositorySelector: $location, partitionsDefName: $set, partitionKey: $key) {
    __typename
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
TERMINATE = """
mutation Terminate($id: String!) { terminateRun(runId: $id) { __typename } }
"""
RELOAD_LOCATION = """
mutation Reload($name: String!) {
  reloadRepositoryLocation(repositoryLocationName: $name) {
    __typename
    ... on WorkspaceLocationEntry { locationOrLoadError { __typename } }
  }
}
"""
RELOAD_ALL = "mutation { reloadWorkspace { __typename } }"


def copy_project(folder: Path) -> Path:
    """A copy of the program with its sample, to serve; the checkout is the sample in the copy.

    The sample's `dcpy` stays the one that is installed: a checkout's own is the one that runs.
    """
    copy = folder / "project"
    for name in ("orchestration", "templates", "sample"):
        # With what is compiled already: each copy's processes would do it anew.
        ignored = shutil.ignore_patterns("*.pyc.*", ".venv", "dcpy", "*.egg-info")
        shutil.copytree(PROJECT_ROOT / name, copy / name, ignore=ignored)
    shutil.copy(PROJECT_ROOT / "workspace.yaml", copy)
    (checkout_of(copy) / "dcpy").symlink_to(SAMPLE_ROOT / "dcpy")
    return copy


def checkout_of(project: Path) -> Path:
    """The sample checkout in a copy of the project."""
    return project / SAMPLE_ROOT.relative_to(PROJECT_ROOT)


def pretend_done(project: Path, slug: str, stage: str, partition: str = "main") -> None:
    """Leaves what the stage would, so that the next one can be run by itself, without dcpy."""
    build = project / ".lifecycle" / "builds" / slug / partition
    folder = build / f".{stage}.0123abcd"
    folder.mkdir(parents=True)
    (folder / "recipe.lock.yml").write_text("version: '1'\n")
    (build / stage).symlink_to(folder.name)


def write_products(project: Path, commands: Mapping[str, str]) -> None:
    """Has the checkout hold these products, each with its build command and an empty folder."""
    products = checkout_of(project) / "products"
    shutil.rmtree(products)
    entries = [{"id": name, "build_command": command} for name, command in commands.items()]
    for name in commands:
        (products / name).mkdir(parents=True)
    (products / "products.yml").write_text(yaml.safe_dump({"products": entries}))


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A running `up`, and the questions that the tests ask it."""

    def __init__(
        self,
        project: Path,
        options: Sequence[str],
        env: Mapping[str, str],
        output: int | None = None,
        within: Sequence[str] = (),
    ) -> None:
        self.project = project
        self.checkout = checkout_of(project)
        self.products = self.checkout / "products" / "products.yml"
        self.port = free_port()
        prefix = "--path-prefix"
        self._prefix = options[options.index(prefix) + 1] if prefix in options else ""
        self.url = f"http://127.0.0.1:{self.port}{self._prefix}"
        chosen = env.get("DAGSTER_HOME")
        self._instance = Path(chosen) / INNER if chosen else project / ".dagster"
        self._mark = uuid.uuid4().hex
        # Short, since the name of a Unix socket is.
        self._temporary = Path(tempfile.mkdtemp(prefix="up-"))
        self.log = self._temporary / "up.log"
        unset = ("DATA_ENGINEERING_ROOT", "DCPY_LIFECYCLE_DATA_DIR", "DAGSTER_HOME")
        inherited = {name: value for name, value in os.environ.items() if name not in unset}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*within, *ORCHESTRATION, "up", "--port", str(self.port), *options],
                cwd=project,
                env={**inherited, **env, MARK: self._mark, "TMPDIR": str(self._temporary)},
                stdin=subprocess.DEVNULL,
                stdout=log if output is None else output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def product_folder(self, name: str) -> Path:
        """The folder of a product in the checkout."""
        return self.checkout / "products" / name

    @property
    def state(self) -> Path:
        """The folder of everything that runs leave."""
        return self.project / ".lifecycle"

    @property
    def output(self) -> str:
        """What `up` has printed so far."""
        return self.log.read_text(errors="replace")

    def wait_until_up(self, *locations: str) -> None:
        """Waits until it serves these locations and has said so."""
        self.wait_for_locations(*locations)
        self.wait_for_output("Dagster is at")

    def wait_for_output(self, text: str, seconds: float = PATIENCE) -> None:
        """Waits until `up` has printed the text."""
        self._wait(lambda: text in self.output, f"printed {text!r}", seconds)

    def wait_for(self, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
        """Waits for the condition to hold; a question that is not answered yet is asked again."""
        self._wait(condition, "what this test waits for", seconds)

    def wait_for_locations(self, *names: str, seconds: float = PATIENCE) -> None:
        """Waits until exactly these locations are served, each loaded."""
        wanted = dict.fromkeys(names)
        self._wait(lambda: self.locations() == wanted, f"loaded {', '.join(names)}", seconds)

    def wait_for_error(self, name: str, *texts: str, seconds: float = PATIENCE) -> None:
        """Waits until the location is shown as broken, with all the texts in the reason."""

        def is_named() -> bool:
            error = self.locations().get(name)
            return error is not None and all(text in error for text in texts)

        self._wait(is_named, f"{name} broken with {texts}", seconds)

    def _wait(self, condition: Callable[[], object], what: str, seconds: float) -> None:
        started = time.monotonic()
        while not self._holds(condition):
            waited = time.monotonic() - started
            assert self.process.poll() is None, f"`up` has ended:\n{self.output}"
            assert waited < seconds, (
                f"Not within {seconds:.0f} s: {what}.\n{self._shown()}\n{self.output}"
            )
            time.sleep(pause_after(waited, least=0.1))

    def _holds(self, condition: Callable[[], object]) -> bool:
        try:
            return bool(condition())
        except OrchestrationError:
            return False

    def _shown(self) -> str:
        try:
            return str(self.locations())
        except OrchestrationError as error:
            return str(error)

    def query(self, text: str, **variables: Any) -> dict[str, Any]:
        """Asks by GraphQL, as the UI does."""
        return query(self.url, text, variables)

    def locations(self) -> dict[str, str | None]:
        """Each location's name, with why it or its team's definitions cannot be used, or None."""
        found = {}
        for entry in self.query(LOCATIONS_QUERY)["workspaceOrError"]["locationEntries"]:
            state = entry["locationOrLoadError"] or {"message": "still loading", "errorChain": []}
            is_loaded = state.get("__typename") == "RepositoryLocation"
            messages = [] if is_loaded else [state["message"]]
            messages += [link["error"]["message"] for link in state.get("errorChain", [])]
            libraries = state.get("dagsterLibraryVersions", [])
            messages += [each["version"] for each in libraries if each["name"] == TEAM_FILE]
            found[entry["name"]] = "\n".join(messages) or None
        return found

    def loads(self) -> dict[str, int]:
        """When each location was last loaded, in nanoseconds."""
        answers = (self.project / ".dagster" / "answers").glob("*.zip")
        served = self._sockets()
        return {path.stem: path.stat().st_mtime_ns for path in answers if path.stem in served}

    def awake(self) -> dict[str, int]:
        """The code server of each location that has one now."""
        found = {}
        for name, path in self._sockets().items():
            for own in path.parent.glob(f"{path.stem}.*.sock"):
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.settimeout(5)
                    try:
                        connection.connect(str(own))
                    except (ConnectionRefusedError, FileNotFoundError):
                        continue
                    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                found[name] = struct.unpack("3i", peer)[0]
        return found

    def broker(self) -> int:
        """The process that answers for all locations. Raises OSError where it does not for one."""
        pids = set()
        for path in self._sockets().values():
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
                peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            pids.add(int(struct.unpack("3i", peer)[0]))
        [pid] = pids
        return pid

    @property
    def workspace(self) -> Path:
        """The file that says where each location is served; their sockets lie beside it."""
        [folder] = self._temporary.glob("orchestration-*")
        return folder / "workspace.yaml"

    def _sockets(self) -> dict[str, Path]:
        entries = yaml.safe_load(self.workspace.read_text(encoding="utf-8"))["load_from"]
        servers = [entry["grpc_server"] for entry in entries]
        return {server["location_name"]: Path(server["socket"]) for server in servers}

    def wake(self, location: str) -> int:
        """Asks what only the location's own code knows; gives its code server's process."""
        pipeline = {
            **selector(location),
            "pipelineName": "__ASSET_JOB",
            "assetSelection": [{"path": [location, "plan"]}],
        }
        plan = self.query(PLAN_QUERY, pipeline=pipeline)["executionPlanOrError"]
        assert plan == {
            "__typename": "ExecutionPlan",
            "steps": [{"key": f"{location}__plan"}],
        }, plan
        return self.awake()[location]

    def launch(
        self,
        location: str,
        *assets: str,
        partition: str,
        job: str = "__ASSET_JOB",
        config: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Launches a run of the location's assets as the UI does; gives its id."""
        tags = {"dagster/partition": partition, **(tags or {})}
        parameters = {
            "selector": {
                **selector(location),
                "pipelineName": job,
                "assetSelection": [{"path": [location, asset]} for asset in assets],
            },
            "runConfigData": config or {},
            "mode": "default",
            "executionMetadata": {"tags": [{"key": key, "value": tags[key]} for key in tags]},
        }
        answer = self.query(LAUNCH, parameters=parameters)["launchPipelineExecution"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        run_id: str = answer["run"]["runId"]
        return run_id

    def run_status(self, run_id: str) -> str:
        """The state of a run."""
        status: str = self.query(RUN_QUERY, id=run_id)["runOrError"]["status"]
        return status

    def runs(self) -> list[str]:
        """The ids of all runs, the latest first."""
        results = self.query(RUNS_QUERY)["runsOrError"]["results"]
        return [run["runId"] for run in results]

    def run_tags(self, run_id: str) -> dict[str, str]:
        """The tags of a run, those that the UI hides included."""
        with DagsterInstance.from_config(str(self._instance)) as instance:
            run = instance.get_run_by_id(run_id)
            assert run
            return dict(run.tags)

    def run_pid(self, run_id: str) -> int:
        """The process of a run that has started."""
        return pid_of(self.run_tags(run_id)[WORKER_TAG])

    def wait_for_run(self, run_id: str, *states: str, seconds: float = PATIENCE) -> None:
        """Waits until the run is in one of the states; SUCCESS when none is named."""
        wanted = set(states or ("SUCCESS",))

        def is_reached() -> bool:
            status = self.run_status(run_id)
            # One that has ended otherwise will not get there any more.
            assert status in wanted or status not in FINISHED, f"{status}\n{self.events(run_id)}"
            return status in wanted

        self._wait(is_reached, f"run {' or '.join(wanted)}", seconds)

    def events(self, run_id: str) -> str:
        """All messages of a run, a line or more each."""
        events = self.query(EVENTS_QUERY, id=run_id)["logsForRun"]["events"]
        return "\n".join(event.get("message", "") for event in events)

    def asset(self, *path: str) -> dict[str, Any] | None:
        """What the webserver knows of an asset that a location defines, if it does."""
        nodes = self.query(ASSETS_QUERY, keys=[{"path": path}])["assetNodes"]
        return nodes[0] if nodes else None

    def partitions(self, slug: str) -> set[str]:
        """The partition keys of a product."""
        node = self.asset(slug, "plan")
        return set(node["partitionKeys"]) if node else set()

    def add_partition(self, location: str, name: str, key: str) -> None:
        """Adds a partition key as the UI does."""
        self.query(ADD_PARTITION, location=selector(location), set=name, key=key)

    def delete_partition(self, location: str, name: str, key: str) -> None:
        """Deletes a partition key as the UI does."""
        self.query(DELETE_PARTITION, location=selector(location), set=name, key=key)

    def cancel(self, run_id: str) -> None:
        """The Terminate button of a run."""
        self.query(TERMINATE, id=run_id)

    def reload(self, location: str) -> None:
        """The Reload button of one location."""
        self.query(RELOAD_LOCATION, name=location)

    def reload_all(self) -> None:
        """The button Reload all."""
        self.query(RELOAD_ALL)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs `python -m orchestration` in the same project, on the same checkout."""
        env = {
            "DATA_ENGINEERING_ROOT": str(self.checkout),
            "DCPY_LIFECYCLE_DATA_DIR": str(self.state),
            "DAGSTER_HOME": "",
        }
        return orchestration(*arguments, env=env, project=self.project)

    def status(self) -> subprocess.CompletedProcess[str]:
        """What `python -m orchestration status` says of this server."""
        return self.command("status", *self.where)

    @property
    def where(self) -> tuple[str, ...]:
        """The options that tell a command of this server."""
        return ("--port", str(self.port), "--path-prefix", self._prefix)

    def processes(self) -> set[int]:
        """Every process that this server, or anything it started, has running."""
        mark = f"{MARK}={self._mark}".encode()
        found = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    environment = (entry / "environ").read_bytes()
                except OSError:
                    continue
                if mark in environment.split(b"\0") and is_running(int(entry.name)):
                    found.add(int(entry.name))
        return found

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = PATIENCE) -> int:
        """Sends the signal to `up`; gives its exit status once nothing is left of it."""
        if number is signal.SIGINT:
            # As Ctrl-C does, which goes to all that the terminal sees.
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        return self.wait_for_end(seconds)

    def wait_for_end(self, seconds: float = PATIENCE) -> int:
        """The exit status of `up`, once nothing is left of it."""

        def has_ended() -> bool:
            return self.process.poll() is not None and not self.processes()

        assert wait_until(has_ended, seconds), (
            f"left after {seconds:.0f} s: {self._describe(self.processes())}\n{self.output}"
        )
        left = [path.name for path in self._temporary.iterdir() if path != self.log]
        assert not left, f"left in the temporary folder: {left}"
        return self.process.wait(seconds)

    def _describe(self, pids: set[int]) -> str:
        return "; ".join(
            Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")[:200]
            for pid in pids
            if is_running(pid)
        )

    def destroy(self) -> None:
        """Makes sure that nothing is left, whatever a test did."""
        while pids := self.processes():
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if self.process.pid in pids:
                self.process.wait()
        shutil.rmtree(self._temporary, ignore_errors=True)


def selector(location: str) -> dict[str, str]:
    """How GraphQL names a location."""
    return {"repositoryLocationName": location, "repositoryName": "__repository__"}


@contextmanager
def started(
    project: Path,
    *options: str,
    env: Mapping[str, str] | None = None,
    output: int | None = None,
    within: Sequence[str] = (),
) -> Iterator[Server]:
    """An `up` that has just been started; whatever is left of it at the end is killed.

    It prints to the file descriptor `output`, else to a log of its own; its command begins with
    `within`.
    """
    server = Server(project, options, env or {}, output, within)
    try:
        yield server
    finally:
        server.destroy()


@contextmanager
def serving(
    project: Path,
    *options: str,
    locations: Sequence[str] = ("ingest", "libraries", "park_access", "capital_projects"),
    env: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """An `up` that serves these locations; it has to end without a trace."""
    with started(project, *options, env=env) as server:
        server.wait_until_up(*locations)
        yield server
        server.stop()
