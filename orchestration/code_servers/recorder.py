"""Finds out what a location's code reads while it is loaded, and whether that is all it depends on.

Python tells of each file that is opened, each connection and each process; variables, and paths
that are only looked at, are noted here. The clock does not tell: code that could ask it, or
anything else that is not known afterwards, is found by the names it uses. Where in doubt, what a
location answers is not known beforehand.
"""

import importlib.machinery
import os
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from types import CodeType
from typing import Any

from orchestration.code_servers.dependencies import (
    UNKNOWN,
    Dependency,
    Kind,
    has_changed_since,
    state_of,
)

# What Python tells of that changes nothing, or is noted otherwise. Source: "Audit events table".
HARMLESS_EVENTS = (
    *("builtins.id", "compile", "marshal.", "object.", "code.", "function."),
    *("os.walk", "pathlib.", "glob.", "sys._getframe", "sys.excepthook", "gc."),
)
LISTINGS = ("os.listdir", "os.scandir")
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
IMPORT_SYSTEM = "<frozen importlib"
# With these, code can learn what nothing tells of: the clock, chance, the machine, files' times,
# other code; or hide what it uses.
UNKNOWABLE_NAMES = {
    *("time", "time_ns", "monotonic", "perf_counter", "now", "today", "utcnow", "localtime"),
    *("gmtime", "ctime", "fromtimestamp", "astimezone", "clock_gettime", "times", "arrow"),
    *("pendulum", "random", "secrets", "uuid", "uuid1", "uuid4", "urandom", "getrandom", "grpc"),
    *("getpid", "getppid", "getuid", "getlogin", "uname", "platform", "cpu_count", "getloadavg"),
    *("sched_getaffinity", "statvfs", "disk_usage", "resource", "psutil", "argv", "stdin"),
    *("getmtime", "getctime", "getatime", "getsize", "fstat", "fwalk", "dir_fd", "posix", "fcntl"),
    *("environb", "modules", "importlib", "__import__", "eval", "exec", "ctypes", "_getframe"),
    *("getattr", "globals", "vars", "__dict__", "attrgetter", "methodcaller", "DagsterInstance"),
    *("threading", "concurrent", "asyncio", "multiprocessing"),
}
UNKNOWABLE_PREFIXES = ("st_", "get_current_", "get_partition_key", "get_last_", "get_first_")
STANDARD_LIBRARY = sysconfig.get_path("stdlib")
OWN = "orchestration"


class Recorder:
    """Notes what this process reads, from now on until it is asked."""

    def __init__(self) -> None:
        self.doubts: list[str] = []
        """Why what it reads is not all that counts."""
        self._states: dict[Dependency, str] = {}
        self._is_on = True
        self._started = time.time_ns()
        self._imported: set[str] = set()
        self._executed: set[str] = set()
        self._path = set(sys.path)
        sys.addaudithook(self._hear)
        self._watch_paths()
        self._watch_variables()

    def dependencies(self) -> dict[Dependency, str] | None:
        """What was read, each as it was then; None where there are doubts."""
        packages = self._packages()
        for path in sorted(self._executed):
            self._look_at(path, packages.get(path))
        self._is_on = False
        return None if self.doubts else self._states

    def _note(self, kind: Kind, name: object) -> None:
        if not isinstance(name, str | bytes | os.PathLike):
            self.doubts.append(f"{kind} {name!r}")
            return
        dependency = (kind, os.fsdecode(name))
        if kind in (Kind.FILE, Kind.FOLDER, Kind.PATH):
            dependency = (kind, os.path.abspath(dependency[1]))
        if dependency not in self._states:
            self._is_on = False
            state = self._states[dependency] = state_of(dependency, os.environ)
            self._is_on = True
            if state == UNKNOWN:
                self.doubts.append(f"{kind} {dependency[1]}")

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._is_on or event.startswith(HARMLESS_EVENTS):
            return
        if event == "import":
            name, file, path = arguments[:3]
            self._imported.add(name)
            if file:
                self._executed.add(file)
            # What is not found there now may be later.
            for folder in path or ():
                if folder not in self._path:
                    self._note(Kind.FOLDER, folder)
            return
        if event == "exec":
            if arguments[0].co_name == "<module>":
                self._executed.add(arguments[0].co_filename)
            return
        # What is imported is looked at by itself.
        if sys._getframe(1).f_code.co_filename.startswith(IMPORT_SYSTEM):
            return
        if event in LISTINGS:
            self._note(Kind.FOLDER, "." if arguments[0] is None else arguments[0])
        elif event == "open" and not arguments[2] & WRITE_FLAGS:
            self._note(Kind.FILE, arguments[0])
        else:
            self.doubts.append(f"{event} {arguments!r:.200}")

    def _watch_paths(self) -> None:
        def noting(function: Callable[..., Any]) -> Callable[..., Any]:
            def noted(path: Any, *arguments: Any, **keywords: Any) -> Any:
                if self._is_on:
                    if keywords.get("dir_fd") is not None:
                        self.doubts.append(f"dir_fd {path!r}")
                    self._note(Kind.PATH, path)
                return function(path, *arguments, **keywords)

            return noted

        for name in ("stat", "lstat", "access", "readlink"):
            setattr(os, name, noting(getattr(os, name)))

    def _watch_variables(self) -> None:
        recorder = self
        kind: Any = type(os.environ)

        class Noted(kind):  # type: ignore[misc]
            def __getitem__(self, name: str) -> str:
                if recorder._is_on and isinstance(name, str):
                    recorder._note(Kind.VARIABLE, name)
                value: str = super().__getitem__(name)
                return value

            def __iter__(self) -> Iterator[str]:
                if recorder._is_on:
                    recorder._note(Kind.VARIABLES, "")
                yield from super().__iter__()

        # Others hold on to the object.
        os.environ.__class__ = Noted

    def _packages(self) -> dict[str, str]:
        """The package of each imported file; one that was there before is known."""
        found = {}
        for name in self._imported:
            module, package = sys.modules.get(name), name.partition(".")[0]
            if path := getattr(module, "__file__", None):
                found[path] = OWN if package not in self._imported else package
            elif module and name not in sys.builtin_module_names:
                self.doubts.append(f"module {name} has no file")
        return found

    def _look_at(self, path: str, package: str | None) -> None:
        """Takes a module as a dependency, where it has nothing that cannot be known."""
        is_standard = path.startswith(STANDARD_LIBRARY) and "site-packages" not in path
        if is_standard or path.startswith("<"):
            return
        # It would be found instead.
        for other in ("/__init__.py", *EXTENSION_SUFFIXES):
            self._note(Kind.PATH, os.path.splitext(path)[0] + other)
        self._note(Kind.FILE, path)
        if has_changed_since(path, self._started):
            self.doubts.append(f"{path} has just changed")
        elif package != OWN:
            self.doubts += [f"{path}: {used}" for used in _unknowable(path)]


def _unknowable(path: str) -> Iterator[str]:
    """What a module uses that tells of what is not known afterwards."""
    if not path.endswith(tuple(importlib.machinery.SOURCE_SUFFIXES)):
        yield "not Python"
        return
    try:
        with open(path, "rb") as file:
            pending = [compile(file.read(), path, "exec", dont_inherit=True)]
    except (SyntaxError, ValueError):
        # As its import has found already, which says so.
        yield "not Python"
        return
    while pending:
        code = pending.pop()
        for name in code.co_names:
            if name in UNKNOWABLE_NAMES or name.startswith(UNKNOWABLE_PREFIXES):
                yield name
        pending += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
