"""An hour of faults in miniature.

Serves a copy of the project with `up`, and launches runs over all of its locations. Some fail,
some are cancelled, some run into their limit, and processes are killed, locations reloaded and
broken, and products.yml changed all the while. At the end every run must be in its right state,
every result whole, and `up` must have no more processes, open files and memory than it had after
the first 20 runs.
"""

import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from soak.patience import patiently
from soak.usage import HEADING, Usage, children_of
from tests.harness.forks import command_of, descendants
from tests.harness.processes import wait_until
from tests.harness.up_server import (
    Server,
    checkout_of,
    copy_project,
    pretend_done,
    started,
)

WARM_UP = 20
IN_FLIGHT = 6
RUN_SECONDS = 180.0
SETTLE_SECONDS = 90.0
LIBRARIES = ("bpl_libraries", "nypl_libraries", "qpl_libraries")
TEMPLATES = (*LIBRARIES, "dpr_parks", "dpr_sites", "dcp_capital_projects", "library_systems")
SAMPLE = ("libraries", "park_access", "capital_projects")
VERSION = "20260101"
# Products that the sample has not, with what befalls their runs.
COMMANDS = {
    "quick": 'seq 1000 > "$BUILD_ENV_OUTPUT_DIR/numbers"; cat "$BUILD_ENV_OUTPUT_DIR/numbers"',
    "flood": 'yes | head -c 300000000; echo done > "$BUILD_ENV_OUTPUT_DIR/numbers"',
    "failing": 'seq 500 > "$BUILD_ENV_OUTPUT_DIR/numbers"; echo no such table >&2; exit 3',
    "daemon": 'setsid sleep 900 & sleep 901 & seq 10 > "$BUILD_ENV_OUTPUT_DIR/numbers"',
    "slow": "sleep 600 & wait $!",
    "slower": "setsid sleep 600 & sleep 600",
    "stubborn": "trap '' TERM; while :; do sleep 1; done",
    # For a minute, no newline.
    "dots": "for _ in {1..60}; do printf .; sleep 1; done"
    ' && seq 10 > "$BUILD_ENV_OUTPUT_DIR/numbers"',
    # Has no runs: one that begins while its location is broken fails, as it should.
    "breaking": "true",
}
PARTITIONS = ("main", "nightly_qa", "2026.1-1_soak")
RUNS_QUERY = """
query Runs($ids: [String!]!) {
  runsOrError(filter: {runIds: $ids}) { ... on Runs { results {
    runId
    status
  } } }
}
"""
ALL_RUNS_QUERY = "{ runsOrError { ... on Runs { results { runId status } } } }"


@dataclass
class Run:
    """One run, and what is to become of it."""

    id: str
    what: str
    expected: str
    befall: Callable[["Run"], None] | None = None
    """What to do to it once it has started."""
    launched: float = field(default_factory=time.monotonic)
    status: str = ""
    pid: int | None = None


class Soak:
    """Launches runs, brings faults about, and keeps the books."""

    def __init__(self, server: Server, count: int, seed: int) -> None:
        self.server, self.count = server, count
        self.chosen = random.Random(seed)
        self.started = time.monotonic()
        self.runs: list[Run] = []
        self.active: list[Run] = []
        self.faults: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.usages: list[Usage] = []
        self.products_text = server.products.read_text()

    # Runs

    def launch(self) -> None:
        """Launches a run of a kind chosen at random."""
        kinds: list[tuple[int, Callable[[], Run]]] = [
            (30, self._ingest),
            (15, self._sample_build),
            (20, lambda: self._build("quick", "SUCCESS")),
            (4, lambda: self._build("flood", "SUCCESS")),
            (8, lambda: self._build("daemon", "SUCCESS")),
            (8, lambda: self._build("failing", "FAILURE")),
            (4, lambda: self._build("slow", "CANCELED", self._cancel)),
            (4, lambda: self._build("slower", "FAILURE", self._kill_run)),
            (4, lambda: self._build("slow", "FAILURE", self._kill_step)),
            (2, lambda: self._build("stubborn", "CANCELED", self._cancel)),
            (1, lambda: self._build("slower", "FAILURE", limit=3)),
        ]
        [make] = self.chosen.choices(
            [kind for _, kind in kinds], weights=[weight for weight, _ in kinds]
        )
        self._keep(make())

    def _keep(self, run: Run) -> None:
        self.runs.append(run)
        self.active.append(run)

    def _ingest(self) -> Run:
        template = self.chosen.choice(TEMPLATES)
        run = patiently(lambda: self.server.launch("ingest", template, partition=VERSION))
        return Run(run, f"ingest/{template}", "SUCCESS")

    def _sample_build(self) -> Run:
        slug = self.chosen.choice(SAMPLE)
        stages = ("plan", "load", "build", "package")
        run = patiently(
            lambda: self.server.launch(slug, *stages, partition="main", job=f"build_{slug}")
        )
        return Run(run, slug, "SUCCESS")

    def _build(
        self,
        slug: str,
        expected: str,
        befall: Callable[[Run], None] | None = None,
        limit: int | None = None,
    ) -> Run:
        partition = self.chosen.choice(PARTITIONS)
        tags = {"dagster/max_runtime": str(limit)} if limit else {}
        # A location that is broken for the moment has not what is asked for.
        run = patiently(lambda: self.server.launch(slug, "build", partition=partition, tags=tags))
        what = befall.__name__.strip("_").replace("_", " ") if befall else ""
        what = f"{slug}: {what or ('limit' if limit else 'build')}"
        return Run(run, what, expected, befall)

    def attend(self) -> None:
        """Brings the books up to date, and about what is to befall the runs that have started."""
        if not self.active:
            return
        ids = [run.id for run in self.active]
        found = patiently(lambda: self.server.query(RUNS_QUERY, ids=ids))["runsOrError"]["results"]
        states = {run["runId"]: run["status"] for run in found}
        for run in list(self.active):
            run.status = states[run.id]
            if run.befall and run.status == "STARTED" and not run.pid:
                run.pid = self.server.run_pid(run.id)
            if run.status in ("SUCCESS", "FAILURE", "CANCELED"):
                self.active.remove(run)
                if run.status != run.expected:
                    self.wrong.append(f"run {run.id} ({run.what}): {run.status}")
            elif run.befall and run.status == "STARTED" and run.pid and step_of(run.pid):
                befall, run.befall = run.befall, None
                befall(run)
            elif time.monotonic() - run.launched > RUN_SECONDS:
                self.active.remove(run)
                self.wrong.append(f"run {run.id} ({run.what}): {run.status} for too long")

    def _cancel(self, run: Run) -> None:
        patiently(lambda: self.server.cancel(run.id))

    def _kill_run(self, run: Run) -> None:
        assert run.pid
        kill(run.pid)

    def _kill_step(self, run: Run) -> None:
        assert run.pid
        kill(self.chosen.choice(sorted(step_of(run.pid))))

    # Faults

    def strike(self) -> None:
        """Brings a fault, or a change, about."""
        kinds = [
            self._reload_a_location,
            self._reload_a_location,
            self._reload_all,
            self._kill_a_code_server,
            self._change_products,
            self._break_products,
            self._break_a_location,
        ]
        fault = self.chosen.choice(kinds)
        self.faults[fault.__name__.strip("_").replace("_", " ")] += 1
        fault()

    def _reload_a_location(self) -> None:
        name = self.chosen.choice(["ingest", *SAMPLE, *COMMANDS])
        patiently(lambda: self.server.reload(name))

    def _reload_all(self) -> None:
        patiently(self.server.reload_all)

    def _kill_a_code_server(self) -> None:
        awake = sorted(self.server.awake().values())
        if awake:
            kill(self.chosen.choice(awake))

    def _change_products(self) -> None:
        changed = yaml.safe_load(self.products_text)
        changed["products"][-1]["description"] = f"Changed at {time.monotonic()}."
        self.server.products.write_text(yaml.safe_dump(changed))

    def _break_products(self) -> None:
        self.server.products.write_text("products: [{id: 5\n")
        time.sleep(2)
        self.server.products.write_text(self.products_text)

    def _break_a_location(self) -> None:
        file = self.server.product_folder("breaking") / "definitions.py"
        file.write_text("raise RuntimeError('broken for a while')\n")
        time.sleep(4)
        file.unlink()

    # Books

    def settle(self) -> bool:
        """Waits until nothing is going on any more."""
        end = time.monotonic() + RUN_SECONDS + SETTLE_SECONDS
        while self.active and time.monotonic() < end:
            self.attend()
            time.sleep(0.3)
        names = ["ingest", *SAMPLE, *COMMANDS]
        loaded = wait_until(
            lambda: patiently(self.server.locations) == dict.fromkeys(names), SETTLE_SECONDS
        )
        if not loaded:
            self.wrong.append(f"locations: {self.server.locations()}")
        return loaded

    def measure(self) -> Usage:
        """What `up` takes, once it takes no less any more."""
        # Locations that were asked something go to sleep again, and servers that were replaced have
        # some time to finish what they were asked.
        wait_until(lambda: not self.server.awake(), SETTLE_SECONDS)
        usage = self._usage()
        end = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < end:
            time.sleep(5)
            usage, before = self._usage(), usage
            if usage.processes >= before.processes and usage.files >= before.files:
                break
        self.usages.append(usage)
        print(usage.row(), flush=True)
        return usage

    def _usage(self) -> Usage:
        return Usage.of(self.server, runs=len(self.runs), began=self.started)

    def run(self) -> None:
        """All of it."""
        self.settle()
        for name in TEMPLATES:
            self.server.add_partition("ingest", f"ingest_{name}", VERSION)
        for name in COMMANDS:
            self.server.add_partition(name, f"build_{name}", PARTITIONS[-1])
        ingest_all(self)
        print(HEADING, flush=True)
        self._keep(self._build("dots", "SUCCESS"))
        for runs in range(WARM_UP, self.count + 1, WARM_UP):
            while len(self.runs) < runs:
                self.attend()
                if len(self.active) < IN_FLIGHT:
                    self.launch()
                    if self.chosen.random() < 0.25:
                        self.strike()
                else:
                    time.sleep(0.3)
            self.settle()
            self.measure()
        self._judge()

    def _judge(self) -> None:
        self.wrong += self.usages[-1].excess(self.usages[0])
        for log in self.server.state.glob("builds/dots/*/build/build.log"):
            if log.read_text() != 60 * "." + "\n":
                self.wrong.append(f"{log} is not complete")
        shown = patiently(lambda: self.server.query(ALL_RUNS_QUERY))["runsOrError"]["results"]
        states = {run["runId"]: run["status"] for run in shown}
        for run in self.runs:
            if states.get(run.id) != run.expected:
                self.wrong.append(f"run {run.id} ({run.what}) is {states.get(run.id)} at the end")


def kill(pid: int) -> None:
    """Ends a process without a warning, if it is still there."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def step_of(run: int) -> set[int]:
    """The reaper of a run's step, and the command that it runs; empty where there is none yet."""
    below = descendants(run)
    reapers = {pid for pid in below if b"reaper.py" in command_of(pid)}
    commands = {pid for reaper in reapers for pid in children_of(reaper, below)}
    return reapers | commands if commands else set()


class Reader:
    """Looks at every published build all the while, and keeps what was not whole."""

    def __init__(self, lifecycle: Path) -> None:
        self.looks = 0
        self.wrong: list[str] = []
        self._lifecycle = lifecycle
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ended.wait(0.2):
            for link in self._lifecycle.glob("*/*/*"):
                self._look(link if link.is_symlink() else link / "build")

    def _look(self, link: Path) -> None:
        if not link.is_symlink():
            return
        self.looks += 1
        try:
            folder = link.resolve(strict=True)
            stage = "ingest" if link.parent.parent.name == "ingest" else link.name
            if not (folder / f"{stage}.log").is_file():
                self.wrong.append(f"{folder} has no log")
            numbers = folder / "numbers"
            if numbers.is_file() and not numbers.read_text().endswith(("1000\n", "10\n", "done\n")):
                self.wrong.append(f"{numbers} is not complete")
        except OSError as error:
            self.wrong.append(str(error))

    def __enter__(self) -> "Reader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def prepare(folder: Path) -> Path:
    """A copy of the project, the sample's products and those made up for this in its checkout."""
    project = copy_project(folder)
    products = checkout_of(project) / "products"
    listed = yaml.safe_load((products / "products.yml").read_text())["products"]
    for name, command in COMMANDS.items():
        listed.append({"id": name, "build_command": command})
        (products / name).mkdir()
        for partition in PARTITIONS:
            pretend_done(project, name, "load", partition)
    (products / "products.yml").write_text(yaml.safe_dump({"products": listed}))
    return project


def ingest_all(soak: Soak) -> None:
    """What the sample's builds need to begin with."""
    for name in TEMPLATES:
        run = soak.server.launch("ingest", name, partition=VERSION)
        soak.server.wait_for_run(run, seconds=RUN_SECONDS)


def kill_up(project: Path) -> list[str]:
    """Kills `up` while runs are at work, and looks at what the next one makes of that."""
    wrong = []
    with started(project) as server:
        server.wait_for_output("Dagster is at")
        wait_until(lambda: patiently(lambda: len(server.loads())) > len(COMMANDS), 30)
        runs = [server.launch(slug, "build", partition="main") for slug in ("slow", "stubborn")]
        for run in runs:
            server.wait_for_run(run, "STARTED")
            wait_until(lambda run=run: step_of(server.run_pid(run)))  # type: ignore[misc]
        began = time.monotonic()
        kill(server.process.pid)
        server.process.wait()
        if not wait_until(lambda: not server.processes(), 30):
            wrong.append(f"{len(server.processes())} processes 30 s after `up` was killed")
        print(f"up killed: nothing left after {time.monotonic() - began:.1f} s")
    with started(project) as server:
        server.wait_for_output("Dagster is at")
        for run in runs:
            ended = wait_until(
                lambda run=run: server.run_status(run) == "FAILURE",  # type: ignore[misc]
                60,
            )
            if not ended:
                wrong.append(f"run {run} of the killed `up` is {server.run_status(run)}")
        server.stop()
    return wrong


def damaged_databases(home: Path) -> list[str]:
    """What SQLite finds wrong with Dagster's databases."""
    wrong = []
    for file in home.rglob("*.db"):
        with closing(sqlite3.connect(file)) as database:
            [found] = database.execute("PRAGMA integrity_check").fetchone()
        if found != "ok":
            wrong.append(f"{file}: {found}")
    return wrong


def bring_about(folder: Path, count: int, seed: int) -> list[str]:
    """Has so many runs, and what befalls them, in the folder; gives what is wrong afterwards."""
    project = prepare(folder)
    with started(project) as server, Reader(project / ".lifecycle") as reader:
        server.wait_for_output("Dagster is at")
        soak = Soak(server, count, seed)
        soak.run()
        server.stop()
        tracebacks = server.output.count("Traceback")
    print(f"\nruns: {dict(Counter(f'{run.what} {run.expected}' for run in soak.runs))}")
    print(f"faults: {dict(soak.faults)}")
    print(f"results looked at: {reader.looks}; tracebacks in the output: {tracebacks}", flush=True)
    return [
        *soak.wrong,
        *reader.wrong,
        *kill_up(project),
        *damaged_databases(project / ".dagster"),
    ]
