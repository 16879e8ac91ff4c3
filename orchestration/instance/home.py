"""The Dagster instance: where its state lies, and its configuration."""

import errno
import fcntl
import importlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml
from dagster import DagsterInstance, DagsterInvalidConfigError
from sqlalchemy.exc import DatabaseError

from orchestration import OrchestrationError
from orchestration.catalog.checkout import PROJECT_ROOT, checkout_root, state_folder
from orchestration.lifecycle.results import lifecycle_dir, locked, make_private

CONFIGURATION = PROJECT_ROOT / "orchestration" / "dagster" / "dagster.yaml"
HEADER = "# Written by each `up` and `materialize`; a change made here is lost.\n"
# Held by a running `up`.
LOCK = "up.lock"
# In a home that somebody chose: what Dagster is given as its home.
INNER = ".orchestration"
# Which checkout a folder's content belongs to.
MARKER = ".checkout"
# In the name of a copy that is made to move the state to another disk, and of nobody's own copy.
MOVING = ".being-moved-"
# With one of these of the user's own, Dagster takes no `storage` beside it.
OLD_STORAGES = ("run_storage", "event_log_storage", "schedule_storage")
# A setting with one of these is taken whole: it names a class, or goes with nothing of ours.
WHOLE = {"module", "custom", "default_op_concurrency_limit"}
# Where it is set, the database lies in that Postgres. Its value, which holds a password, is nowhere
# written down.
POSTGRES_VARIABLE = "DAGSTER_POSTGRES_URL"
POSTGRES = {
    "custom": {
        "module": "orchestration.instance.postgres",
        "class": "PostgresStorage",
        "config": {"postgres_url": {"env": POSTGRES_VARIABLE}},
    }
}


def prepare_dagster_home() -> Path:
    """The folder of Dagster's state, ready for use; points `DAGSTER_HOME` at its configuration.

    Without `DAGSTER_HOME` it is the checkout's `.dagster`, whose configuration is always the
    project's. In a home that somebody chose, a dagster.yaml stays as it is: Dagster reads a copy in
    a folder of its own there, with the project's settings where that file has none.

    Raises OrchestrationError when that file cannot be used, or an `up` of an earlier version runs.
    """
    chosen = os.environ.get("DAGSTER_HOME")
    default = state_folder() / ".dagster"
    home = Path(os.path.expanduser(chosen)).absolute() if chosen else default
    if home.name == INNER:
        home = home.parent
    results = make_private(lifecycle_dir())
    if home == default:
        _move_over(results / "dagster", home)
    for folder, variable in ((results, "DCPY_LIFECYCLE_DATA_DIR"), (home, "DAGSTER_HOME")):
        _mark(make_private(folder), variable)
    # Where hosts share the folder of results, each has what the steps of all have printed.
    logs = results / "logs" if has_postgres() else home / "storage"
    settings = _project_settings() | {"compute_logs": _step_logs(logs)}
    folder = home
    if home != default:
        settings = _with_the_users(home / CONFIGURATION.name, settings)
        folder = make_private(home / INNER)
    text = HEADER + yaml.safe_dump(settings, allow_unicode=True, sort_keys=False)
    _write(folder / CONFIGURATION.name, text.encode())
    os.environ["DAGSTER_HOME"] = str(folder)
    return home


def _move_over(old: Path, new: Path) -> None:
    """Moves Dagster's state from among the results, where earlier versions had it."""
    if not old.is_dir():
        return
    if new.is_dir() and any(new.iterdir()):
        print(f"warning: Dagster's state is in {new}; {old} is of an earlier version, and not used")
        return
    with open(old / LOCK, "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OrchestrationError(
                f"Another `up`, of an earlier version, runs on {old}. End it, then run this again."
            ) from None
        make_private(new.parent)
        # What an interrupted move has left. Not before: another's may go on.
        for leftover in new.parent.glob(f"{new.name}{MOVING}*"):
            shutil.rmtree(leftover)
        try:
            old.rename(new)
        except FileNotFoundError:
            return  # somebody else has done it meanwhile
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            copy = new.with_name(f"{new.name}{MOVING}{secrets.token_hex(4)}")
            shutil.copytree(old, copy, symlinks=True)
            copy.rename(new)
            shutil.rmtree(old)
    print(f"Dagster's state was moved from {old} to {new}")


def _mark(folder: Path, variable: str) -> None:
    """Says so where the folder holds what belongs to another checkout; else marks it as this one's.

    A checkout that is no longer there has been moved, and is not another.
    """
    root, marker = checkout_root().resolve(), folder / MARKER
    # A power cut can leave it empty.
    noted = marker.read_bytes() if marker.is_file() else b""
    known = Path(os.fsdecode(noted)) if noted else root
    if known == root or not known.is_dir():
        _write(marker, os.fsencode(root))
        return
    print(
        f"warning: {folder} has been used for the checkout {known}, and what belongs to {root} is "
        f"mixed up with that. Give each a folder of its own ({variable})."
    )


def _write(path: Path, content: bytes) -> None:
    """Makes the file hold this, in one step."""
    if path.is_file() and path.read_bytes() == content:
        return
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    new.write_bytes(content)
    new.replace(path)


def _project_settings() -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load(CONFIGURATION.read_text())
    try:
        importlib.import_module(settings["run_launcher"]["module"])
    except ImportError as error:
        reason = f"{type(error).__name__}: {error}"
        print(f"warning: runs start with Dagster's own launcher, which is slow: {reason}")
        del settings["run_launcher"]
    if has_postgres():
        settings["storage"] = POSTGRES
    return settings


def _with_the_users(file: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with those of the user's file over them, for a state that lies beside it."""
    theirs = _read(file)
    launcher = theirs.get("run_launcher")
    if isinstance(launcher, dict) and str(launcher.get("module")).startswith("orchestration."):
        # An earlier version copied its configuration here; its launcher may be elsewhere by now.
        del theirs["run_launcher"]
    home = str(file.parent)
    beside: dict[str, Any] = {
        "local_artifact_storage": {
            "module": "dagster._core.storage.root",
            "class": "LocalArtifactStorage",
            "config": {"base_dir": home},
        },
        "compute_logs": settings.pop("compute_logs"),
    }
    if "storage" not in settings and not any(key in theirs for key in OLD_STORAGES):
        beside["storage"] = {"sqlite": {"base_dir": home}}
    decided, left_out = set(_decided(settings, theirs)), set()
    if "storage" in settings and any(key in theirs for key in OLD_STORAGES):
        left_out |= {"storage"}
    if decided & {"run_coordinator"} or "run_queue" in theirs:
        # Each says how many runs there may be, and Dagster takes but one that does.
        left_out |= {"run_coordinator", "concurrency"}
    decided |= left_out
    if decided:
        print(
            f"warning: {file} decides on {', '.join(sorted(decided))}; what this project promises "
            "of it does not hold"
        )
    ours = {key: settings[key] for key in settings if key not in left_out}
    return _over(ours, beside | theirs)


def _over(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Theirs, at every depth, with ours where theirs has nothing."""
    both = {
        key: _over(ours[key], value) if _is_merged(ours.get(key), value) else value
        for key, value in theirs.items()
    }
    return ours | both


def _decided(ours: dict[str, Any], theirs: dict[str, Any]) -> Iterator[str]:
    """The dotted names of what theirs has otherwise than ours."""
    for key in theirs.keys() & ours.keys():
        if _is_merged(ours[key], theirs[key]):
            yield from (f"{key}.{inner}" for inner in _decided(ours[key], theirs[key]))
        elif ours[key] != theirs[key]:
            yield key


def _is_merged(ours: Any, theirs: Any) -> bool:
    are_mappings = isinstance(ours, dict) and isinstance(theirs, dict)
    return are_mappings and WHOLE.isdisjoint({*ours, *theirs})


def _step_logs(folder: Path) -> dict[str, Any]:
    where = {"config": {"base_dir": str(folder)}}
    try:
        from orchestration.instance.step_logs import StepLogs
    except ImportError as error:
        reason = f"{type(error).__name__}: {error}"
        print(f"warning: steps start slower, and print on the terminal, too: {reason}")
        module = "dagster._core.storage.local_compute_log_manager"
        return {"module": module, "class": "LocalComputeLogManager", **where}
    return {"module": StepLogs.__module__, "class": StepLogs.__name__, **where}


def _read(file: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OrchestrationError(f"{file} is not valid YAML: {error}. Mend it.") from error
    if not isinstance(data, dict | None):
        raise OrchestrationError(f"{file} must be a mapping with keys. Mend it, or remove it.")
    return data or {}


def has_postgres() -> bool:
    """Whether the instance's database is one that `DAGSTER_POSTGRES_URL` names."""
    return bool(os.environ.get(POSTGRES_VARIABLE))


def wait_for_database() -> None:
    """Returns once the instance's database can be reached; says so where that takes long.

    Raises OrchestrationError where `DAGSTER_POSTGRES_URL` is no address of a database.
    """
    if has_postgres():
        from orchestration.instance import postgres

        postgres.wait_for_database()


@contextmanager
def open_instance(prepare: Callable[[DagsterInstance], None]) -> Iterator[DagsterInstance]:
    """The instance in `DAGSTER_HOME`, after `prepare` has done its work with it.

    Only one process at a time gets so far: neither creating Dagster's database nor adding
    partitions to it is safe against another process that does the same.

    Raises OrchestrationError when the configuration is none for Dagster, or the database cannot be
    written, then or later.
    """
    home = Path(os.environ["DAGSTER_HOME"])
    try:
        with ExitStack() as stack:
            with locked(home / "instance", waiting=lambda: None):
                instance = stack.enter_context(DagsterInstance.get())
                prepare(instance)
            yield instance
    except DagsterInvalidConfigError as error:
        raise OrchestrationError(
            f"{home / CONFIGURATION.name} is no configuration for Dagster: {error}. Mend the "
            "dagster.yaml in DAGSTER_HOME."
        ) from error
    except DatabaseError as error:
        raise OrchestrationError(
            f"Dagster's database in {home} cannot be used: {error.orig}. Make sure that its disk "
            "has room, then run this again."
        ) from error
