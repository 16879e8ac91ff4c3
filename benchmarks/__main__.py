"""What isolation costs: `make bench` measures it, prints the tables and writes them to RESULTS.md.

What is compared is measured side by side, on a copy of the project with made-up products, and the
products of DATA_ENGINEERING_ROOT where it is set. Memory is the proportional set size (PSS) of all
processes, in MB. It takes three quarters of an hour; `make bench PARTS="start-20 wake"` measures
parts of it, of some minutes each, and leaves the other results as they are.
"""

import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import dagster

from benchmarks.tables import (
    OWN,
    generation_table,
    load_table,
    rest_table,
    run_table,
    save_table,
    start_table,
    wake_table,
)

RESULTS = Path(__file__).parent / "RESULTS.md"
# The made-up checkouts' numbers of locations, and a part of its own for DATA_ENGINEERING_ROOT.
MADE_UP = ("4", "20", "60", "200")
START = "start-"
HEADING = "# Results\n\nWritten by `make bench`: medians, and the range in brackets.\n"


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


PARTS: dict[str, tuple[str, Callable[[], list[str]]]] = {
    **{
        f"{START}{name}": (
            f"Start of {'DATA_ENGINEERING_ROOT' if name == OWN else f'{name} locations'}, until "
            "GraphQL answers with all loaded",
            partial(start_table, name),
        )
        for name in (*MADE_UP, OWN)
    },
    "rest": ("20 locations at rest, all three at the same time", rest_table),
    "wake": ("First use of a sleeping location", wake_table),
    "save": ("From a saved file to what is served", save_table),
    "run": ("A product of four no-op stages, from launch to success", run_table),
    "generation": ("Generation", generation_table),
    "load": ("CPU time to load a location, imports of Dagster included", load_table),
}
"""What can be measured by itself: the title of each, and what gives its table."""


if __name__ == "__main__":
    main()
