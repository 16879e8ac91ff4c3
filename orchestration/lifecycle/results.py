"""Where results lie on disk, and how a new one takes the place of an older one.

Below the lifecycle folder:

    ingest/<template id>/<version>          what dcpy's ingest wrote
    builds/<slug>/<partition>/plan          recipe.lock.yml
    builds/<slug>/<partition>/load          what dcpy's load wrote
    builds/<slug>/<partition>/build         the build's output

Each result is a symbolic link to a folder beside it that never changes once it is published. A
stage writes to a new folder; when it succeeded, the link is replaced in one step. A stage that
fails, or is killed, leaves the earlier result as it was. A folder's path stays the same when it is
published, so paths that dcpy wrote down in it stay right. The folder that a link led to before
stays until the next attempt at that result, for those who are reading in it.
"""

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestration import OrchestrationError
from orchestration.catalog.checkout import PROJECT_ROOT, state_folder

LOCK_FILE = "recipe.lock.yml"


def lifecycle_dir(environ: Mapping[str, str] = os.environ, project: Path = PROJECT_ROOT) -> Path:
    """The folder of everything that runs leave: `DCPY_LIFECYCLE_DATA_DIR`, else `.lifecycle`.

    The latter is the checkout's own.
    """
    if configured := environ.get("DCPY_LIFECYCLE_DATA_DIR"):
        return Path(configured).expanduser().absolute()
    return state_folder(environ, project) / ".lifecycle"


def ingest_result(lifecycle: Path, template_id: str, version: str) -> Path:
    """Where the ingested version of a template lies. `version` is a checked key."""
    return lifecycle / "ingest" / template_id / version


def build_folder(lifecycle: Path, slug: str, partition: str) -> Path:
    """Where a product's build lies. `partition` is a checked key."""
    return lifecycle / "builds" / slug / partition


def make_private(folder: Path) -> Path:
    """Creates the folder, and those above it that there are not yet, readable by the owner only."""
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(exist_ok=True, mode=0o700)
    return folder


@dataclass(frozen=True)
class Staging:
    """A new result in the making."""

    folder: Path
    """Where to write. It exists, and is empty."""
    log: Path
    """The log to write; it goes into the result, or where `failed_log` says."""
    exchange: Path
    """A folder to create for talking with the stage's process; it goes with the attempt."""


def failed_log(result: Path, stage: str) -> Path:
    """Where the log of the last failed attempt at `result` lies."""
    return result.parent / f".{result.name}.{stage}.failed.log"


@contextmanager
def staged(result: Path, stage: str) -> Iterator[Staging]:
    """A new version of the result at `result`, published if the block ends without an exception.

    The log ends up as `<stage>.log` in the result. Other runs must be kept away by `locked`: what
    an interrupted attempt left behind is removed.
    """
    make_private(result.parent)
    if result.exists() and not result.is_symlink():
        raise OrchestrationError(
            f"{result} was not written by this program. Move it away, then run this again."
        )
    _remove_leftovers(result)
    token = secrets.token_hex(4)
    folder = result.parent / f".{result.name}.{token}"
    log, exchange = (folder.with_name(f"{folder.name}.{suffix}") for suffix in ("log", "step"))
    folder.mkdir(mode=0o700)
    try:
        yield Staging(folder, log, exchange)
        log.touch()
        log.rename(folder / f"{stage}.log")
        _point(result, folder)
    except BaseException:
        # An interrupt can come when the new result is in its place already.
        if _current(result) != folder.name:
            if log.exists():
                log.replace(failed_log(result, stage))
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(exchange, ignore_errors=True)
    failed_log(result, stage).unlink(missing_ok=True)


def _point(link: Path, target: Path) -> None:
    new = link.parent / f"{target.name}.link"
    new.symlink_to(target.name)
    new.replace(link)


def _current(result: Path) -> str | None:
    return os.readlink(result) if result.is_symlink() else None


def _remove_leftovers(result: Path) -> None:
    current = _current(result)
    # Exactly an attempt's names: those of `v1` must not be taken for those of `v1.20260101`.
    attempt = re.compile(rf"\.{re.escape(result.name)}\.[0-9a-f]{{8}}(\.log|\.link|\.step)?")
    for entry in result.parent.iterdir():
        if not attempt.fullmatch(entry.name) or entry.name == current:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


@contextmanager
def locked(target: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Keeps other processes away from `target` for as long as the block lasts.

    Calls `waiting` once when somebody else has it, then waits. The operating system frees the lock
    of a process that dies.
    """
    make_private(target.parent)
    with open(target.parent / f".{target.name}.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def private_lifecycle(
    lifecycle: Path, folder: Path, pulled_by: Path | None = None
) -> Iterator[Path]:
    """A lifecycle folder for one stage: what was ingested is there, and `builds` is its own.

    dcpy pulls a dataset to a path that all loads of that version would share, and a product's own
    scripts write to one that all its partitions would share. `pulled_by` is the private folder of
    the stage that pulled the datasets; they are there, too.
    """
    folder.mkdir()
    shared = {
        folder / entry.name: entry
        for entry in lifecycle.iterdir()
        if entry.name not in ("builds", "dagster")
    }
    pulled = Path("builds", "load")
    if pulled_by and (pulled_by / pulled).is_dir():
        (folder / pulled).parent.mkdir()
        shared[folder / pulled] = pulled_by / pulled
    links = list(shared)
    for link, target in shared.items():
        link.symlink_to(target, target_is_directory=target.is_dir())
    yield folder
    for link in links:
        link.unlink(missing_ok=True)
    for empty in (folder / pulled.parent, folder):
        if empty.is_dir() and not any(empty.iterdir()):
            empty.rmdir()


def size_of(folder: Path) -> int:
    """The bytes of all files below the folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
