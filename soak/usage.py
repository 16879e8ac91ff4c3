"""What a running `up` takes: processes, open files and memory, and whether that has grown."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.harness.up_server import Server

HEADING = " runs  seconds  processes  files  memory MB   supervisor MB"
# The webserver's and the daemon's caches grow to their size only slowly.
MORE_MEMORY = 1.15
MORE_FILES = 8
# What a process shares with others counts less, the more of them there are at that moment.
MORE_MEGABYTES = 10


@dataclass(frozen=True)
class Usage:
    """What `up` and all that it has started take."""

    runs: int
    processes: int
    files: int
    megabytes: float
    supervisor: float
    seconds: float

    @classmethod
    def of(cls, server: Server, *, runs: int, began: float) -> "Usage":
        """What it takes now, after so many runs; `began` is by the monotonic clock."""
        pids = server.processes()
        supervisor = max(pids, key=lambda pid: len(children_of(pid, pids)))
        return cls(
            runs=runs,
            processes=len(pids),
            files=sum(map(_open_files, pids)),
            megabytes=sum(map(_megabytes, pids)),
            supervisor=_megabytes(supervisor),
            seconds=time.monotonic() - began,
        )

    def row(self) -> str:
        """A line of the table."""
        return (
            f"{self.runs:>5} {self.seconds:>8.0f} {self.processes:>10} {self.files:>6} "
            f"{self.megabytes:>10.0f} {self.supervisor:>15.1f}"
        )

    def excess(self, first: "Usage") -> Iterator[str]:
        """What is more than it was at first, in sentences."""
        for what, most, now in (
            ("processes", first.processes, self.processes),
            ("open files", first.files + MORE_FILES, self.files),
            ("memory", first.megabytes * MORE_MEMORY, self.megabytes),
            ("the supervisor's memory", first.supervisor + MORE_MEGABYTES, self.supervisor),
        ):
            if now > most:
                yield f"{what}: {now:.0f}, and at most {most:.0f} were expected"


def children_of(parent: int, pids: set[int]) -> set[int]:
    """Those of the processes that have this parent."""
    found = set()
    for pid in pids:
        with suppress(OSError):
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
            if int(stat.rpartition(")")[2].split()[1]) == parent:
                found.add(pid)
    return found


def _open_files(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def _megabytes(pid: int) -> float:
    """The process's memory: its proportional set size."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return int(text.partition("\nPss:")[2].split()[0]) / 1024
