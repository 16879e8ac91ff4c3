"""The tables: what is compared with what."""

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.project import NO_OP_DCPY, TEMPLATES, environment, project_with, run_generate
from benchmarks.serving import (
    launch_and_wait,
    serve_merged,
    serve_stock,
    serve_stock_job,
    serve_up,
    wait_until_loaded,
)
from benchmarks.usage import Usage, measure_rest, measure_start, peak_of_start, seconds_to_start
from orchestration.catalog.checkout import products_file
from orchestration.catalog.products import read_products
from orchestration.server.graphql import query

REPEATS = 3
LAUNCHES = 10
# How often Dagster looks for queued runs by default; with `up` it does so each second.
QUEUE_SECONDS = 5.0
# Between one saved file and the next.
PAUSE_SECONDS = 8.0
# `dagster dev` with more locations is not measured.
MOST_STOCK = 20
OWN = "own"
# Every product is built each night, and somebody is told of what fails.
NIGHTS = """\
defaults: {schedule: "0 5 * * *"}
notify: ["json://127.0.0.1:9/nobody"]
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


def start_table(name: str) -> list[str]:
    """Seconds, memory and idle CPU of so many locations, started in three ways."""
    count, checkout = own_checkout() if name == OWN else (int(name), None)
    ways = {"`up`": serve_up, "`dagster dev`": serve_stock, "merged, `dagster dev`": serve_merged}
    measured: dict[str, list[Usage]] = {way: [] for way in ways}
    again: list[float] = []
    peaks: list[float] = []
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
        with project_with(count - 1, checkout=checkout) as project:
            peaks.append(peak_of_start(project, count))
            progress(f"{name} locations, `up`, peak: {peaks[-1]:.0f} MB")
    merged = measured["merged, `dagster dev`"]
    rows = [
        (
            way,
            spread([usage.seconds for usage in usages], "s"),
            spread([usage.megabytes for usage in usages], "MB", digits=0),
            spread(peaks, "MB", digits=0) if way == "`up`" else "",
            spread([usage.idle for usage in usages], "%", digits=1),
            ratio([usage.seconds for usage in usages], [usage.seconds for usage in merged]),
            ratio([usage.megabytes for usage in usages], [usage.megabytes for usage in merged]),
        )
        for way, usages in measured.items()
        if usages
    ]
    seconds = ratio(again, [usage.seconds for usage in merged])
    rows.insert(1, ("`up`, a second time", spread(again, "s"), "", "", "", seconds, ""))
    heading = ("started by", "ready", "memory", "at most", "idle, of one core", "time / merged")
    return markdown((*heading, "memory / merged"), rows)


def rest_table() -> list[str]:
    """Idle CPU and memory of 20 locations, served in three ways at the same time."""
    ways: dict[str, tuple[Callable[[Path], Any], str]] = {
        "`up`": (serve_up, ""),
        "`up`, with schedules and alerts": (serve_up, NIGHTS),
        "merged, `dagster dev`": (serve_merged, ""),
    }
    measured: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(REPEATS):
        with ExitStack() as stack:
            pids = []
            for serve, settings in ways.values():
                project = stack.enter_context(project_with(19))
                products = project / "checkout" / "products" / "products.yml"
                products.write_text(settings + products.read_text())
                url, process = stack.enter_context(serve(project))
                wait_until_loaded(url, 1 if serve is serve_merged else 20)
                pids.append(process.pid)
            for way, (idle, megabytes) in zip(ways, measure_rest(pids), strict=True):
                measured[way].append((idle, megabytes))
                progress(f"at rest, {way}: idle {idle:.2f} %, {megabytes:.0f} MB")
    rows = [
        (
            way,
            spread([idle for idle, _ in rests], "%", digits=2),
            spread([megabytes for _, megabytes in rests], "MB", digits=0),
        )
        for way, rests in measured.items()
    ]
    return markdown(("served by", "idle, of one core", "memory"), rows)


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
                launch_and_wait(url, selector)
                measured[way] = []
                for number in range(LAUNCHES):
                    # Not in step with who looks for queued runs.
                    time.sleep(QUEUE_SECONDS * number / LAUNCHES)
                    measured[way].append(launch_and_wait(url, selector))
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


def ratio(values: Sequence[float], base: Sequence[float]) -> str:
    """How the medians compare."""
    return f"{statistics.median(values) / statistics.median(base):.2f}"


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
