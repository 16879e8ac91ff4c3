"""The Dagster instance: where its state lies, its configuration, and the starter partitions."""

import importlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from sqlalchemy.exc import DatabaseError

from orchestration import OrchestrationError
from orchestration.checkout import PROJECT_ROOT
from orchestration.partitions import STARTER_KEYS, build_partitions
from orchestration.storage import lifecycle_dir, locked, make_private
from orchestration.workers import LAUNCHER_TAG, WORKER_TAG, is_alive

CONFIGURATION = PROJECT_ROOT / "orchestration" / "dagster" / "dagster.yaml"
# A partition set that no asset has: the products whose starter partitions were made already.
SEEDED = "products_with_starter_partitions"


def prepare_dagster_home() -> Path:
    """Sets `DAGSTER_HOME` where it is unset, and gives it the project's configuration.

    Without `DAGSTER_HOME` the state lies in the lifecycle folder, and its configuration is always
    the project's. A home that somebody else chose keeps the configuration it has.
    """
    chosen = os.environ.get("DAGSTER_HOME")
    make_private(lifecycle_dir())
    home = make_private(Path(chosen).absolute() if chosen else lifecycle_dir() / "dagster")
    os.environ["DAGSTER_HOME"] = str(home)
    target = home / CONFIGURATION.name
    text = None if chosen and target.exists() else _configuration()
    if text and not (target.exists() and target.read_text() == text):
        new = home / f".{CONFIGURATION.name}.{secrets.token_hex(4)}"
        new.write_text(text)
        new.replace(target)
    return home


def _configuration() -> str:
    text = CONFIGURATION.read_text()
    try:
        importlib.import_module("orchestration.run_launcher")
    except ImportError as error:
        reason = f"{type(error).__name__}: {error}"
        print(f"warning: runs start with Dagster's own launcher, which is slow: {reason}")
        settings = yaml.safe_load(text)
        del settings["run_launcher"]
        return yaml.safe_dump(settings)
    return text


@contextmanager
def open_instance(prepare: Callable[[DagsterInstance], None]) -> Iterator[DagsterInstance]:
    """The instance in `DAGSTER_HOME`, after `prepare` has done its work with it.

    Only one process at a time gets so far: neither creating Dagster's database nor adding
    partitions to it is safe against another process that does the same.

    Raises OrchestrationError when the database cannot be written, then or later.
    """
    home = Path(os.environ["DAGSTER_HOME"])
    try:
        with ExitStack() as stack:
            with locked(home / "instance", waiting=lambda: None):
                instance = stack.enter_context(DagsterInstance.get())
                prepare(instance)
            yield instance
    except DatabaseError as error:
        raise OrchestrationError(
            f"Dagster's database in {home} cannot be used: {error.orig}. Make sure that its disk "
            "has room, then run this again."
        ) from error


def add_partition(instance: DagsterInstance, name: str, key: str) -> None:
    """Adds the key to a partition set that has it not yet."""
    if not instance.has_dynamic_partition(name, key):
        instance.add_dynamic_partitions(name, [key])


def add_starter_partitions(instance: DagsterInstance, slugs: Iterable[str]) -> None:
    """Gives every product that is new to this instance its starter partitions.

    A product gets them once: one that somebody deletes stays deleted.
    """
    seeded = set(instance.get_dynamic_partitions(SEEDED))
    for slug in slugs:
        if slug not in seeded:
            name = build_partitions(slug).name
            assert name
            instance.add_dynamic_partitions(name, STARTER_KEYS)
            instance.add_dynamic_partitions(SEEDED, [slug])


def note_deaths(instance: DagsterInstance) -> None:
    """Has the runs fail whose process has ended unnoticed, with the `up` that had started it."""
    unfinished = RunsFilter(
        statuses=[DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
    )
    for run in instance.get_runs(unfinished):
        worker = run.tags.get(WORKER_TAG) or run.tags.get(LAUNCHER_TAG)
        if worker and not is_alive(worker):
            note_death(instance, run, "was killed, or the machine went down")


def note_death(instance: DagsterInstance, run: DagsterRun, how: str) -> None:
    """Has the run fail, or be cancelled, whose process ended before it could say how it went."""
    if run.status is DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, f"The run's process {how}.")
    elif not run.is_finished:
        instance.report_run_failed(run, f"The run's process {how}.")
