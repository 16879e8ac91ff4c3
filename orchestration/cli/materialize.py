"""`materialize`: runs without a server what the UI's Materialize button runs with one."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from orchestration.catalog.checkout import checkout_root
from orchestration.catalog.names import INGEST
from orchestration.cli.options import PRIVATE, selecting, with_storage

if TYPE_CHECKING:
    from orchestration.cli.runs import Run
    from orchestration.cli.selection import Catalog

EPILOG = """\b
Examples:
  python -m orchestration materialize ingest/bpl_libraries 20260101
  python -m orchestration materialize libraries/plan 2026.1-1_first
  python -m orchestration materialize --all --jobs 4 nightly_qa
  python -m orchestration materialize ingest/dcp_housing 25Q2 --push --latest
"""


@click.command(
    "materialize",
    short_help="Run products, stages or ingest templates without a server.",
    epilog=EPILOG,
)
@selecting
@click.option("--jobs", type=click.IntRange(min=1), default=1, help="So many runs at a time.")
@click.option(
    "--retry-failed",
    is_flag=True,
    help="Only what its last run for the partition has not made, if that did not succeed.",
)
@click.option("--verbose", is_flag=True, help="Show tracebacks, which are in the logs otherwise.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON per run at the end.")
def command(jobs: int, retry_failed: bool, verbose: bool, as_json: bool, **selected: Any) -> int:
    """Run products, stages or ingest templates without a server.

    A SELECTION is a product, PRODUCT/STAGE, or ingest/TEMPLATE (libraries/plan, …). PARTITION is a
    build, as VERSION-NOTE (2026.1-1_first); a version for ingest.
    """
    from orchestration.cli.progress import Progress
    from orchestration.cli.runs import Runs, State
    from orchestration.cli.selection import Catalog
    from orchestration.instance.home import prepare_dagster_home

    os.umask(PRIVATE)
    runs = _runs(Catalog(checkout_root()), **selected)
    from orchestration.cli import local_runs

    for run in runs:
        local_runs.check_partition(run)
    prepare_dagster_home()
    if retry_failed:
        runs = [
            replace(run, selection=replace(run.selection, assets=assets))
            for run in runs
            if (assets := local_runs.failed_assets(run))
        ]
        if not runs:
            print("Nothing that is selected has failed.", file=sys.stderr)
    progress = Progress(runs, sys.stderr if as_json else sys.stdout, verbose=verbose)
    executed = Runs(
        runs,
        jobs=jobs,
        display=progress,
        work=local_runs.execute,
        cancel=local_runs.mark_cancelling,
        give_up=local_runs.note_lost,
    )
    with progress:
        executed.execute()
    if runs:
        progress.summary()
    if as_json:
        for run in runs:
            print(json.dumps(_described(run), ensure_ascii=False))
    if executed.cancelled_by:
        return 128 + executed.cancelled_by
    return 0 if all(run.state is State.SUCCEEDED for run in runs) else 1


def _runs(
    catalog: "Catalog",
    *,
    selection: Sequence[str],
    partition: str,
    everything: bool,
    owner: Sequence[str],
    group: Sequence[str],
    config: Mapping[str, Any] | None,
    push: bool,
    latest: bool,
) -> "list[Run]":
    from orchestration.cli.runs import Run

    selections = catalog.choose(selection, everything=everything, owners=owner, groups=group)
    options = with_storage(config or {}, push=push, latest=latest)
    runs: list[Run] = []
    ingesting: dict[str, Run] = {}
    for each in selections:
        run = Run(each, partition, options)
        runs.append(run)
        if each.location == INGEST:
            ingesting[each.assets[0]] = run
    for run in runs:
        upstream = catalog.upstream(run.selection) if ingesting else set()
        run.after = [ingesting[name] for name in sorted(upstream & set(ingesting))]
    return runs


def _described(run: "Run") -> dict[str, Any]:
    from orchestration.cli.progress import sentence

    return {
        "selection": run.selection.name,
        "partition": run.partition,
        "run_id": run.id,
        "state": run.state.value,
        "seconds": round(run.seconds, 3),
        "error": sentence(run) or None,
        "log": run.log,
        "results": [
            {
                "asset": result["materialized"],
                "path": result.get("path"),
                "rows": result.get("rows"),
            }
            for result in run.results
        ],
    }
