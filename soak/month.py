"""A month of nights in fast motion: `make month`, some twenty minutes. It needs a C compiler.

Serves a copy of the project with 20 made-up products, which are built every night, as some of the
sample's templates are ingested. Its clock is moved from night to night. Some products fail on some
nights, `up` is killed in three of them, and the disk is full in one. On every morning each product
is built, or its owner was told, once; and the disk does not fill after the tenth. Writes MONTH.md,
and exits with 1 where that does not hold.
"""

import argparse
import json
import math
import os
import random
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml

from orchestration import OrchestrationError
from orchestration.catalog.checkout import SAMPLE_ROOT
from orchestration.catalog.names import PARTITION_TAG
from orchestration.lifecycle.environment import dcpy_python
from soak import end_when_told
from soak.__main__ import SETTINGS
from tests.harness.processes import wait_until
from tests.harness.receivers import Webhook, receiving
from tests.harness.up_server import Server, checkout_of, copy_project, selector, started

RESULTS = Path(__file__).parent.parent / "benchmarks" / "MONTH.md"
FIRST = datetime(2031, 1, 6, 6, tzinfo=UTC)
NIGHTS = 30
PRODUCTS = [f"product_{number:02}" for number in range(1, 21)]
KILLED = {6, 14, 23}
FULL = 18
SETTLED = 10
DISK_MB = 600
LOW_MB = 40
# Of what the disk and the database hold in the last nights, compared with those before.
GROWTH = 1.05
NIGHT_SECONDS = 240.0
RECIPE = """\
name: {0}
product: {0}
version: "1"
env: {{VERSION_PREV: "0"}}
inputs: {{datasets: []}}
"""
RUNS = """
query Runs($filter: RunsFilter) { runsOrError(filter: $filter, limit: 200) { ... on Runs { results {
  runId jobName status creationTime tags { key value }
} } } }
"""
TICKS = """
query Ticks($sensor: SensorSelector!) { sensorOrError(sensorSelector: $sensor) {
  ... on Sensor { sensorState { ticks(limit: 1) { timestamp } } }
} }
"""
SENSORS = ("runs_that_failed", "runs_that_succeeded", "alerts")
FINISHED = ("SUCCESS", "FAILURE", "CANCELED")
HEADING = (
    "night",
    "built",
    "failed",
    "told",
    "results MB",
    "database MB",
    "logs MB",
    "runs",
    "what befell",
)


class Clock:
    """A clock for those who are started with its `env`; it can be moved forwards."""

    def __init__(self, folder: Path) -> None:
        self._file, library = folder / "clock", folder / "clock.so"
        source = Path(__file__).with_name("clock.c")
        command = ["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"]
        subprocess.run(command, check=True)
        self._offset = 0
        self.move(FIRST)
        self.env = {"LD_PRELOAD": str(library), "CLOCK_FILE": str(self._file), "TZ": "UTC"}

    def now(self) -> float:
        return time.time() + self._offset

    def move(self, to: datetime) -> None:
        """Has it show that time from now on, everywhere."""
        # Not a moment earlier: what is done at once is to bear a time that is not before it.
        self._offset = max(self._offset, math.ceil(to.timestamp() - time.time()))
        # In its place, since it is mapped.
        file = os.open(self._file, os.O_WRONLY | os.O_CREAT)
        os.write(file, struct.pack("l", self._offset))
        os.close(file)

    def stamp(self, folder: Path) -> None:
        """Gives files this clock's time, which the system has stamped with its own."""
        now = self.now()
        for path in [folder, *folder.rglob("*")]:
            try:
                if path.lstat().st_mtime < FIRST.timestamp() - 86_400:
                    os.utime(path, (now, now), follow_symlinks=False)
            except FileNotFoundError:
                continue


@dataclass
class Night:
    """What came of one night."""

    number: int
    befell: str = ""
    built: int = 0
    failed: int = 0
    told: list[str] = field(default_factory=list)
    results: float = 0.0
    database: float = 0.0
    logs: float = 0.0
    runs: int = 0

    def row(self) -> str:
        """A line of the table."""
        sizes = [f"{size:.1f}" for size in (self.results, self.database, self.logs)]
        cells = [self.number, self.built, self.failed, len(self.told), *sizes, self.runs]
        return " | ".join(["", *map(str, cells), self.befell, ""]).strip()


class Month:
    """The nights, and the books of what was to be built and who was to be told."""

    def __init__(self, project: Path, disk: Path, clock: Clock, webhook: Webhook) -> None:
        self.project, self.disk, self.clock, self.webhook = project, disk, clock, webhook
        self.lifecycle, self.home = disk / "lifecycle", disk / "dagster"
        self.chosen = random.Random(20310106)
        self.broken: set[str] = set()
        self.failing: dict[str, int] = {}
        self.nights: list[Night] = []
        self.wrong: list[str] = []
        self._told = 0
        self._stack = ExitStack()
        self.server: Server

    def start(self) -> None:
        """Starts `up`, and waits until the sensors have looked."""
        env = {
            **self.clock.env,
            "DCPY_LIFECYCLE_DATA_DIR": str(self.lifecycle),
            "DAGSTER_HOME": str(self.home),
            "DCPY_PYTHON": str(dcpy_python(None, {"DATA_ENGINEERING_ROOT": str(SAMPLE_ROOT)})[0]),
            "APPRISE_URLS": self.webhook.url,
        }
        self.server = self._stack.enter_context(started(self.project, env=env))
        self.server.wait_for_output("Dagster is at", 120.0)
        begun = self.clock.now()
        self.server.wait_for(lambda: min(map(self._looked, SENSORS)) > begun - 60.0, 120.0)

    def _looked(self, sensor: str) -> float:
        chosen = {**selector("operations"), "sensorName": sensor}
        ticks = self.server.query(TICKS, sensor=chosen)["sensorOrError"]["sensorState"]["ticks"]
        return max((tick["timestamp"] for tick in ticks), default=0.0)

    def stop(self) -> None:
        """Ends `up`."""
        with self._stack:
            self.server.stop()

    def run(self, nights: int) -> None:
        """All nights."""
        print(" | ".join(HEADING), flush=True)
        for number in range(1, nights + 1):
            night = Night(number)
            self._prepare(night)
            self._pass(night)
            self._look_at_the_morning(night)
            self.nights.append(night)
            print(night.row(), flush=True)

    def _prepare(self, night: Night) -> None:
        """Has some products fail from now on, for a night or some."""
        self.failing = {name: left - 1 for name, left in self.failing.items() if left > 1}
        for name in self.chosen.sample(PRODUCTS, self.chosen.choice((0, 0, 1, 2))):
            self.failing.setdefault(name, self.chosen.choice((1, 1, 3)))
        flags = self.project / "failing"
        flags.mkdir(exist_ok=True)
        for name in PRODUCTS:
            flag = flags / name
            flag.touch() if name in self.failing else flag.unlink(missing_ok=True)

    def _pass(self, night: Night) -> None:
        day = FIRST + timedelta(days=night.number)
        self.clock.stamp(self.lifecycle)
        small_hours = day.replace(hour=3, second=5)
        self.clock.move(small_hours)
        cleaned = self.lifecycle / ".cleaned"
        self._await(night, "cleaned up", lambda: cleaned.stat().st_mtime >= small_hours.timestamp())
        if night.number == FULL:
            night.befell = "the disk is full"
            self._fill(LOW_MB / 2)
            first = day.replace(hour=4)
            self.clock.move(first)
            self._await(night, "looked", lambda: self._looked("alerts") >= first.timestamp())
            self.clock.move(day.replace(hour=4, minute=5))
            self._await(night, "told of the disk", lambda: self._titles("Disk "))
            self._fill(0.0)
        self.due = day.replace(hour=5)
        self.clock.move(self.due)
        if night.number in KILLED:
            night.befell = "`up` is killed"
            self._await(night, "began", lambda: len(self._of_tonight()) > 3)
            os.kill(self.server.process.pid, signal.SIGKILL)
            self._stack.close()
            self._stack = ExitStack()
            self.start()
        if night.number == FULL:
            time.sleep(20.0)
            (self.disk / "ballast").unlink()
        self._await(night, "ended", self._is_over)
        self.clock.move(day.replace(hour=8))

    def _titles(self, begin: str) -> list[str]:
        return [title for title in self.webhook.titles[self._told :] if title.startswith(begin)]

    def _fill(self, leave_mb: float) -> None:
        status = os.statvfs(self.disk)
        size = int(status.f_bavail * status.f_frsize - leave_mb * 1e6)
        with (self.disk / "ballast").open("ab") as file:
            for _ in range(max(size, 0) // 2**16):
                file.write(b"\0" * 2**16)

    def _await(self, night: Night, what: str, condition: Callable[[], object]) -> None:
        def holds() -> bool:
            try:
                return bool(condition())
            except (OSError, OrchestrationError):
                return False

        if not wait_until(holds, NIGHT_SECONDS):
            self.wrong.append(f"night {night.number}: not {what}")
            said = [line for line in self.server.output.splitlines() if " - DEBUG - " not in line]
            print("\n".join([f"Not {what}:", *said[-30:]]), flush=True)

    def _of_tonight(self) -> list[Mapping[str, str]]:
        found = self.server.query(RUNS, filter={"createdAfter": self.due.timestamp() - 1})
        return [
            {
                "product": run["jobName"].removeprefix("build_"),
                "status": run["status"],
                **{tag["key"]: tag["value"] for tag in run["tags"]},
            }
            for run in found["runsOrError"]["results"]
        ]

    def _is_over(self) -> bool:
        runs = self._of_tonight()
        products = {run["product"] for run in runs}
        return products >= {*PRODUCTS} and all(run["status"] in FINISHED for run in runs)

    def _look_at_the_morning(self, night: Night) -> None:
        """Compares what was built and told with what was to be."""
        # The newest of each comes last.
        last = {run["product"]: run for run in reversed(self._of_tonight())}
        expected = set()
        for name in PRODUCTS:
            run = last.get(name)
            if not run:
                self.wrong.append(f"night {night.number}: {name} was not launched")
                continue
            note = run[PARTITION_TAG].rpartition("-")[2]
            is_good = run["status"] == "SUCCESS"
            night.built += is_good
            night.failed += not is_good
            if is_good and name in self.broken:
                expected.add(f"{name} ({note}) is well again")
            elif not is_good and name not in self.broken:
                expected.add(f"{name} ({note}) failed")
            (self.broken.discard if is_good else self.broken.add)(name)
            if (is_good and name in self.failing) or not (is_good or self._is_excused(night, name)):
                self.wrong.append(f"night {night.number}: {name} is {run['status']}")
        self._await(night, "told", lambda: expected <= {*self.webhook.titles[self._told :]})
        self._await(night, "looked", lambda: self._looked("alerts") > self.due.timestamp() + 3600)
        night.told = self.webhook.titles[self._told :]
        self._told = len(self.webhook.titles)
        own = sorted(title for title in night.told if title.startswith("product_"))
        if own != sorted(expected):
            self.wrong.append(f"night {night.number}: told {own}, not {sorted(expected)}")
        self._measure(night)

    def _is_excused(self, night: Night, name: str) -> bool:
        return name in self.failing or night.number in {*KILLED, FULL}

    def _measure(self, night: Night) -> None:
        night.results = megabytes(self.lifecycle)
        night.logs = megabytes(self.home / "storage")
        night.database = sum(map(megabytes, (self.home / "history", self.home / "schedules")))
        with closing(sqlite3.connect(f"file:{self.home}/history/runs.db?mode=ro", uri=True)) as db:
            [night.runs] = db.execute("select count(*) from runs").fetchone()

    def growth(self) -> Iterator[str]:
        """What has grown after the tenth night."""
        settled = self.nights[SETTLED:]
        half = len(settled) // 2
        if not half:
            return
        for what in ("results", "database", "logs", "runs"):
            sizes = [float(getattr(night, what)) for night in settled]
            before, after = max(sizes[:half]), max(sizes[half:])
            if after > GROWTH * before:
                yield f"{what} grow: at most {before:.1f}, then {after:.1f}"


def megabytes(folder: Path) -> float:
    """What the files below the folder hold."""
    files = (path for path in folder.rglob("*") if not path.is_symlink())
    return sum(path.stat().st_size for path in files if path.is_file()) / 1e6


def prepare(project: Path) -> None:
    """Gives the copy its products, half of which have a new partition every night."""
    root = checkout_of(project)
    nightly = {"cron": "0 5 * * *", "timezone": "UTC"}
    entries = []
    for number, name in enumerate(PRODUCTS):
        folder = root / "products" / name
        folder.mkdir()
        (folder / "recipe.yml").write_text(RECIPE.format(name))
        key = "nightly_qa" if number % 2 else "{{ date.strftime('%Y%m%d') }}-nightly"
        output = '"$BUILD_ENV_OUTPUT_DIR/out"'
        entries.append(
            {
                "id": name,
                "build_command": f"test ! -e {project}/failing/{name} && "
                f"head -c 200000 /dev/urandom > {output}",
                "owners": ["team:month"],
                "schedule": {**nightly, "partition": key},
            }
        )
    group = {
        "name": "every night",
        "templates": ["*pl_libraries"],
        "schedule": nightly,
        "version": "{{ date.strftime('%Y%m%d') }}",
    }
    file = {
        "products": entries,
        "ingest": {"groups": [group]},
        "notify": {"disk_free_gb": LOW_MB / 1000},
        "retention": {"keep": 3, "older_than": "4d"},
    }
    (root / "products" / "products.yml").write_text(yaml.safe_dump(file, sort_keys=False))


def write_results(month: Month, seconds: float) -> None:
    """Writes the table."""
    lines = [
        "# A month in fast motion",
        "",
        f"Written by `make month`: {len(PRODUCTS)} products, {len(month.nights)} nights, "
        f"{seconds / 60:.0f} minutes. In the evening some products begin to fail, for a night or "
        "three. `told` counts the messages of the morning.",
        "",
        f"| {' | '.join(HEADING)} |",
        f"|{' --- |' * len(HEADING)}",
        *(night.row() for night in month.nights),
        "",
        *(
            ["Wrong:", "", *(f"- {text}" for text in month.wrong)]
            if month.wrong
            else ["All is well."]
        ),
    ]
    RESULTS.write_text("\n".join(lines) + "\n")


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of its own in the folder."""
    folder.mkdir()
    size = f"size={DISK_MB}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def main() -> int:
    """Lets the month pass; gives the exit code."""
    end_when_told()
    parser = argparse.ArgumentParser(prog="python -m soak.month", description=__doc__)
    parser.add_argument("--nights", type=int, default=NIGHTS, help="how many (%(default)s)")
    options = parser.parse_args()
    for name in SETTINGS:
        os.environ.pop(name, None)
    begun = time.monotonic()
    webhook = Webhook()
    with (
        tempfile.TemporaryDirectory(prefix="month-", ignore_cleanup_errors=True) as folder,
        small_disk(Path(folder, "disk")) as disk,
        receiving(webhook),
    ):
        project = copy_project(Path(folder))
        prepare(project)
        month = Month(project, disk, Clock(Path(folder)), webhook)
        try:
            month.start()
            month.run(options.nights)
        finally:
            month.stop()
    month.wrong += month.growth()
    if options.nights == NIGHTS:
        write_results(month, time.monotonic() - begun)
    if month.wrong:
        print(json.dumps(webhook.titles, indent=1))
    print("\n".join(["wrong:", *month.wrong]) if month.wrong else "All is as it should be.")
    return 1 if month.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
