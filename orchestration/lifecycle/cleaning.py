"""What of the results on disk can go, and its removal in steps that can be ended at any instant.

A result goes in one step: what makes it one, a version's link or a build's folder, is moved to
`.removed/` in the lifecycle folder. All else that there is of it is removed after that, by this
cleaning or, where that was killed, by the next.
"""

import errno
import re
import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from orchestration import reason_of
from orchestration.catalog.names import STARTER_KEYS
from orchestration.catalog.retention import Retention
from orchestration.lifecycle.results import (
    build_folder,
    ingest_result,
    leftovers,
    lock_file,
    locked_if_free,
    make_private,
    remove,
    size_of,
    write_whole,
)

REMOVED = ".removed"
LEFTOVERS = "leftovers"
# In the lifecycle folder: why the last cleaning that `up` did has failed, if it has.
FAILURE = ".cleaning.failed"
INGESTS, BUILDS = "ingest", "builds"
# The stages that leave a result.
KEPT_STAGES = ("plan", "load", "build")


class Result(NamedTuple):
    """A version of an ingest template, or a build: of which one, and its partition's key."""

    kind: str
    name: str
    key: str

    def path(self, lifecycle: Path) -> Path:
        """Where it lies: an ingest's link, or a build's folder."""
        place = ingest_result if self.kind == INGESTS else build_folder
        return place(lifecycle, self.name, self.key)

    def aside(self, lifecycle: Path) -> Path:
        """Where it is moved to."""
        return lifecycle / REMOVED / self.kind / self.name / self.key


@dataclass(frozen=True)
class Found:
    """Something that can go. Of a result that stays, `path` is what an attempt at it has left."""

    result: Result
    path: Path
    time: float
    """When it was made, in seconds since the epoch."""
    bytes: int
    is_whole: bool
    """Whether all of the result goes."""


def superfluous(
    lifecycle: Path, retention: Retention, *, now: float, in_use: Collection[Result]
) -> list[Found]:
    """What can go; nothing of what is `in_use`, or locked by a run."""
    oldest = now - retention.older_than
    found: list[Found] = []
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results(lifecycle):
        groups.setdefault((result.kind, result.name), []).append(result)
    for group in groups.values():
        kept = _kept(group, lifecycle, retention.keep)
        for result in group:
            if result in in_use:
                continue
            with locked_if_free(result.path(lifecycle)) as is_free:
                if not is_free:
                    continue
                if result not in kept and _time(result, lifecycle) < oldest:
                    found.append(_whole(result, lifecycle))
                else:
                    found += _rest(result, lifecycle, oldest)
    return found


def results(lifecycle: Path) -> list[Result]:
    """All that there are, those included of which only failed attempts have left something.

    What dcpy has put there itself, by hand or in an earlier setup, is none.
    """
    found = []
    for template in _folders(lifecycle / INGESTS):
        entries = _entries(template)
        keys = {entry.name for entry in entries if entry.name[0] != "." and entry.is_symlink()}
        keys |= {match[1] for entry in entries if (match := _attempt(entry.name))}
        found += [Result(INGESTS, template.name, key) for key in sorted(keys)]
    for product in _folders(lifecycle / BUILDS):
        builds = [Result(BUILDS, product.name, build.name) for build in _folders(product)]
        found += [build for build in builds if _is_ours(build, lifecycle)]
    return found


def _is_ours(build: Result, lifecycle: Path) -> bool:
    path = build.path(lifecycle)
    has_stage = any((path / stage).is_symlink() for stage in KEPT_STAGES)
    return has_stage or bool(_remains(build, lifecycle))


def _kept(group: Sequence[Result], lifecycle: Path, keep: int) -> set[Result]:
    """Those that stay however old they are: the latest by time, and by version."""
    good = [result for result in group if _is_good(result, lifecycle)]
    good.sort(key=lambda result: _time(result, lifecycle))
    latest = good[-keep:] + sorted(good, key=lambda result: _natural(result.key))[-1:]
    starters = [each for each in group if each.kind == BUILDS and each.key in STARTER_KEYS]
    return {*latest, *starters}


def _is_good(result: Result, lifecycle: Path) -> bool:
    path = result.path(lifecycle)
    return (path if result.kind == INGESTS else path / "build").is_symlink()


def _time(result: Result, lifecycle: Path) -> float:
    """When the result was made, or what there is of it."""
    path = result.path(lifecycle)
    parts = [path, *(path / stage for stage in KEPT_STAGES)]
    times = [part.lstat().st_mtime for part in parts if part.is_symlink()]
    return max(times or map(_changed, [path, *_remains(result, lifecycle)]))


def _changed(entry: Path) -> float:
    try:
        return entry.lstat().st_mtime
    except FileNotFoundError:
        return 0.0


def _natural(key: str) -> list[tuple[int, str]]:
    # 9v1 comes before 25v1.
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", key)]


def _whole(result: Result, lifecycle: Path) -> Found:
    path = result.path(lifecycle)
    parts = [path]
    if result.kind == INGESTS:
        parts = [*([path.resolve()] if path.exists() else []), *_remains(result, lifecycle)]
    size = sum(map(_size, parts))
    return Found(result, path, _time(result, lifecycle), size, is_whole=True)


def _rest(result: Result, lifecycle: Path, oldest: float) -> Iterator[Found]:
    for entry in _remains(result, lifecycle):
        if (time := _changed(entry)) < oldest:
            yield Found(result, entry, time, _size(entry), is_whole=False)


def _remains(result: Result, lifecycle: Path) -> list[Path]:
    """What attempts at a result have left that is not published."""
    path = result.path(lifecycle)
    links = [path] if result.kind == INGESTS else [path / stage for stage in KEPT_STAGES]
    return [entry for link in links for entry in [*leftovers(link), *_failed_logs(link)]]


def _failed_logs(path: Path) -> list[Path]:
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[a-z]+\.failed\.log")
    return [entry for entry in _entries(path.parent) if pattern.fullmatch(entry.name)]


def _attempt(name: str) -> re.Match[str] | None:
    return re.fullmatch(
        r"\.(.+)\.(?:[0-9a-f]{8}(?:\.log|\.link|\.work)?|ingest\.failed\.log)", name
    )


def note_failure(lifecycle: Path, why: str) -> None:
    """Notes why a cleaning has failed; with an empty text, that it has not."""
    path = lifecycle / FAILURE
    if not why:
        path.unlink(missing_ok=True)
        return
    write_whole(path, why)


def failure_of(lifecycle: Path) -> str:
    """Why the last cleaning has failed; empty where it has not."""
    try:
        return (lifecycle / FAILURE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def set_aside(found: Found, lifecycle: Path) -> bool:
    """Moves it to where it is nobody's any more, in one step; False where it goes the next time.

    Raises OSError when it cannot be moved.
    """
    target = found.result.aside(lifecycle)
    if not found.is_whole:
        target = lifecycle / REMOVED / LEFTOVERS / secrets.token_hex(8)
    make_private(target.parent)
    if found.path.is_symlink() or found.path.exists():
        try:
            found.path.rename(target)
        except FileNotFoundError:
            # Somebody else has removed it.
            return True
        except OSError as error:
            # What was set aside before is not gone yet.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
    else:
        # An ingest that never went well: there is nothing that makes it a version.
        target.symlink_to(found.path.name)
    return True


def remove_set_aside(lifecycle: Path, forget: Callable[[Result], None]) -> list[str]:
    """Removes what was set aside, by whomever. `forget` is called with each result that is gone.

    What a run makes anew meanwhile stays for the next time, and so does what cannot be removed, of
    which a sentence each says why.
    """
    problems: list[str] = []

    @contextmanager
    def going_on(entry: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            problems.append(f"{entry} stays: it cannot be removed: {reason_of(error)}")

    aside = lifecycle / REMOVED
    for entry in _entries(aside / LEFTOVERS):
        with going_on(entry):
            remove(entry)
    for kind in (INGESTS, BUILDS):
        for folder in _folders(aside / kind):
            for entry in _entries(folder):
                with going_on(entry):
                    _finish(Result(kind, folder.name, entry.name), entry, lifecycle, forget)
            with suppress(OSError):
                folder.rmdir()
    return problems


def _finish(result: Result, entry: Path, lifecycle: Path, forget: Callable[[Result], None]) -> None:
    path = result.path(lifecycle)
    with locked_if_free(path) as is_free:
        if not is_free:
            return
        if result.kind == INGESTS:
            for rest in leftovers(path):
                remove(rest)
        if not (path.is_symlink() or path.exists()):
            for log in _failed_logs(path) if result.kind == INGESTS else ():
                log.unlink()
            forget(result)
            lock_file(path).unlink(missing_ok=True)
        remove(entry)


def _folders(folder: Path) -> list[Path]:
    return [
        entry
        for entry in _entries(folder)
        if entry.name[0] != "." and entry.is_dir() and not entry.is_symlink()
    ]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def _size(path: Path) -> int:
    return size_of(path) if path.is_dir() and not path.is_symlink() else path.lstat().st_size
