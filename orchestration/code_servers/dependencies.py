"""What a location's answers depend on, and whether that is still as it was.

A dependency is a name only: of a variable, a file, a folder, a path. What it was like goes into one
digest over all of them, so that nothing of their content, such as a secret, is written down.
"""

import hashlib
import importlib.machinery
import locale
import os
import stat
import sys
import time
from collections.abc import Iterable, Mapping
from enum import StrEnum

# More of one file is not read at every start.
MAX_BYTES = 16_000_000
# Found in no file: what it is like is not known.
UNKNOWN = "unknown"
# A clock that ticks this seldom is the worst there is.
TICK_NS = 20_000_000


class Kind(StrEnum):
    """What a dependency is."""

    VARIABLE = "variable"
    """The value of an environment variable."""
    VARIABLES = "variables"
    """All of them."""
    FILE = "file"
    """What a file holds."""
    FOLDER = "folder"
    """The names in a folder, and what each is."""
    PATH = "path"
    """Whether there is something, and what it is."""


Dependency = tuple[Kind, str]


def state_of(dependency: Dependency, environ: Mapping[str, str]) -> str:
    """What it is like now; UNKNOWN where that cannot be told."""
    kind, name = dependency
    try:
        match kind:
            case Kind.VARIABLE:
                return f"={environ[name]}" if name in environ else ""
            case Kind.VARIABLES:
                return repr(sorted(environ.items()))
            case Kind.FILE:
                return _content(name)
            case Kind.FOLDER:
                return _listing(name)
            case Kind.PATH:
                return _what_is(name)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError):
        return UNKNOWN


def _content(path: str) -> str:
    status = os.stat(path)
    # A pipe would wait for ever, and what the system makes up has no size.
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
        return UNKNOWN
    with open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    return hashlib.sha256(content).hexdigest() if len(content) == status.st_size else UNKNOWN


def _listing(path: str) -> str:
    with os.scandir(path) as entries:
        # Python makes that one as it imports what lies beside it.
        found = [(e.name, e.is_symlink(), e.is_dir()) for e in entries if e.name != "__pycache__"]
    return repr(sorted(found))


def _what_is(path: str) -> str:
    own = stat.S_IFMT(os.lstat(path).st_mode)
    if not stat.S_ISLNK(own):
        return str(own)
    try:
        target = stat.S_IFMT(os.stat(path).st_mode)
    except FileNotFoundError:
        target = 0
    return f"{os.readlink(path)} {target}"


def digest_of(states: Mapping[Dependency, str], installation: str) -> str:
    """A hash of what all of them are like, under that installation."""
    digest = hashlib.sha256(installation.encode())
    for (kind, name), state in sorted(states.items()):
        digest.update(f"{kind} {name!r} {state!r}\n".encode())
    return digest.hexdigest()


def installation_of(modules: Iterable[object], started: float) -> str | None:
    """What every location depends on: Python, and all that this process has imported.

    `started` is when it began to, in seconds since the epoch. None where a file has changed since:
    nobody knows then which of the two was imported.
    """
    files = sorted({path for module in modules if (path := getattr(module, "__file__", None))})
    found: list[object] = [
        *(sys.version, sys.executable, sys.flags, sys.path, os.getcwd()),
        *(time.tzname, time.timezone, locale.getlocale(), sys.getfilesystemencoding()),
    ]
    for path in files:
        try:
            status = os.stat(path)
        except OSError:
            return None
        if status.st_ctime >= started:
            return None
        # The time of change is nobody's to set: what is put back with its old time differs.
        found.append((path, status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino))
    found += [_importable(folder) for folder in sys.path]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def _importable(folder: str) -> list[str]:
    """What can be imported from a folder: what comes into it may be found instead of another."""
    try:
        names = os.listdir(folder or ".")
    except OSError:
        return []
    suffixes = ("", *importlib.machinery.all_suffixes())
    return sorted(name for name in names if name[len(name.partition(".")[0]) :] in suffixes)


def has_changed_since(path: str, nanoseconds: int) -> bool:
    """Whether the file may have changed since, or is not there."""
    try:
        return os.stat(path).st_ctime_ns > nanoseconds - TICK_NS
    except OSError:
        return True
