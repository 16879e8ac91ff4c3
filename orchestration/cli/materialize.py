"""`materialize`: runs without a server what the UI's Materialize button runs with one."""

import json
import os
import sys
from dataclasses import replace
from typing import Any

import click

from orchestration.catalog.checkout import checkout_root
from orchestration.cli.options import PRIVATE, selecting

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
    from orchestration.cli.forks import importing

    os.umask(PRIVATE)
    with importing():
        from orchestration.cli.progress import Progress
        from orchestration.cli.runs import Runs, State, selected_runs
        from orchestration.cli.selection import Catalog

        catalog = Catalog(checkout_root())
        runs = selected_runs(catalog, **selected)
        from orchestration.cli import local_runs
        from orchestration.instance.home import prepare_dagster_home

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
        work=lambda run, tell: local_runs.execute(
            run, tell, catalog.interpreter(run.selection.location)
        ),
        cancel=local_runs.mark_cancelling,
        give_up=local_runs.note_lost,
    )
    with progress:
        executed.execute()
    if runs:
        progress.summary()
    if as_json:
        for run in runs:
            print(json.dumps(run.described(), ensure_ascii=False))
    if executed.cancelled_by:
        return 128 + executed.cancelled_by
    return 0 if all(run.state is State.SUCCEEDED for run in runs) else 1
