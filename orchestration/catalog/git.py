"""Which state of the checkout git knows."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class Commit:
    """The commit that is checked out."""

    id: str
    changes: tuple[str, ...]
    """The files below the checkout that are not as it has them, as `git status --short` says."""


def commit_of(root: Path) -> Commit | None:
    """The commit of the checkout at `root`; None where git knows nothing of it. Only reads."""
    # The checkout may be another user's, which git refuses to look at unless told.
    git = ["git", "-c", "safe.directory=*", "-c", "core.quotePath=false", "-C", str(root)]
    try:
        head = _output([*git, "rev-parse", "HEAD"])
        changes = _output([*git, "status", "--short", "--", "."])
    except (OSError, subprocess.SubprocessError):
        return None
    return Commit(head.strip(), tuple(changes.splitlines()))


def _output(command: list[str]) -> str:
    # Where git has called this, for a commit, its variables are about the repository of that.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        command,
        env={**env, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=TIMEOUT_SECONDS,
        check=True,
    ).stdout
