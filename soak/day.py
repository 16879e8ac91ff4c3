"""A day of a team's 20 locations, in fast motion.

An hour is half a minute: as many ticks as Dagster's daemon allows, which looks at sensors every
five seconds and at schedules every minute, and in each hour a reload, a changed and an added or
removed product, a backfill, a run, and pages that ask locations that are asleep. Served are the
products of ../shared/nyc where that is there, else made-up ones.
"""

import random
import shutil
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import yaml

from orchestration.catalog.checkout import templates_folder
from orchestration.catalog.products import read_products_file
from soak.patience import patiently
from soak.usage import HEADING, Usage
from tests.harness.processes import NYC, wait_until
from tests.harness.up_server import (
    FINISHED,
    Server,
    checkout_of,
    copy_project,
    pretend_done,
    started,
)

HOUR_SECONDS = 30.0
SETTLE_SECONDS = 180.0
# What the first hours bring, the others bring again.
WARM_UP_HOURS = 2
MADE_UP = 19
# A schedule launches one each minute, so that there is one most of the time.
GOING_ON = ("NOT_STARTED", "QUEUED", "STARTING", "STARTED")
BACKFILLED = ("main", "nightly_qa")
# A schedule in some, a sensor in others, and in most neither.
SCHEDULED, OBSERVED = range(0, 5), range(3, 8)
DEFINITIONS = """
import dagster as dg

@dg.op
def look() -> None: ...

@dg.job
def looking() -> None:
    look()

@dg.schedule(job=looking, cron_schedule="* * * * *", default_status={schedule})
def every_minute() -> dg.RunRequest:
    return dg.RunRequest()

@dg.sensor(job=looking, minimum_interval_seconds=5, default_status={sensor})
def watching(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    looks = int(context.cursor or 0) + 1
    requests = [dg.RunRequest()] if looks % 30 == 0 else []
    return dg.SensorResult(requests, cursor=str(looks))

defs = dg.Definitions(jobs=[looking], schedules=[every_minute], sensors=[watching])
"""
SCHEDULE_STATUS = "dg.DefaultScheduleStatus.{}"
SENSOR_STATUS = "dg.DefaultSensorStatus.{}"
BACKFILL = """
mutation Backfill($parameters: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $parameters) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""
BACKFILLS = """
{ partitionBackfillsOrError { ... on PartitionBackfills { results { id status } } } }
"""
RUNS = "{ runsOrError { ... on Runs { results { runId status jobName } } } }"


class Day:
    """What happens in it, and what it takes."""

    def __init__(self, server: Server, slugs: list[str], seed: int) -> None:
        self._server, self._slugs = server, slugs
        self._chosen = random.Random(seed)
        self._text = server.products.read_text()
        self._began = time.monotonic()
        self._usages: list[Usage] = []
        self._woken = 0
        self.wrong: list[str] = []

    def run(self, hours: int) -> None:
        """All of it."""
        for hour in range(hours):
            end = time.monotonic() + HOUR_SECONDS
            self._pass_an_hour(hour)
            time.sleep(max(0.0, end - time.monotonic()))
            if hour + 1 in (WARM_UP_HOURS, hours):
                self._settle()
                self._measure()
        self.wrong += self._usages[-1].excess(self._usages[0])
        self._judge()

    def _pass_an_hour(self, hour: int) -> None:
        ask, server, chosen = patiently, self._server, self._chosen
        products = yaml.safe_load(self._text)
        if hour % 2 == 0:
            products["products"].append({"id": f"guest {hour}", "build_command": "true"})
            (server.checkout / "products" / f"guest {hour}").mkdir()
        server.products.write_text(yaml.safe_dump(products))
        for slug in chosen.sample(self._slugs, 3):
            ask(lambda slug=slug: server.wake(slug))  # type: ignore[misc]
            self._woken += 1
        changed = server.product_folder(self._folder(chosen.choice(self._slugs)))
        (changed / "definitions.py").touch()
        ask(lambda: server.reload(chosen.choice(self._slugs)))
        if hour % 6 == 0:
            ask(server.reload_all)
        slug = chosen.choice(self._slugs)
        ask(lambda: server.launch(slug, "build", partition="main"))
        ask(lambda: self._backfill(chosen.choice(self._slugs)))

    def _folder(self, slug: str) -> str:
        products = read_products_file(self._server.products).products
        return next(product.folder for product in products if product.slug == slug)

    def _backfill(self, slug: str) -> None:
        parameters = {
            "assetSelection": [{"path": [slug, "build"]}],
            "partitionNames": list(BACKFILLED),
        }
        found = self._server.query(BACKFILL, parameters=parameters)["launchPartitionBackfill"]
        assert found["__typename"] == "LaunchBackfillSuccess", found

    def _settle(self) -> None:
        """Waits until only those are awake that are looked at all the while, and no build is."""
        looked_at = {self._slugs[index] for index in (*SCHEDULED, *OBSERVED)}

        def is_quiet() -> bool:
            runs = patiently(lambda: self._server.query(RUNS))["runsOrError"]["results"]
            backfills = patiently(lambda: self._server.query(BACKFILLS))
            return (
                self._server.awake().keys() <= looked_at
                and all(run["status"] in FINISHED for run in runs if run["jobName"] != "looking")
                and not any(
                    backfill["status"] == "REQUESTED"
                    for backfill in backfills["partitionBackfillsOrError"]["results"]
                )
            )

        if not wait_until(is_quiet, SETTLE_SECONDS):
            self.wrong.append(f"not quiet after {SETTLE_SECONDS:.0f} s: {self._server.awake()}")

    def _measure(self) -> None:
        """Takes note of what `up` takes where nothing but ticks goes on."""
        runs = len(patiently(lambda: self._server.query(RUNS))["runsOrError"]["results"])
        looks = []
        for _ in range(20):
            looks.append(Usage.of(self._server, runs=runs, began=self._began))
            time.sleep(1)
        usage = min(looks, key=lambda look: (look.processes, look.files, look.megabytes))
        self._usages.append(usage)
        print(usage.row(), flush=True)

    def _judge(self) -> None:
        server = self._server
        runs = patiently(lambda: server.query(RUNS))["runsOrError"]["results"]
        self.wrong += [
            f"run {run['runId']} of {run['jobName']}: {run['status']}"
            for run in runs
            if run["status"] not in ("SUCCESS", *GOING_ON)
        ]
        backfills = patiently(lambda: server.query(BACKFILLS))["partitionBackfillsOrError"]
        self.wrong += [
            f"backfill {backfill['id']}: {backfill['status']}"
            for backfill in backfills["results"]
            if backfill["status"] != "COMPLETED_SUCCESS"
        ]
        print(f"runs: {dict(Counter(run['jobName'] for run in runs))}")
        print(f"backfills: {len(backfills['results'])}; pages that asked a location: {self._woken}")


def prepare(folder: Path) -> tuple[Path, list[str]]:
    """A copy of the project with the day's products in its checkout; gives their slugs, too."""
    project = copy_project(folder)
    checkout = checkout_of(project)
    file = checkout / "products" / "products.yml"
    if NYC.is_dir():
        for part in (file.parent, templates_folder(checkout)):
            shutil.rmtree(part)
            shutil.copytree(NYC / part.name, part)
    else:
        made_up = [{"id": f"product {n}", "build_command": "true"} for n in range(MADE_UP)]
        file.write_text(yaml.safe_dump({"products": made_up}))
    products = read_products_file(file).products
    for index, product in enumerate(products):
        own = file.parent / product.folder
        own.mkdir(exist_ok=True)
        schedule = SCHEDULE_STATUS.format("RUNNING" if index in SCHEDULED else "STOPPED")
        sensor = SENSOR_STATUS.format("RUNNING" if index in OBSERVED else "STOPPED")
        text = DEFINITIONS.format(schedule=schedule, sensor=sensor)
        # A job's name is its location's own, an asset's is not.
        (own / "definitions.py").write_text(text)
        for partition in BACKFILLED:
            pretend_done(project, product.slug, "load", partition)
    return project, [product.slug for product in products]


def ticks(home: Path) -> list[tuple[str, str, str]]:
    """Of each tick what it is of, how it ended, and all else that is kept of it."""
    with closing(sqlite3.connect(home / "schedules" / "schedules.db")) as database:
        return database.execute("SELECT type, status, tick_body FROM job_ticks").fetchall()


def spend_a_day(folder: Path, hours: int, seed: int) -> list[str]:
    """Lets so many hours pass, in the folder; gives what is not as it should be."""
    project, slugs = prepare(folder)
    print(f"\n{len(slugs) + 1} locations, {hours} hours\n{HEADING}", flush=True)
    with started(project) as server:
        server.wait_for_output("Dagster is at")
        patiently(lambda: server.wait_for(lambda: not any(server.locations().values())))
        day = Day(server, slugs, seed)
        day.run(hours)
        server.stop()
        tracebacks = server.output.count("Traceback")
    ticked = ticks(project / ".dagster")
    counted = dict(Counter(f"{kind} {status}" for kind, status, _ in ticked))
    print(f"ticks: {counted}; tracebacks in the output: {tracebacks}", flush=True)
    return [*day.wrong, *(f"tick: {body}" for _, status, body in ticked if status == "FAILURE")]
