"""`launch`: has a running server run what `materialize` runs without one."""

import json
import sys
from typing import Any

import click

from orchestration.catalog.checkout import checkout_root
from orchestration.cli.options import selecting, serving

EPILOG = """\b
Examples:
  python3 -m orchestration launch libraries main
  python3 -m orchestration launch ingest/bpl_libraries 20260101 --port 8080
"""


@click.command("launch", short_help="Have a running server run products or stages.", epilog=EPILOG)
@selecting
@serving
@click.option("--verbose", is_flag=True, help="Show tracebacks, which are in the logs otherwise.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON per run at the end.")
def command(url: str, verbose: bool, as_json: bool, **selected: Any) -> int:
    """Have a running server run products, stages or ingest templates, and follow their logs.

    SELECTION and PARTITION are as for `materialize`. Ctrl-C asks whether to cancel: the runs are
    the server's, and go on without this command.
    """
    from orchestration.cli.launched_runs import LaunchedRuns
    from orchestration.cli.progress import Progress
    from orchestration.cli.runs import State, selected_runs
    from orchestration.cli.selection import Catalog

    runs = selected_runs(Catalog(checkout_root()), **selected)
    progress = Progress(runs, sys.stderr if as_json else sys.stdout, verbose=verbose)
    served = LaunchedRuns(url, progress)
    is_interrupted = False
    served.prepare(runs)
    while not all(run.has_ended for run in runs):
        try:
            with progress:
                served.follow(runs)
        except KeyboardInterrupt:
            if is_interrupted or not _wants_to_cancel():
                for run in runs:
                    if run.state is State.RUNNING:
                        print(f"{run.selection.name} goes on: {url}/runs/{run.id}", file=sys.stderr)
                return 130
            is_interrupted = True
            served.cancel(runs)
    progress.summary()
    if as_json:
        for run in runs:
            print(json.dumps(run.described(), ensure_ascii=False))
    if is_interrupted:
        return 130
    return 0 if all(run.state is State.SUCCEEDED for run in runs) else 1


def _wants_to_cancel() -> bool:
    if not sys.stdin.isatty():
        return False
    try:
        return click.confirm("\nCancel what is running?", err=True)
    except click.Abort:
        return False
