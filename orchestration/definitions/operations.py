"""The location that tells people what has broken: sensors over all locations, in one place."""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultSensorStatus,
    Definitions,
    RunsFilter,
    RunStatusSensorContext,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    run_status_sensor,
    sensor,
)

from orchestration import OrchestrationError, counted
from orchestration.alerts import ledger, outbox
from orchestration.alerts.conditions import (
    Troubles,
    failed_cleaning,
    failed_ticks,
    full_disks,
    location_troubles,
)
from orchestration.alerts.outbox import Message
from orchestration.alerts.runs import Told, owners_of, reason, told_by
from orchestration.catalog.checkout import checkout_root, products_file, templates_folder
from orchestration.catalog.ingest_templates import read_templates
from orchestration.catalog.names import INGEST, PARTITION_TAG, TEAM_FILE, URL_VARIABLE
from orchestration.catalog.notify import Notify, addresses
from orchestration.catalog.products import Product, ProductsFile, read_products_file
from orchestration.catalog.template_owners import owners_in
from orchestration.lifecycle.environment import product_environment
from orchestration.lifecycle.redaction import Redactor
from orchestration.lifecycle.results import lifecycle_dir, make_private

# Each look wakes this location, which takes half a second of a processor.
INTERVAL_SECONDS = 120
DAY_SECONDS = 86_400.0
# How many runs Dagster gives one of these sensors at a time; a night has more than its five.
LIMIT_VARIABLE = "DAGSTER_RUN_STATUS_SENSOR_PROCESS_LIMIT"
LIMIT = "100"


def operations_definitions() -> Definitions:
    """The code location of the sensors, which read products.yml whenever they look."""
    os.environ.setdefault(LIMIT_VARIABLE, LIMIT)
    return Definitions(
        sensors=[
            _of_runs("runs_that_failed", DagsterRunStatus.FAILURE),
            _of_runs("runs_that_succeeded", DagsterRunStatus.SUCCESS),
            alerts,
        ]
    )


def _of_runs(name: str, status: DagsterRunStatus) -> SensorDefinition:
    @run_status_sensor(
        run_status=status,
        name=name,
        description="Notes what has broken, or is well again, for the sensor alerts to tell.",
        monitor_all_code_locations=True,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
    )
    def of_runs(context: RunStatusSensorContext) -> None:
        note_run(context.instance, context.dagster_run)

    return of_runs


@sensor(
    name="alerts",
    description="Tells what has broken, and what is well again, to those whom products.yml names.",
    minimum_interval_seconds=INTERVAL_SECONDS,
    default_status=DefaultSensorStatus.RUNNING,
)
def alerts(context: SensorEvaluationContext) -> SkipReason:
    """Looks at locations, schedules, sensors and disks, and sends what there is to be sent."""
    file, why = _read_file()
    notify, folder = file.notify or Notify(), _folder(context.instance)
    _note_troubles(context.instance, file, why, folder)
    _note_digest(context.instance, notify, folder)

    def complain(text: str) -> None:
        context.log.warning(text)
        print(text, flush=True)

    # Those whom the file names are told once it can be read.
    outbox.deliver(folder, addresses(notify), complain, are_all=not why)
    return SkipReason("All that there was to tell is told, or is tried again.")


def note_run(instance: DagsterInstance, run: DagsterRun) -> None:
    """Notes what a run that has ended tells of its subjects; what is news is to be sent."""
    record = instance.get_run_record_by_id(run.run_id)
    ended = (record and record.end_time) or time.time()
    file, _ = _read_file()
    link = _link(file.notify or Notify(), f"/runs/{run.run_id}")
    folder = _folder(instance)
    for told in told_by(instance, run):
        with ledger.opened(folder) as known:
            if message := _news(instance, run, told, file, known, ended, link):
                # Before the ledger is written: killed in between, this is done again.
                outbox.put(folder, message, ended)


def _read_file() -> tuple[ProductsFile, str]:
    """What products.yml says, nothing where it cannot be read; and why it cannot."""
    try:
        return read_products_file(products_file(checkout_root())), ""
    except OrchestrationError as error:
        return ProductsFile(products=()), str(error)


def _news(
    instance: DagsterInstance,
    run: DagsterRun,
    told: Told,
    file: ProductsFile,
    known: ledger.Ledger,
    ended: float,
    link: str,
) -> Message | None:
    partition = run.tags.get(PARTITION_TAG)
    where = f"Partition: {partition}" if partition else ""
    if not (run.is_failure and told.missing):
        since = known.recovers(told.name, whats=frozenset(told.planned), time=ended)
        if since is None:
            return None
        body = [f"It was broken since {_local(since)}.", where, _owners_line(told, file), link]
        return Message("success", f"{told.name} is well again", "\n".join(filter(None, body)))
    what = told.missing[0]
    if not known.breaks(told.name, what=what, time=ended):
        return None
    redact = _redactor(next((each for each in file.products if each.slug == told.slug), None))
    why = redact.text(reason(instance, run, told))
    body = [why, f"Failed: {what}", where, _owners_line(told, file), link]
    return Message("failure", f"{told.name} failed", "\n".join(filter(None, body)))


def _note_troubles(instance: DagsterInstance, file: ProductsFile, why: str, folder: Path) -> None:
    notify = file.notify or Notify()
    found = {
        "Schedule": failed_ticks(instance, "SCHEDULE"),
        "Sensor": failed_ticks(instance, "SENSOR"),
        "File": Troubles({products_file(checkout_root()).name: why} if why else {}),
    }
    # Else it is not known whether these are to be told.
    if not why:
        found["Cleaning"] = failed_cleaning(file.retention)
        folders = [make_private(lifecycle_dir()), folder]
        found["Disk"] = full_disks(folders, notify.disk_free_gb)
    if url := os.environ.get(URL_VARIABLE):
        # A webserver that is about to be started again will be asked the next time.
        with suppress(OSError):
            found["Location"], found[f"{TEAM_FILE} of"] = location_troubles(url)
    redact = Redactor(os.environ)
    owners = _owners(file.products)
    for kind, troubles in found.items():
        broken, now = troubles.broken, time.time()
        with ledger.opened(folder) as known:
            news, well = known.observe(kind, broken, unknown=troubles.unknown, time=now)
            for name in sorted(news):
                whose = owners_of(name.rpartition(" of ")[2], owners)
                link = _link(notify, PAGES.get(kind, ""))
                lines = filter(None, [redact.text(broken[name]), whose, link])
                title = f"{kind} {name}: {TITLES[kind]}"
                outbox.put(folder, Message("failure", title, "\n".join(lines)), now)
            for name, since in sorted(well.items()):
                body = f"It was broken since {_local(since)}."
                outbox.put(folder, Message("success", f"{kind} {name} is well again", body), now)


TITLES = {
    "Schedule": "could not launch",
    "Sensor": "could not look",
    "Cleaning": "failed",
    "Disk": "nearly full",
    "File": "cannot be read",
    "Location": "cannot be loaded",
    f"{TEAM_FILE} of": "cannot be used",
}
PAGES = {
    "Schedule": "/automation",
    "Sensor": "/automation",
    "Location": "/locations",
    f"{TEAM_FILE} of": "/locations",
}


def _note_digest(instance: DagsterInstance, notify: Notify, folder: Path) -> None:
    if not notify.digest or not addresses(notify):
        return
    now = datetime.now()
    hour, minute = map(int, notify.digest.split(":"))
    today = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    # Before it is due today, that of yesterday is, unless it was told.
    due = (today if today <= now else today - timedelta(days=1)).timestamp()
    with ledger.opened(folder) as known:
        if not known.digest:
            # The first one tells of a whole day.
            known.digest = time.time()
        if known.digest < due:
            known.digest = now.timestamp()
            outbox.put(folder, _digest(instance, notify, known.broken()), due)


def _digest(
    instance: DagsterInstance, notify: Notify, broken: Mapping[str, ledger.Entry]
) -> Message:
    since = datetime.fromtimestamp(time.time() - DAY_SECONDS).astimezone()
    counts = {
        status: instance.get_runs_count(RunsFilter(statuses=[status], updated_after=since))
        for status in (DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE)
    }
    good, bad = counts.values()
    lines = [f"{counted(good, 'run')} succeeded in the last 24 hours, and {bad} failed."]
    lines += [
        f"Broken since {_local(entry.since or 0.0)}: {name} ({entry.what})"
        for name, entry in sorted(broken.items())
    ]
    lines.append(_link(notify, "/overview"))
    title = f"{len(broken)} broken" if broken else "All is well"
    body = Redactor(os.environ).text("\n".join(filter(None, lines)))
    return Message("warning" if broken else "info", f"Data products: {title}", body)


def _owners_line(told: Told, file: ProductsFile) -> str:
    location, _, template = told.name.partition("/")
    if told.slug or location != INGEST:
        return owners_of(told.slug, _owners(file.products))
    try:
        templates = read_templates(templates_folder(checkout_root()))
    except OrchestrationError:
        templates = []
    return owners_of(template, owners_in(file, templates, checkout_root()))


def _owners(products: Sequence[Product]) -> dict[str, Sequence[str]]:
    return {product.slug: product.owners for product in products}


def _redactor(product: Product | None) -> Redactor:
    try:
        env, names = product_environment(product, checkout_root()) if product else ({}, set())
    except OrchestrationError:
        env, names = {}, set()
    return Redactor({**os.environ, **env}, names)


def _folder(instance: DagsterInstance) -> Path:
    return make_private(Path(instance.root_directory) / "alerts")


def _link(notify: Notify, path: str) -> str:
    base = notify.link or os.environ.get(URL_VARIABLE, "")
    return f"{base.rstrip('/')}{path}" if base else ""


def _local(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M %Z")
