"""Three hosts in miniature: `make soak` has it where the machine allows network namespaces.

`up` and Postgres are on the first, and two others serve most of the locations. 200 runs go over
all of them while hosts are cut off without anybody being told, one is killed with its runs, the
database is restarted beneath them, and a product is added. At the end every run must be in its
right state, none have been executed twice, and nothing be left. Exits with 1 where that does not
hold.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from orchestration import OrchestrationError
from orchestration.instance.home import POSTGRES_VARIABLE
from soak import end_when_told
from tests.harness.hosts import Host, three_hosts
from tests.harness.postgres import Postgres, postgres_cluster
from tests.harness.processes import wait_until
from tests.harness.up_server import (
    Server,
    checkout_of,
    copy_project,
    pretend_done,
    started,
    write_products,
)

SETTINGS = ("DAGSTER_HOME", "DATA_ENGINEERING_ROOT", "DCPY_LIFECYCLE_DATA_DIR", "DCPY_PYTHON")
IN_FLIGHT = 6
SHORT, LONG = 20.0, 180.0
"""For how long a host is cut off, in seconds."""
BACK_SECONDS = 10.0
GIVEN_UP_SECONDS = 60.0
SETTLE_SECONDS = 240.0
FINISHED = {"SUCCESS", "FAILURE", "CANCELED"}
DONE = 'seq 1000 > "$BUILD_ENV_OUTPUT_DIR/numbers"'
# Longer than the short cut, and shorter than the long one.
SLOW = f"sleep 40; {DONE}"
# Each product with its command, and the host that serves it: 0 is the one of `up`.
PRODUCTS = {
    "near": (DONE, 0),
    "quick": (DONE, 1),
    "slow": (SLOW, 1),
    "daemon": (f"setsid sleep 900 & {DONE}", 2),
    "failing": ("exit 3", 2),
    "far": (DONE, 2),
}
NEW = {"added": (DONE, 2)}
RUNS_QUERY = """
query Runs($ids: [String!]!) {
  runsOrError(filter: {runIds: $ids}) { ... on Runs { results { runId status } } }
}
"""


class Soak:
    """The hosts, what is launched on them, and what is to become of it."""

    def __init__(self, folder: Path, hosts: list[Host], postgres: Postgres, runs: int) -> None:
        self.hosts, self.postgres, self.wanted = hosts, postgres, runs
        self.journal = folder / "journal"
        self.journal.mkdir()
        self.env = {POSTGRES_VARIABLE: postgres.create_database("soak")}
        self.projects = []
        for host in hosts:
            (folder / host.name).mkdir()
            self.projects.append(copy_project(folder / host.name))
        self.products: dict[str, tuple[str, int]] = {}
        self.serve(PRODUCTS)
        self.ups: dict[int, Server] = {}
        self.launched: dict[str, str] = {}
        """The product of each run."""
        self.excused: set[str] = set()
        """Runs that a fault may have ended."""
        self.problems: list[str] = []
        self.random = random.Random(7)

    def serve(self, products: dict[str, tuple[str, int]]) -> None:
        """Has all hosts have these products, too."""
        self.products = {**self.products, **products}
        ports: dict[str, dict[str, int]] = {}
        for number, (name, (_, host)) in enumerate(self.products.items()):
            if host:
                ports.setdefault(self.hosts[host].address, {})[name] = 4300 + number
        commands = {
            name: f'echo "$BUILD_NAME" >> {self.journal}/{name}; {command}'
            for name, (command, _) in self.products.items()
        }
        for project in self.projects:
            write_products(project, commands)
            file = checkout_of(project) / "products" / "deployment.yml"
            file.write_text(yaml.safe_dump({"hosts": ports}))
            for name in products:
                pretend_done(project, name, "load", "main")

    def start(self, number: int, stack: ExitStack) -> None:
        """Starts `up` on a host."""
        host, project = self.hosts[number], self.projects[number]
        options = ["--host-name", host.address] if number else []
        self.ups[number] = stack.enter_context(
            started(project, *options, env=self.env, within=host.within)
        )

    @property
    def main(self) -> Server:
        return self.ups[0]

    def say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {len(self.launched):4} runs: {text}", flush=True)

    def expect(self, what: str, condition: Callable[[], object], seconds: float) -> None:
        """Notes what does not hold in time, and how long it took."""
        begun = time.monotonic()
        if wait_until(lambda: self.holds(condition), seconds):
            self.say(f"{what} after {time.monotonic() - begun:.1f} s")
        else:
            self.problems.append(f"not within {seconds:.0f} s: {what} ({self.unfinished()})")
            self.say(self.problems[-1])

    def holds(self, condition: Callable[[], object]) -> bool:
        try:
            return bool(condition())
        except OrchestrationError:
            return False

    def states(self) -> dict[str, str]:
        """The state of each run."""
        found = self.main.query(RUNS_QUERY, ids=list(self.launched))["runsOrError"]["results"]
        return {run["runId"]: run["status"] for run in found}

    def unfinished(self) -> dict[str, str]:
        return {run: state for run, state in self.states().items() if state not in FINISHED}

    def launch(self, name: str) -> str | None:
        """Launches a run; None where that cannot be at the moment, as on a host that is off."""
        try:
            run = self.main.launch(name, "build", partition="main")
        except (AssertionError, OrchestrationError, OSError):
            return None
        self.launched[run] = name
        return run

    def feed(self) -> None:
        """Launches runs until there are enough."""
        while len(self.launched) < self.wanted:
            try:
                is_busy = len(self.unfinished()) >= IN_FLIGHT if self.launched else False
            except OrchestrationError:
                is_busy = True
            names = [n for n in self.products if n != "slow"]
            if is_busy or self.launch(self.random.choice(names)) is None:
                time.sleep(0.5)

    # Faults

    def slow_run(self) -> str:
        """A run of `slow` that works."""
        run = None
        while run is None:
            run = self.launch("slow")
            time.sleep(0.5)
        assert wait_until(lambda: self.holds(lambda: self.main.run_status(run) == "STARTED"), 120)
        return run

    def at(self, part: float) -> None:
        """Waits until that part of the runs has been launched."""
        assert wait_until(lambda: len(self.launched) >= part * self.wanted, 900)

    def excuse(self, host: int) -> None:
        """What is at work on the host may end otherwise than it would."""
        for run in self.unfinished():
            if self.products[self.launched[run]][1] == host:
                self.excused.add(run)

    def are_back(self) -> bool:
        return not any(self.main.locations().values())

    def restart_postgres(self, how: signal.Signals) -> None:
        self.say(f"Postgres is stopped ({how.name})")
        self.postgres.stop(how)
        time.sleep(8)
        self.postgres.start()
        self.expect("the server answers again", self.states, BACK_SECONDS)

    def cut_off(self, seconds: float) -> None:
        run = self.slow_run()
        time.sleep(2)
        if seconds > SHORT:
            self.excuse(1)
        self.say(f"host 1 is cut off for {seconds:.0f} s")
        self.hosts[1].cut_off()
        end = time.monotonic() + seconds
        self.expect("its locations show why", lambda: self.main.locations()["quick"], BACK_SECONDS)
        if seconds > SHORT:
            near = self.launch("near")
            assert near
            self.expect("others run", lambda: self.main.run_status(near) == "SUCCESS", 30)
            failed = lambda: self.main.run_status(run) == "FAILURE"  # noqa: E731
            self.expect("its run has failed", failed, GIVEN_UP_SECONDS)
        time.sleep(max(0.0, end - time.monotonic()))
        self.hosts[1].join()
        self.expect("it is back", self.are_back, BACK_SECONDS)
        wanted = "SUCCESS" if seconds <= SHORT else "FAILURE"
        self.expect(f"its run is {wanted}", lambda: self.main.run_status(run) == wanted, 60)

    def kill_host(self, stack: ExitStack) -> None:
        self.excuse(2)
        lost = [run for run in self.unfinished() if run in self.excused]
        self.say(f"host 2 is killed, with {len(lost)} runs of its locations")
        for pid in self.ups[2].processes():
            os.kill(pid, signal.SIGKILL)
        time.sleep(12)
        self.start(2, stack)
        self.ups[2].wait_for_output("serves")
        self.expect("it is back", self.are_back, BACK_SECONDS)

    def add_product(self) -> None:
        self.serve(NEW)
        self.expect("a new product is there", lambda: "added" in self.main.locations(), 30)

    def faults(self, stack: ExitStack) -> None:
        """All of them, one after the other, while runs go on."""
        faults: list[tuple[float, Callable[[], None]]] = [
            (0.1, lambda: self.restart_postgres(signal.SIGINT)),
            (0.2, lambda: self.cut_off(SHORT)),
            (0.35, lambda: self.kill_host(stack)),
            (0.5, self.add_product),
            (0.6, lambda: self.restart_postgres(signal.SIGQUIT)),
            (0.7, lambda: self.cut_off(LONG)),
        ]
        for part, fault in faults:
            self.at(part)
            fault()

    # What has become of it

    def check(self) -> None:
        """Notes all that is not as it should be."""
        self.expect("all runs have ended", lambda: not self.unfinished(), SETTLE_SECONDS)
        states = self.states()
        for run, name in self.launched.items():
            wanted = {"FAILURE"} if name == "failing" else {"SUCCESS"}
            if run in self.excused:
                wanted |= {"FAILURE"}
            if states.get(run) not in wanted:
                self.problems.append(f"run {run} of {name} is {states.get(run)}")
                print(self.main.events(run)[-1500:])
        twice = self.postgres.query(
            "soak",
            "SELECT run_id FROM event_logs WHERE dagster_event_type = 'PIPELINE_START' "
            "GROUP BY run_id HAVING count(*) > 1",
        )
        self.problems += [f"run {run} was executed twice" for run in twice]
        for name in self.products:
            [steps] = self.postgres.query(
                "soak",
                "SELECT count(DISTINCT run_id) FROM event_logs WHERE "
                f"dagster_event_type = 'STEP_START' AND step_key = '{name}__build'",
            )
            lines = (self.journal / name).read_text().splitlines()
            if len(lines) > int(steps):
                self.problems.append(f"{name} was built {len(lines)} times in {steps} runs")
        print(Counter((self.launched[run], state) for run, state in sorted(states.items())))

    def end(self) -> None:
        """Ends every `up`, of which nothing may be left."""
        for number, server in self.ups.items():
            try:
                server.stop()
            except AssertionError as error:
                self.problems.append(f"host {number}: {error}")
        left = [p for project in self.projects for p in (project / ".lifecycle").rglob(".*.link")]
        self.problems += [f"left behind: {path}" for path in left]


def soak(folder: Path, hosts: list[Host], postgres: Postgres, runs: int) -> list[str]:
    """Does all of it, and gives what is wrong."""
    it = Soak(folder, hosts, postgres, runs)
    with ExitStack() as stack:
        for number in range(3):
            it.start(number, stack)
        it.main.wait_until_up("ingest", *PRODUCTS)
        it.main.wait_for(lambda: all("main" in it.main.partitions(name) for name in PRODUCTS))
        feeding = threading.Thread(target=it.feed, daemon=True)
        with hosts[0].entered():
            feeding.start()
            it.faults(stack)
            feeding.join()
            it.check()
        it.end()
        if it.problems:
            print("\n".join(line for line in it.main.output.splitlines() if "DEBUG" not in line))
    return it.problems


def main() -> int:
    """Runs it, and gives the exit code."""
    end_when_told()
    parser = argparse.ArgumentParser(prog="python -m soak.hosts")
    parser.add_argument("--runs", type=int, default=200)
    arguments = parser.parse_args()
    for name in SETTINGS:
        os.environ.pop(name, None)
    try:
        with ExitStack() as stack:
            hosts = stack.enter_context(three_hosts())
            stack.enter_context(hosts[0].entered())
            postgres = stack.enter_context(postgres_cluster(hosts[0].address))
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hosts-")))
            problems = soak(folder, hosts, postgres, arguments.runs)
    except pytest.skip.Exception as error:
        print(f"Skipped: {error}")
        return 0
    print("\n".join(problems) or "Every run is in its right state, and nothing is left.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
