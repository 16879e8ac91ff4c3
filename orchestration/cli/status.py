"""`status`: what a running server serves, its state, and how it went last."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from orchestration.catalog.names import STAGES
from orchestration.cli.moments import last_lines, schedule_lines
from orchestration.cli.options import serving

if TYPE_CHECKING:
    from orchestration.cli.client import LocationStatus

EPILOG = """\b
Examples:
  python3 -m orchestration status
  python3 -m orchestration status --port 8080
  python3 -m orchestration status --json
"""


@click.command("status", short_help="List what a running server serves.", epilog=EPILOG)
@serving
@click.option("--json", "as_json", is_flag=True, help="Print the locations as a JSON list.")
def command(url: str, as_json: bool) -> int:
    """List what a running server serves; exit 1 if any of it is broken."""
    from orchestration.cli.client import read_status

    locations = read_status(url)
    if as_json:
        print(json.dumps([each.described() for each in locations], indent=2, ensure_ascii=False))
    else:
        sys.stdout.write(table(locations))
    return 1 if any(location.error for location in locations) else 0


def _state(location: "LocationStatus") -> str:
    if not location.error:
        return "loaded"
    # What is served all the same is its own, without what its team defines.
    return "in part" if location.assets else "broken"


def table(locations: "Sequence[LocationStatus]") -> str:
    """The locations as lines of text, with a heading."""
    rows = [("location", "state", "assets", *STAGES)] + [
        (
            location.name,
            _state(location),
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
    for location in locations:
        told = [
            *schedule_lines(location.schedules, location.follows_inputs),
            *last_lines(location.last_good, location.last_failed),
        ]
        lines += ["", location.name, *told] if told else []
    return "\n".join(lines) + "\n"
