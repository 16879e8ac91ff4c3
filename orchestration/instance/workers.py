"""Which process executes a run, and whether it has ended."""

import os
import socket
from pathlib import Path

# Dagster hides the tags that begin with a dot: they say nothing to people.
WORKER_TAG = ".dagster/orchestration/worker"
# The process that launches a run, which is there before the run's own.
LAUNCHER_TAG = ".dagster/orchestration/launcher"


def process_identity(pid: int) -> str:
    """A name for the process that no other has: its id, when it started, and its host's name.

    Raises ProcessLookupError when there is none, or it has ended already.
    """
    return f"{pid}:{_start(pid)}@{socket.gethostname()}"


def _start(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        if Path("/proc/self").exists():
            raise ProcessLookupError(pid) from None
        os.kill(pid, 0)
        return ""
    fields = stat.rpartition(")")[2].split()
    if fields[0] in "ZX":
        raise ProcessLookupError(pid)
    return fields[19]


def pid_of(identity: str) -> int:
    """The process's id on its host."""
    return int(identity.partition(":")[0])


def is_elsewhere(identity: str) -> bool:
    """Whether the process is another host's, of which nothing can be known here.

    Two hosts can share a database of runs. An identity that names no host may be of either.
    """
    host = identity.partition("@")[2]
    return host != socket.gethostname() and not _runs_here(identity)


def has_ended(identity: str) -> bool:
    """Whether the process of that identity is known to have ended."""
    return not is_elsewhere(identity) and not _runs_here(identity)


def _runs_here(identity: str) -> bool:
    process, _, host = identity.partition("@")
    if host not in ("", socket.gethostname()):
        return False
    try:
        return f"{pid_of(process)}:{_start(pid_of(process))}" == process
    except ProcessLookupError:
        return False
