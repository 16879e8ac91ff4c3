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
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
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
        return Path(os.path.expanduser(configured)).absolute()
    return state_folder(environ, project) / ".lifecycle"


def ingest_result(lifecycle: Path, template_id: str, version: str) -> Path:
    """Where the ingested version of a template lies. `version` is a checked key."""
    return lifecycle / "ingest" / template_id / version


def build_folder(lifecycle: Path, slug: str, partition: str) -> Path:
    """Where a product's build lies. `partition` is a checked key."""
    return product_builds(lifecycle, slug) / partition


def product_builds(lifecycle: Path, slug: str) -> Path:
    """Where all builds of a product lie."""
    return lifecycle / "builds" / slug


def make_private(folder: Path) -> Path:
    """Creates the folder, and those above it that there are not yet, readable by the owner only."""
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(exist_ok=True, mode=0o700)
    return folder


def write_whole(path: Path, text: str) -> None:
    """Makes the file hold the text, in one step: a power cut leaves what was there, or it."""
    new = path.with_name(f"{path.name}.new")
    with new.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


@dataclass
class Staging:
    """A new result in the making."""

    folder: Path
    """Where to write. It exists, and is empty."""
    log: Path
    """The log to write; it goes into the result, or where `failed_log` says."""
    work: Path
    """A folder to create for what is needed meanwhile; it goes with the attempt."""
    is_aside: bool = False

    def keep_aside(self) -> None:
        """Has the result stay where it is until the next attempt, though it is not published."""
        self.is_aside = True


def failed_log(result: Path, stage: str) -> Path:
    """Where the log of the last failed attempt at `result` lies."""
    return result.parent / f".{result.name}.{stage}.failed.log"


@contextmanager
def staged(
    result: Path,
    stage: str,
    *,
    keeps_unfinished: bool = False,
    resumes: bool = False,
    before_publishing: Callable[[], None] = lambda: None,
) -> Iterator[Staging]:
    """A new version of the result at `result`, published if the block ends without an exception.

    `before_publishing` is called when it is complete, and is about to appear.

    The log ends up as `<stage>.log` in the result. Other runs must be kept away by `locked`: what
    an earlier attempt left behind is removed. With `keeps_unfinished` an attempt that fails stays
    until then, where it has made its `work` folder, and one that `resumes` goes on with it; raises
    OrchestrationError when there is none.
    """
    make_private(result.parent)
    if result.exists() and not result.is_symlink():
        raise OrchestrationError(
            f"{result} was not written by this program. Move it away, then run this again."
        )
    folder = _unfinished(result) if resumes else _new_attempt(result)
    log, work = (folder.with_name(f"{folder.name}.{suffix}") for suffix in ("log", "work"))
    # One that was killed has its log still, and what failed was one before it.
    if resumes and not log.exists() and failed_log(result, stage).exists():
        failed_log(result, stage).rename(log)
    staging = Staging(folder, log, work)
    try:
        yield staging
        log.touch()
        log.rename(folder / f"{stage}.log")
        before_publishing()
        _point(result, folder)
    except BaseException:
        # An interrupt can come when the new result is in its place already.
        if _current(result) != folder.name:
            if log.exists():
                log.replace(failed_log(result, stage))
            if staging.is_aside:
                shutil.rmtree(work, ignore_errors=True)
            elif not (keeps_unfinished and work.exists()):
                shutil.rmtree(folder, ignore_errors=True)
                shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work, ignore_errors=True)
    failed_log(result, stage).unlink(missing_ok=True)


def _new_attempt(result: Path) -> Path:
    _remove_leftovers(result)
    folder = result.parent / f".{result.name}.{secrets.token_hex(4)}"
    folder.mkdir(mode=0o700)
    return folder


def _unfinished(result: Path) -> Path:
    current = _current(result)
    for folder in sorted(result.parent.iterdir()):
        if (
            folder.name != current
            and _attempt_of(result).fullmatch(folder.name)
            and folder.with_name(f"{folder.name}.work").is_dir()
        ):
            return folder
    raise OrchestrationError(
        f"There is no unfinished attempt at {result} to resume. Run this without `resume`."
    )


def _point(link: Path, target: Path) -> None:
    new = link.parent / f"{target.name}.link"
    new.symlink_to(target.name)
    new.replace(link)


def _current(result: Path) -> str | None:
    return os.readlink(result) if result.is_symlink() else None


def _attempt_of(result: Path) -> re.Pattern[str]:
    # Exactly an attempt's names: those of `v1` must not be taken for those of `v1.20260101`.
    return re.compile(rf"\.{re.escape(result.name)}\.[0-9a-f]{{8}}(\.log|\.link|\.work)?")


def _remove_leftovers(result: Path) -> None:
    for entry in leftovers(result):
        remove(entry)


def remove(entry: Path) -> None:
    """Removes a file or a folder, with folders in it that nobody may write to."""
    if entry.is_symlink() or not entry.is_dir():
        entry.unlink(missing_ok=True)
        return
    for where, folders, _ in os.walk(entry):
        for folder in (where, *(os.path.join(where, name) for name in folders)):
            if not os.path.islink(folder):
                with suppress(OSError):
                    os.chmod(folder, stat.S_IRWXU)
    shutil.rmtree(entry)


def leftovers(result: Path) -> list[Path]:
    """What attempts at the result have left that is not part of it, their logs aside."""
    current = _current(result)
    return [
        entry
        for entry in result.parent.iterdir()
        if _attempt_of(result).fullmatch(entry.name) and entry.name != current
    ]


@contextmanager
def locked(target: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Keeps other processes away from `target` for as long as the block lasts.

    Calls `waiting` once when somebody else has it, then waits. The operating system frees the lock
    of a process that dies.
    """
    with _lock(target, waiting):
        yield


@contextmanager
def locked_if_free(target: Path) -> Iterator[bool]:
    """As `locked` where nobody has the target; gives whether that is so."""
    try:
        with _lock(target, waiting=None):
            yield True
    except _TakenError:
        yield False


class _TakenError(Exception):
    pass


@contextmanager
def _lock(target: Path, waiting: Callable[[], None] | None) -> Iterator[None]:
    path = lock_file(target)
    while True:
        make_private(path.parent)
        with open(path, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not waiting:
                    raise _TakenError from None
                waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
            # Else it was removed, with what it is for, between these lines.
            if _is_at(path, file.fileno()):
                yield
                return


def _is_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False


def lock_file(target: Path) -> Path:
    """The file by which `target` is locked."""
    return target.parent / f".{target.name}.lock"


@contextmanager
def deciding(lifecycle: Path) -> Iterator[None]:
    """Has what begins to work on a result wait until the block has set aside what is to go."""
    with locked(lifecycle / "deciding", waiting=lambda: None):
        yield


@contextmanager
def in_use(lifecycle: Path, target: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """As `locked`; and whoever decides meanwhile what is to go has seen that, or has decided."""
    with locked(target, waiting):
        with deciding(lifecycle):
            pass
        yield


def size_of(folder: Path) -> int:
    """The bytes of all files below the folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
