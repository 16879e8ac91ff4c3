"""What isolation costs: `make bench` measures it, prints the tables and writes them to RESULTS.md.

What is compared is measured side by side, on a copy of the project with made-up products, and the
products of DATA_ENGINEERING_ROOT where it is set. Memory is the proportional set size (PSS) of all
processes, in MB. It takes half an hour; `make bench PARTS="start-20 wake"` measures parts of it, of
some minutes each, and leaves the other results as they are.
"""

import os
import platform
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dagster

from orchestration import OrchestrationError
from orchestration.catalog.checkout import products_file
from orchestration.catalog.products import read_products
from orchestration.lifecycle.reaper import descendants
from orchestration.server.graphql import query

PROJECT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "RESULTS.md"
BIN = Path(sys.executable).parent
REPEATS = 3
# By then the daemon, which starts after the webserver, has loaded all of 200 locations, too.
SETTLE_SECONDS = 25.0
# Between one saved file and the next.
PAUSE_SECONDS = 8.0
# The daemon's heartbeats come every 30 s.
IDLE_SECONDS = 30.0
# `dagster dev` with more locations is not measured.
MOST_STOCK = 20
TEMPLATES = 200
# The made-up checkouts' numbers of locations, and a part of its own for DATA_ENGINEERING_ROOT.
MADE_UP = ("4", "20", "60", "200")
OWN = "own"
START = "start-"
HEADING = "# Results\n\nWritten by `make bench`: medians, and the range in brackets.\n"
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
ADD_PARTITION = """
mutation Add($selector: RepositorySelector!, $set: String!, $key: String!) {
  addDynamicPartition(
    repositorySelector: $selector, partitionsDefName: $set, partitionKey: $key
  ) { __typename }
}
"""
PLAN = """
query Plan($pipeline: PipelineSelector!) {
  executionPlanOrError(pipeline: $pipeline, mode: "default") { __typename }
}
"""
DEPENDENCIES = """
query Dependencies($key: AssetKeyInput!) {
  assetNodeOrError(assetKey: $key) { ... on AssetNode { dependencyKeys { path } } }
}
"""
RUN = "query Run($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
# The smallest dcpy that the steps can call: a step's time is then this project's and Dagster's.
NO_OP_DCPY = {
    "__init__.py": "",
    "lifecycle/__init__.py": "",
    "lifecycle/ingest/__init__.py": "",
    "lifecycle/ingest/run.py": "",
    "lifecycle/builds/__init__.py": "",
    "lifecycle/builds/plan.py": (
        "def plan(recipe_file, version=None, build_name=None, branch=None, env_vars=None,"
        " output_path=None):\n"
        "    output_path.write_text('version: x\\n')\n"
        "    return output_path\n"
    ),
    "lifecycle/builds/load.py": (
        "class LoadResult:\n"
        "    datasets = {}\n"
        "def load_source_data_from_resolved_recipe(recipe_or_path, *args):\n"
        "    return LoadResult()\n"
    ),
}
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


def main() -> None:
    """Measures the parts that are named, or all, and writes the results."""
    # So that what it has started is ended with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    names = sys.argv[1:] or [*PARTS]
    if unknown := set(names) - PARTS.keys():
        sys.exit(f"no part called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    with_its_own = [*MADE_UP, *([OWN] if os.environ.get("DATA_ENGINEERING_ROOT") else [])]
    for name in names:
        if name.startswith(START) and name.removeprefix(START) not in with_its_own:
            continue
        title, table = PARTS[name]
        write_section(title, table())


def write_section(title: str, table: Sequence[str]) -> None:
    """Puts a table in its place among the results."""
    found = dict(section.split("\n", 1) for section in RESULTS.read_text().split("\n## ")[1:])
    where = (
        f"{platform.python_implementation()} {platform.python_version()}, Dagster "
        f"{dagster.__version__}, {os.cpu_count()} CPUs, {platform.system()} {platform.machine()}, "
        f"{time.strftime('%Y-%m-%d')}."
    )
    found[title] = "\n".join(["", *table, "", where, ""])
    print(f"## {title}\n{found[title]}", flush=True)
    text = [f"\n## {t}\n{found[t].rstrip()}\n" for t, _ in PARTS.values() if t in found]
    RESULTS.write_text(f"{HEADING}{''.join(text)}")


def start_table(name: str) -> list[str]:
    """Seconds, memory and idle CPU of so many locations, started in three ways."""
    count, checkout = own_checkout() if name == OWN else (int(name), None)
    ways = {"`up`": serve_up, "`dagster dev`": serve_stock, "merged, `dagster dev`": serve_merged}
    measured: dict[str, list[Usage]] = {way: [] for way in ways}
    again: list[float] = []
    for _ in range(REPEATS):
        for way, serve in ways.items():
            # It takes minutes, and gigabytes.
            if serve is serve_stock and (count > MOST_STOCK or measured[way]):
                continue
            with project_with(count - 1, checkout=checkout) as project:
                expected = 1 if serve is serve_merged else count
                usage = measure_start(serve, project, expected)
                measured[way].append(usage)
                progress(f"{name} locations, {way}: {usage}")
                if serve is serve_up:
                    again.append(seconds_to_start(serve, project, expected))
                    progress(f"{name} locations, {way} again: {again[-1]:.1f} s")
    merged = measured["merged, `dagster dev`"]
    rows = [
        (
            way,
            spread([usage.seconds for usage in usages], "s"),
            spread([usage.megabytes for usage in usages], "MB", digits=0),
            spread([usage.idle for usage in usages], "%", digits=1),
            ratio([usage.seconds for usage in usages], [usage.seconds for usage in merged]),
            ratio([usage.megabytes for usage in usages], [usage.megabytes for usage in merged]),
        )
        for way, usages in measured.items()
        if usages
    ]
    seconds = ratio(again, [usage.seconds for usage in merged])
    rows.insert(1, ("`up`, a second time", spread(again, "s"), "", "", seconds, ""))
    heading = ("started by", "ready", "memory", "idle, of one core", "time / merged")
    return markdown((*heading, "memory / merged"), rows)


def ratio(values: Sequence[float], base: Sequence[float]) -> str:
    """How the medians compare."""
    return f"{statistics.median(values) / statistics.median(base):.2f}"


def wake_table() -> list[str]:
    """Seconds that a question takes which only a location's code can answer."""
    first: list[float] = []
    again: list[float] = []
    with project_with(REPEATS) as project, serve_up(project) as (url, _):
        wait_until_loaded(url, REPEATS + 1)
        for i in range(REPEATS):
            pipeline = {
                "repositoryLocationName": f"product_{i}",
                "repositoryName": "__repository__",
                "pipelineName": f"build_product_{i}",
            }
            for seconds in (first, again):
                started = time.perf_counter()
                plan = query(url, PLAN, {"pipeline": pipeline})["executionPlanOrError"]
                seconds.append(time.perf_counter() - started)
                assert plan["__typename"] == "ExecutionPlan", plan
    return markdown(
        ("asked of", "answered after"),
        [
            ("a sleeping location", spread(first, "s", digits=3)),
            ("the same, awake", spread(again, "s", digits=3)),
        ],
    )


def save_table() -> list[str]:
    """Seconds from a saved recipe until the webserver has what it says."""
    seconds = []
    with project_with(59) as project, serve_up(project) as (url, _):
        wait_until_loaded(url, 60)
        for i in range(2 * REPEATS):
            recipe = project / "checkout" / "products" / f"product {i}" / "recipe.yml"
            saved = recipe.read_text() + "  - name: dataset_199\n"
            # Not in step with who looks.
            time.sleep(PAUSE_SECONDS + i / (2 * REPEATS))
            recipe.write_text(saved)
            started = time.perf_counter()
            plan = {"key": {"path": [f"product_{i}", "plan"]}}
            while "dataset_199" not in str(query(url, DEPENDENCIES, plan)):
                time.sleep(0.01)
            seconds.append(time.perf_counter() - started)
    return markdown(
        ("saved", "served after"),
        [("the recipe of one product of 60", spread(seconds, "s"))],
    )


def own_checkout() -> tuple[int, Path]:
    """The number of locations and the folder of DATA_ENGINEERING_ROOT."""
    root = Path(os.environ["DATA_ENGINEERING_ROOT"])
    return len(read_products(products_file(root))) + 1, root.resolve()


def run_table() -> list[str]:
    """Seconds from the launch of a four-stage product to its success."""
    measured: dict[str, list[float]] = {}
    with project_with(1, dcpy=NO_OP_DCPY) as project:
        for way, serve in {"`up`": serve_up, "stock job, `dagster dev`": serve_stock_job}.items():
            with serve(project) as (url, _):
                location = wait_until_loaded(url, 1)[-1]
                name = "build_stock" if serve is serve_stock_job else "build_product_0"
                selector = {
                    "repositoryLocationName": location,
                    "repositoryName": "__repository__",
                }
                query(url, ADD_PARTITION, {"selector": selector, "set": name, "key": "main"})
                measured[way] = [launch_and_wait(url, selector) for _ in range(REPEATS + 1)][1:]
                progress(f"no-op product, {way}: {measured[way]}")
    base = statistics.median(measured["`up`"])
    return markdown(
        ("started by", "launch to success", "time / `up`"),
        [
            (way, spread(seconds, "s"), f"{statistics.median(seconds) / base:.1f}")
            for way, seconds in measured.items()
        ],
    )


def generation_table() -> list[str]:
    """Seconds of `generate`, from nothing and with nothing to do."""
    rows = []
    for count in (20, 1000):
        first: list[float] = []
        again: list[float] = []
        for _ in range(REPEATS):
            with project_with(count) as project:
                command = [sys.executable, "-m", "orchestration", "generate"]
                for seconds in (first, again):
                    started = time.perf_counter()
                    subprocess.run(
                        command,
                        cwd=project,
                        env=environment(project),
                        check=True,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                    )
                    seconds.append(time.perf_counter() - started)
        rows.append((str(count), spread(first, "s"), spread(again, "s")))
    return markdown(("products", "all new", "nothing to do"), rows)


def load_table() -> list[str]:
    """CPU seconds of a process that imports Dagster and loads one location."""
    with project_with(1) as project:
        run_generate(project)
        (project / "empty.py").write_text("from dagster import Definitions\ndefs = Definitions()\n")
        modules = {
            "empty": "empty",
            "a product's": "orchestration.locations.product_0",
            f"ingest, {TEMPLATES} templates": "orchestration.locations.ingest",
        }
        measured: dict[str, list[float]] = {name: [] for name in modules}
        for _ in range(4 * REPEATS):
            for name, module in modules.items():
                code = f"import dagster, {module} as m; m.defs.get_repository_def()"
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                subprocess.run(
                    [sys.executable, "-c", code], cwd=project, env=environment(project), check=True
                )
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
                measured[name].append(used)
    base = statistics.median(measured["empty"])
    return markdown(
        ("location", "CPU time", "beside an empty one"),
        [
            (name, spread(seconds, "s", digits=3), f"{statistics.median(seconds) / base - 1:+.1%}")
            for name, seconds in measured.items()
        ],
    )


@contextmanager
def project_with(
    products: int, *, dcpy: dict[str, str] | None = None, checkout: Path | None = None
) -> Iterator[Path]:
    """A copy of the project beside a checkout, by default a made-up one of so many products."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        project = Path(folder) / "project"
        shutil.copytree(
            PROJECT / "orchestration",
            project / "orchestration",
            ignore=shutil.ignore_patterns(".venv", "__pycache__"),
        )
        shutil.copytree(PROJECT / "templates", project / "templates")
        for generated in (project / "orchestration" / "locations").glob("[!_]*.py"):
            generated.unlink()
        if checkout:
            (project / "checkout").symlink_to(checkout)
        else:
            make_checkout(project / "checkout", products)
        for name, text in (dcpy or {}).items():
            path = project / "checkout" / "dcpy" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        if dcpy:
            python = project / "python"
            # An interpreter that finds this dcpy, whatever is installed.
            python.write_text(
                f'#!/bin/sh\nPYTHONPATH="{project}/checkout" exec "{sys.executable}" "$@"\n'
            )
            python.chmod(0o755)
        yield project


def make_checkout(checkout: Path, products: int) -> None:
    """Makes up a checkout of so many products, whose recipes name ten datasets each."""
    for i in range(products):
        recipe = checkout / "products" / f"product {i}" / "recipe.yml"
        recipe.parent.mkdir(parents=True)
        inputs = "".join(f"  - name: dataset_{d}\n" for d in range(i, i + 10))
        recipe.write_text(f"name: p\nproduct: p\ninputs:\n  datasets:\n{inputs}")
    entries = [f"- id: product {i}\n  build_command: 'true'\n" for i in range(products)]
    (checkout / "products" / "products.yml").write_text("products:\n" + "".join(entries))
    (checkout / "ingest_templates").mkdir()
    for i in range(TEMPLATES):
        (checkout / "ingest_templates" / f"dataset_{i}.yml").write_text(
            f"id: dataset_{i}\nacl: public-read\nattributes:\n  name: Dataset {i}\n"
            "ingestion:\n  source:\n    type: local_file\n    path: data.csv\n"
            "  file_format:\n    type: csv\n"
            "columns:\n" + "".join(f"- id: c{c}\n  data_type: text\n" for c in range(20))
        )


def environment(project: Path) -> dict[str, str]:
    """The environment of what is measured."""
    others = ("DAGSTER_", "DCPY_", "PYTHONDONTWRITEBYTECODE")
    env = {k: v for k, v in os.environ.items() if not k.startswith(others)}
    env["DATA_ENGINEERING_ROOT"] = str(project / "checkout")
    if (project / "python").exists():
        env["DCPY_PYTHON"] = str(project / "python")
    return env


def run_generate(project: Path) -> None:
    """Generates the project's locations."""
    subprocess.run(
        [sys.executable, "-m", "orchestration", "generate"],
        cwd=project,
        env=environment(project),
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


Served = tuple[str, "subprocess.Popen[bytes]"]


@contextmanager
def serve_up(project: Path) -> Iterator[Served]:
    """This project's server."""
    port = free_port()
    command = [sys.executable, "-m", "orchestration", "up", "--port", str(port)]
    with running(command, project, port) as served:
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
    command: Sequence[str], project: Path, port: int, more: dict[str, str] | None = None
) -> Iterator[Served]:
    """The command while it runs, and the address where it serves."""
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
            # Not gently: `dagster dev` takes a minute to end its servers.
            for pid in {process.pid} | descendants({process.pid}):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


@dataclass(frozen=True)
class Usage:
    """What a start took, and what is taken once it has settled."""

    seconds: float
    megabytes: float
    idle: float
    """Of one core, in percent."""

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s, {self.megabytes:.0f} MB, idle {self.idle:.1f} %"


def measure_start(serve: Callable[[Path], Any], project: Path, expected: int) -> Usage:
    """What it takes until so many locations are loaded, and then."""
    started = time.perf_counter()
    with serve(project) as (url, process):
        if serve is not serve_up:
            started = time.perf_counter()
        wait_until_loaded(url, expected)
        seconds = time.perf_counter() - started
        time.sleep(SETTLE_SECONDS)
        before = processor_seconds(process.pid)
        time.sleep(IDLE_SECONDS)
        idle = (processor_seconds(process.pid) - before) / IDLE_SECONDS
        return Usage(seconds, memory_of(process.pid), 100 * idle)


def seconds_to_start(serve: Callable[[Path], Any], project: Path, expected: int) -> float:
    """How long it takes until so many locations are loaded."""
    started = time.perf_counter()
    with serve(project) as (url, _):
        wait_until_loaded(url, expected)
        return time.perf_counter() - started


def processor_seconds(root: int) -> float:
    """What a process and its descendants have used of the processors."""
    total = 0
    for pid in {root} | descendants({root}):
        with suppress(OSError):
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
            total += sum(map(int, stat.rpartition(")")[2].split()[11:13]))
    return total / os.sysconf("SC_CLK_TCK")


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


def memory_of(root: int) -> float:
    """The PSS of a process and its descendants, in MB."""
    total = 0
    for pid in {root} | descendants({root}):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def spread(values: Sequence[float], unit: str, digits: int = 2) -> str:
    """The median, and the smallest and largest value."""
    low, middle, high = min(values), statistics.median(values), max(values)
    if len(values) == 1:
        return f"{middle:.{digits}f} {unit} (once)"
    return f"{middle:.{digits}f} {unit} ({low:.{digits}f}-{high:.{digits}f})"


def markdown(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    return [f"| {' | '.join(row)} |" for row in (heading, ["---"] * len(heading), *rows)]


def progress(text: str) -> None:
    """Tells whoever waits."""
    print(text, file=sys.stderr, flush=True)


PARTS: dict[str, tuple[str, Callable[[], list[str]]]] = {
    **{
        f"{START}{name}": (
            f"Start of {'DATA_ENGINEERING_ROOT' if name == OWN else f'{name} locations'}, until "
            "GraphQL answers with all loaded",
            partial(start_table, name),
        )
        for name in (*MADE_UP, OWN)
    },
    "wake": ("First use of a sleeping location", wake_table),
    "save": ("From a saved file to what is served", save_table),
    "run": ("A product of four no-op stages, from launch to success", run_table),
    "generation": ("Generation", generation_table),
    "load": ("CPU time to load a location, imports of Dagster included", load_table),
}
"""What can be measured by itself: the title of each, and what gives its table."""


if __name__ == "__main__":
    main()
