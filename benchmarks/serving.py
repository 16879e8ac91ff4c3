"""Serving a project in several ways, and asking Dagster there."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.project import environment, run_generate
from orchestration import OrchestrationError
from orchestration.lifecycle.reaper import descendants
from orchestration.server.graphql import query

BIN = Path(sys.executable).parent
PATIENCE_SECONDS = 30.0
STAGES = ("plan", "load", "build", "package")
LOCATIONS_QUERY = """
{ workspaceOrError { ... on Workspace { locationEntries {
  name
  locationOrLoadError { __typename }
} } } }
"""
LAUNCH = """
mutation Launch($execution: ExecutionParams!) {
  launchPipelineExecution(executionParams: $execution) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  }
}
"""
RUN = "query Run($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
STOCK_JOB = """
import dagster as dg

partitions = dg.DynamicPartitionsDefinition(name="build_stock")


def stage(name, deps):
    @dg.asset(key=["product_0", name], deps=deps, partitions_def=partitions)
    def no_op():
        pass

    return no_op


names = ["plan", "load", "build", "package"]
assets = [
    stage(name, [dg.AssetKey(["product_0", before])] if before else [])
    for before, name in zip([None, *names], names)
]
defs = dg.Definitions(assets=assets, jobs=[dg.define_asset_job("build_product_0", assets)])
"""
MERGED = """
from importlib import import_module
from pathlib import Path

from dagster import AssetSpec, Definitions

names = [path.stem for path in Path("orchestration/locations").glob("[!_]*.py")]
all_defs = [import_module(f"orchestration.locations.{name}").defs for name in names]
# A location names what others make; here they are one.
defs = Definitions(
    assets=[a for d in all_defs for a in d.assets or () if not isinstance(a, AssetSpec)],
    asset_checks=[check for d in all_defs for check in d.asset_checks or ()],
    jobs=[job for d in all_defs for job in d.jobs or ()],
    schedules=[schedule for d in all_defs for schedule in d.schedules or ()],
    sensors=[sensor for d in all_defs for sensor in d.sensors or ()],
    executor=all_defs[0].executor,
)
"""

Served = tuple[str, "subprocess.Popen[bytes]"]


@contextmanager
def serve_up(project: Path) -> Iterator[Served]:
    """This project's server."""
    port = free_port()
    command = [sys.executable, "-m", "orchestration", "up", "--port", str(port)]
    with running(command, project, port, patience=PATIENCE_SECONDS) as served:
        yield served


@contextmanager
def serve_stock(project: Path) -> Iterator[Served]:
    """`dagster dev` on the generated workspace."""
    run_generate(project)
    with dagster_dev(project, ["-w", "workspace.yaml"]) as served:
        yield served


@contextmanager
def serve_merged(project: Path) -> Iterator[Served]:
    """`dagster dev` on one location that holds all the others."""
    run_generate(project)
    (project / "merged.py").write_text(MERGED)
    with dagster_dev(project, ["-m", "merged"]) as served:
        yield served


@contextmanager
def serve_stock_job(project: Path) -> Iterator[Served]:
    """`dagster dev` on a job as Dagster's documentation has one."""
    (project / "stock.py").write_text(STOCK_JOB)
    with dagster_dev(project, ["-m", "stock"]) as served:
        yield served


@contextmanager
def dagster_dev(project: Path, target: Sequence[str]) -> Iterator[Served]:
    port = free_port()
    home = project / "dagster_home"
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    command = [str(BIN / "dagster"), "dev", "-p", str(port), *target]
    with running(command, project, port, {"DAGSTER_HOME": str(home)}) as served:
        yield served


@contextmanager
def running(
    command: Sequence[str],
    project: Path,
    port: int,
    more: dict[str, str] | None = None,
    *,
    patience: float = 0.0,
) -> Iterator[Served]:
    """The command while it runs, and the address where it serves.

    It has so many seconds to end by itself; `dagster dev` would take a minute to end its servers.
    """
    with open(project / "server.log", "w") as log:
        process = subprocess.Popen(
            command,
            cwd=project,
            env=environment(project) | (more or {}),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield f"http://127.0.0.1:{port}", process
        finally:
            if patience:
                process.terminate()
                process.wait(patience)
            for pid in {process.pid} | descendants({process.pid}):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def wait_until_loaded(url: str, expected: int, seconds: float = 600) -> list[str]:
    """The names of the locations, once there are enough and all are loaded."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            entries = query(url, LOCATIONS_QUERY)["workspaceOrError"]["locationEntries"]
        except OrchestrationError:
            entries = []
        kinds = [(entry["locationOrLoadError"] or {}).get("__typename") for entry in entries]
        if "PythonError" in kinds:
            raise RuntimeError(f"{url} has a broken location: {entries}")
        if kinds.count("RepositoryLocation") >= expected:
            return [entry["name"] for entry in entries]
        time.sleep(0.05)
    raise TimeoutError(f"{url} did not load {expected} locations")


def launch_and_wait(url: str, selector: dict[str, str]) -> float:
    """Seconds from launching the four stages to their success."""
    execution = {
        "selector": {
            **selector,
            "pipelineName": "build_product_0",
            "assetSelection": [{"path": ["product_0", stage]} for stage in STAGES],
        },
        "mode": "default",
        "runConfigData": {},
        "executionMetadata": {"tags": [{"key": "dagster/partition", "value": "main"}]},
    }
    started = time.perf_counter()
    launched = query(url, LAUNCH, {"execution": execution})["launchPipelineExecution"]
    run_id = launched["run"]["runId"]
    while time.perf_counter() - started < 120:
        status = query(url, RUN, {"id": run_id})["runOrError"]["status"]
        if status == "SUCCESS":
            return time.perf_counter() - started
        if status in ("FAILURE", "CANCELED"):
            raise RuntimeError(f"run {run_id} ended as {status}")
        time.sleep(0.02)
    raise TimeoutError(f"run {run_id} did not end")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
