"""Ends what processes of locations and of runs leave behind when they end.

Each adopts what is orphaned below it, and the supervisor what is left when one of them ends: it
has a child then that it has not started.
"""

import os
import signal
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from orchestration.lifecycle.reaper import adopt_orphans

# The parent of a stage's command needs so long to end that one.
GRACE_SECONDS = 15.0


class Orphans:
    """Those that are ending."""

    def __init__(self) -> None:
        adopt_orphans()
        self._told: dict[int, float] = {}

    def watch(self, own: Collection[int]) -> None:
        """Ends each child of this process but its `own`; to be called again and again."""
        left = _children() - set(own)
        now = time.monotonic()
        self._told = {pid: told for pid, told in self._told.items() if pid in left}
        for pid in left:
            with suppress(ProcessLookupError, ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0]:
                    continue
                if pid not in self._told:
                    self._told[pid] = now
                    os.kill(pid, signal.SIGTERM)
                elif now - self._told[pid] > GRACE_SECONDS:
                    os.kill(pid, signal.SIGKILL)


def _children() -> set[int]:
    """This process's children, where the system tells."""
    found: set[int] = set()
    for file in Path("/proc/self/task").glob("*/children"):
        found.update(map(int, file.read_text().split()))
    return found
