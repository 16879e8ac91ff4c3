"""A run that somebody has ended meanwhile: its process ends, too, and publishes nothing.

A host that is cut off goes on with its runs, which are given up by all others after a while. What
such a run would publish then must not appear: it may have been launched again elsewhere.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from dagster import DagsterInstance
from sqlalchemy.exc import DatabaseError

LOOK_SECONDS = 5.0
ABANDONED = 75
"""The exit code of a process whose run was given up."""


@contextmanager
def ending_when_abandoned(instance: DagsterInstance, run_id: str) -> Iterator[Callable[[], None]]:
    """Ends this process as soon as the run has ended.

    Gives what does so at once, to be called before something is published.
    """

    def check() -> None:
        run = instance.get_run_by_id(run_id)
        if run and run.is_finished:
            # Not by an exception, which would be one more end of the run. The reapers of what it
            # has started end that.
            os._exit(ABANDONED)

    def watch() -> None:
        while not is_done.wait(LOOK_SECONDS):
            # A database that fails now is asked again.
            with suppress(DatabaseError):
                check()

    is_done = threading.Event()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield check
    finally:
        is_done.set()
