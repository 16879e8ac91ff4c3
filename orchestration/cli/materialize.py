"""`materialize`: runs without a server what the UI's Materialize button runs with one."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from orchestration.catalog.checkout import checkout_root
from orchestration.cli.options import PRIVATE, executing, selecting

if TYPE_CHECKING:
    from orchestration.cli.runs import Run
    from orchestration.cli.selection import Catalog

EPILOG = """\b
Examples:
  python3 -m orchestration materialize ingest/bpl_libraries 20260101
  python3 -m orchestration materialize libraries/plan 2026.1-1_first
  python3 -m orchestration materialize --all --jobs 4 nightly_qa
  python3 -m orchestration materialize ingest/dcp_housing 25Q2 --push --latest
"""


@click.command(
    "materialize",
    short_help="Run products, stages or ingest templates without a server.",
    epilog=EPILOG,
)
@selecting
@executing
@click.option(
    "--retry-failed",
    is_flag=True,
    help="Only what its last run for the partition has not made, if that did not succeed.",
)
def command(jobs: int, retry_failed: bool, verbose: bool, as_json: bool, **selected: Any) -> int:
    """Run products, stages or ingest templates without a server.

    A SELECTION is a product, PRODUCT/STAGE, or ingest/TEMPLATE (libraries/plan, …). PARTITION is a
    build, as VERSION-NOTE (2026.1-1_first); a version for ingest.
    """
    from orchestration.cli.forks import importing

    os.umask(PRIVATE)
    with importing():
        from orchestration.cli.runs import selected_runs
        from orchestration.cli.selection import Catalog

        catalog = Catalog(checkout_root())
        runs = selected_runs(catalog, **selected)
        from orchestration.cli import run_process
        from orchestration.instance.home import prepare_dagster_home

    if retry_failed:
        prepare_dagster_home()
        runs = [
            replace(run, selection=replace(run.selection, assets=assets))
            for run in runs
            if (assets := run_process.failed_assets(run))
        ]
        if not runs:
            print("Nothing that is selected has failed.", file=sys.stderr)
    return run_here(catalog, runs, jobs=jobs, verbose=verbose, as_json=as_json)


def run_here(
    catalog: "Catalog", runs: "Sequence[Run]", *, jobs: int, verbose: bool, as_json: bool
) -> int:
    """Executes the runs without a server, showing what they do; gives the exit code."""
    from orchestration.cli import run_process
    from orchestration.cli.parallel import Runs
    from orchestration.cli.progress import Progress
    from orchestration.cli.runs import State
    from orchestration.instance.home import prepare_dagster_home

    prepare_dagster_home()
    progress = Progress(runs, sys.stderr if as_json else sys.stdout, verbose=verbose)
    executed = Runs(
        runs,
        jobs=jobs,
        display=progress,
        work=lambda run, tell: run_process.execute(
            run, tell, catalog.interpreter(run.selection.location)
        ),
        cancel=run_process.mark_cancelling,
        give_up=run_process.note_lost,
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
