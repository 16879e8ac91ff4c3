"""Which process executes a run, and whether it has ended."""

import fcntl
import os
import socket
from pathlib import Path
from typing import TextIO

from orchestration.instance.home import has_postgres
from orchestration.lifecycle.results import make_private

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


def mark_host() -> TextIO:
    """As long as this file is open, all who share `DAGSTER_HOME` know that this host is there.

    A container has a new name each time, and a laptop's may change with its network: once a name
    that was here is there no longer, its processes have ended.
    """
    mark = _mark(socket.gethostname())
    make_private(mark.parent)
    # NFS wants files that are locked open both ways.
    file = open(mark, "w+")  # noqa: SIM115
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def is_elsewhere(identity: str) -> bool:
    """Whether the process is another host's or container's, of which nothing can be known here.

    Two hosts can share a database of runs in Postgres. An identity that names no host may be of
    either.
    """
    host = identity.partition("@")[2]
    if host == socket.gethostname() or _runs_here(identity):
        return False
    return _is_there(host) or not _was_here(host)


def has_ended(identity: str) -> bool:
    """Whether the process of that identity is known to have ended."""
    return not is_elsewhere(identity) and not _runs_here(identity)


def _runs_here(identity: str) -> bool:
    process, _, host = identity.partition("@")
    if host and not _was_here(host):
        return False
    try:
        return f"{pid_of(process)}:{_start(pid_of(process))}" == process
    except ProcessLookupError:
        return False


def _was_here(host: str) -> bool:
    """Whether it is this host, or one that has had the state that this one has now."""
    return host == socket.gethostname() or not has_postgres() or _mark(host).is_file()


def _is_there(host: str) -> bool:
    """Whether one of that name, such as a container, works with the same state now."""
    if not _mark(host).is_file():
        return False
    with open(_mark(host), "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _mark(host: str) -> Path:
    return Path(os.environ["DAGSTER_HOME"], "hosts", host)
