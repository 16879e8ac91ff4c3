"""`status`: what a running server serves, its state, and the last run of each stage."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from orchestration.catalog.names import STAGES
from orchestration.cli.options import PORT, PathPrefix

if TYPE_CHECKING:
    from orchestration.cli.client import LocationStatus

EPILOG = """\b
Examples:
  python -m orchestration status
  python -m orchestration status --port 8080
"""


@click.command("status", short_help="List what a running server serves.", epilog=EPILOG)
@click.option("--host", default="127.0.0.1", help="The server's address.")
@click.option("--port", type=PORT, default=3000, help="The server's port.")
@click.option(
    "--path-prefix",
    type=PathPrefix(),
    default="",
    metavar="/PATH",
    show_default=False,
    help="The server's path prefix, if it has one.",
)
def command(host: str, port: int, path_prefix: str) -> int:
    """List what a running server serves; exit 1 if any of it is broken."""
    from orchestration.cli.client import read_status

    locations = read_status(f"http://{host}:{port}{path_prefix}")
    sys.stdout.write(table(locations))
    return 1 if any(location.error for location in locations) else 0


def table(locations: "Sequence[LocationStatus]") -> str:
    """The locations as lines of text, with a heading."""
    rows = [("location", "state", "assets", *STAGES)] + [
        (
            location.name,
            "broken" if location.error else "loaded",
            str(location.assets),
            *(location.last_runs[stage].lower() or "-" for stage in STAGES),
        )
        for location in locations
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    for location in locations:
        if location.error:
            lines.append(f"{location.name}: {location.error}")
    return "\n".join(lines) + "\n"
