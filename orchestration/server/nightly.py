"""What `up` does once a night: it cleans up, where products.yml says how much is kept."""

import os
import sys
import time
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from orchestration import OrchestrationError, counted
from orchestration.catalog.checkout import checkout_root, products_file
from orchestration.catalog.products import read_products_file
from orchestration.catalog.retention import Retention
from orchestration.instance.home import open_instance, wait_for_database
from orchestration.lifecycle.child import ending
from orchestration.lifecycle.cleaning import failure_of, note_failure
from orchestration.lifecycle.results import lifecycle_dir
from orchestration.processes.background import Background
from orchestration.processes.forkserver import Process

# By the machine's own time. What has begun at midnight is mostly done by then.
HOUR = 3
LOOK_SECONDS = 5.0
# After one that has failed.
RETRY_SECONDS = 3600.0
# Its time of change is that of the last cleaning.
CLEANED = ".cleaned"


class Nightly:
    """Knows when it is time, and starts it; a night in which `up` was down is made up for."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._cleaning: Process | None = None
        self._look_at = time.monotonic() + LOOK_SECONDS

    def watch(self, retention: Retention | None) -> None:
        """Starts it where it is due; to be called again and again."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK_SECONDS
        if self._cleaning and (status := self._cleaning.poll()) is not None:
            self._cleaning = None
            if status:
                self._look_at = time.monotonic() + RETRY_SECONDS
                if not failure_of(lifecycle_dir()):
                    _note(lifecycle_dir(), f"It {ending(status)}; the output of `up` says more.")
        elif retention and not self._cleaning and is_due(lifecycle_dir() / CLEANED, time.time()):
            self._cleaning = self._background.start(partial(clean_up, retention))


def is_due(cleaned: Path, now: float) -> bool:
    """Whether there was a night since the last cleaning, of which `cleaned` has the time."""
    local = datetime.fromtimestamp(now)
    night = local.replace(hour=HOUR, minute=0, second=0, microsecond=0)
    if night > local:
        night -= timedelta(days=1)
    try:
        last = cleaned.stat().st_mtime
    except FileNotFoundError:
        return True
    # One that is said to be still to come is one of a clock that was wrong.
    return last < night.timestamp() or last > now


def clean_up(retention: Retention) -> None:
    """Removes what products.yml does not say to keep."""
    # It needs private names of Dagster's, without which all else goes on.
    from orchestration.instance.cleaning import Cleaner

    root, lifecycle, now = checkout_root(), lifecycle_dir(), time.time()
    try:
        products = read_products_file(products_file(root)).products
        wait_for_database()
        with open_instance(lambda _: None) as instance:
            cleaning = Cleaner(
                instance, retention, lifecycle=lifecycle, root=root, products=products, now=now
            ).remove()
    except (OrchestrationError, OSError) as error:
        _note(lifecycle, str(error))
        sys.exit(f"Cleaning up has failed: {error}")
    _note(lifecycle, " ".join(cleaning.problems))
    (lifecycle / CLEANED).touch()
    os.utime(lifecycle / CLEANED, (now, now))
    for problem in cleaning.problems:
        print(f"Cleaning up: {problem}", flush=True)
    if cleaning.found or cleaning.runs:
        size = sum(found.bytes for found in cleaning.found)
        print(
            f"Cleaned up: {counted(len(cleaning.found), 'old result')} "
            f"and {counted(len(cleaning.runs), 'run')}, {size / 1e6:.1f} MB",
            flush=True,
        )


def _note(lifecycle: Path, why: str) -> None:
    # Where the disk is full, that is told by itself.
    with suppress(OSError):
        note_failure(lifecycle, why)
