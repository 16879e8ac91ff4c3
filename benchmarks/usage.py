"""What a start takes: seconds, memory and the processor's time."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.serving import serve_up, wait_until_loaded
from orchestration.lifecycle.reaper import descendants

# By then the daemon, which starts after the webserver, has loaded all of 200 locations, too.
SETTLE_SECONDS = 25.0
# The daemon's heartbeats come every 30 s.
IDLE_SECONDS = 30.0
# What looks whether somebody has to be alerted does so every two minutes.
REST_SECONDS = 240.0
# While it starts, its memory is looked at as often; to look takes time, so that it is not timed.
LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Usage:
    """What a start took, and what is taken once it has settled."""

    seconds: float
    megabytes: float
    idle: float
    """Of one core, in percent."""

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s, {self.megabytes:.0f} MB, idle {self.idle:.1f} %"


def measure_start(serve: Callable[[Path], Any], project: Path, expected: int) -> Usage:
    """What it takes until so many locations are loaded, and then."""
    started = time.perf_counter()
    with serve(project) as (url, process):
        if serve is not serve_up:
            started = time.perf_counter()
        wait_until_loaded(url, expected)
        seconds = time.perf_counter() - started
        time.sleep(SETTLE_SECONDS)
        before = processor_seconds(process.pid)
        time.sleep(IDLE_SECONDS)
        idle = (processor_seconds(process.pid) - before) / IDLE_SECONDS
        return Usage(seconds, memory_of(process.pid), 100 * idle)


def measure_rest(served: Sequence[int]) -> list[tuple[float, float]]:
    """Percent of one core, and MB, that each of these processes takes at rest, in the same minutes.

    What they have started counts, too.
    """
    time.sleep(SETTLE_SECONDS)
    before = [processor_seconds(pid) for pid in served]
    time.sleep(REST_SECONDS)
    used = [processor_seconds(pid) - b for pid, b in zip(served, before, strict=True)]
    return [(100 * u / REST_SECONDS, memory_of(pid)) for pid, u in zip(served, used, strict=True)]


def seconds_to_start(serve: Callable[[Path], Any], project: Path, expected: int) -> float:
    """How long it takes until so many locations are loaded."""
    started = time.perf_counter()
    with serve(project) as (url, _):
        wait_until_loaded(url, expected)
        return time.perf_counter() - started


def peak_of_start(project: Path, expected: int) -> float:
    """The most memory that a start of `up` takes until so many locations are loaded, in MB."""
    peak = 0.0
    with serve_up(project) as (url, process), ThreadPoolExecutor() as pool:
        waiting = pool.submit(wait_until_loaded, url, expected)
        while not waiting.done():
            peak = max(peak, memory_of(process.pid))
            time.sleep(LOOK_SECONDS)
        waiting.result()
    return peak


def processor_seconds(root: int) -> float:
    """What a process and its descendants have used of the processors, with those that ended."""
    total = 0
    for pid in {root} | descendants({root}):
        with suppress(OSError):
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
            total += sum(map(int, stat.rpartition(")")[2].split()[11:15]))
    return total / os.sysconf("SC_CLK_TCK")


def memory_of(root: int) -> float:
    """The PSS of a process and its descendants, in MB."""
    total = 0
    for pid in {root} | descendants({root}):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024
