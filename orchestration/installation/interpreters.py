"""The Python interpreters of this machine, of which one is to run dcpy."""

import glob
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

MINIMUM = (3, 12)
# NYC's image has the first: admin/run_environment/docker/base/Dockerfile of the checkout.
NAMES = ("python3.13", "python3.12", "python3.14")
PROBE = "import ensurepip, sys, venv; print(*sys.version_info[:2])"
PROBE_SECONDS = 20.0


@dataclass(frozen=True)
class Interpreter:
    """One that works, and can make an environment."""

    path: Path
    version: tuple[int, int]

    @property
    def is_recent(self) -> bool:
        """Whether NYC's dcpy can be run by it whole."""
        return self.version >= MINIMUM

    def __str__(self) -> str:
        return f"Python {self.version[0]}.{self.version[1]}"


def find_interpreter(environ: Mapping[str, str] = os.environ) -> Interpreter:
    """The interpreter for dcpy: the first recent one that works, else the one that runs this."""
    for path in _candidates(environ):
        if (found := tried(path)) and found.is_recent:
            return found
    return Interpreter(Path(sys.executable), sys.version_info[:2])


def tried(path: Path) -> Interpreter | None:
    """The interpreter at `path`; None where it does not work, as pyenv's shims often do not."""
    try:
        done = subprocess.run(
            [path, "-I", "-c", PROBE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.fullmatch(r"(\d+) (\d+)\s*", done.stdout)
    return Interpreter(path, (int(version[1]), int(version[2]))) if version else None


def _candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    folders = environ.get("PATH", os.defpath).split(os.pathsep)
    pyenv = Path(environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for name in NAMES:
        for folder in folders:
            if found := shutil.which(name, path=folder):
                yield Path(found).absolute()
        # Unlike a path's own, this glob takes a folder that nobody may read for an empty one.
        found_there = glob.glob(f"*/bin/{name}", root_dir=pyenv)
        yield from (pyenv / path for path in sorted(found_there, reverse=True))
