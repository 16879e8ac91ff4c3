"""The Dagster instance: where its state lies, and its configuration."""

import importlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml
from dagster import DagsterInstance
from sqlalchemy.exc import DatabaseError

from orchestration import OrchestrationError
from orchestration.catalog.checkout import PROJECT_ROOT
from orchestration.lifecycle.results import lifecycle_dir, locked, make_private

CONFIGURATION = PROJECT_ROOT / "orchestration" / "dagster" / "dagster.yaml"


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
        importlib.import_module("orchestration.server.run_launcher")
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
