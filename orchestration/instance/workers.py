"""Which process executes a run, and whether it is alive."""

import os
from pathlib import Path

WORKER_TAG = "orchestration/worker"
# The process that launches a run, which is there before the run's own.
LAUNCHER_TAG = "orchestration/launcher"


def process_identity(pid: int) -> str:
    """A name for the process that no later one has: its id, and when it started.

    Raises ProcessLookupError when there is none, or it has ended already.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        if Path("/proc/self").exists():
            raise ProcessLookupError(pid) from None
        os.kill(pid, 0)
        return f"{pid}:"
    fields = stat.rpartition(")")[2].split()
    if fields[0] in "ZX":
        raise ProcessLookupError(pid)
    return f"{pid}:{fields[19]}"


def is_alive(identity: str) -> bool:
    """Whether the process of that identity runs."""
    try:
        return process_identity(int(identity.partition(":")[0])) == identity
    except ProcessLookupError:
        return False
