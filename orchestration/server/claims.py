"""What a running `up` has for itself alone: a folder of state, this clone, and its database."""

import fcntl
import os
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

from orchestration import OrchestrationError
from orchestration.catalog.checkout import PROJECT_ROOT
from orchestration.generator.render import LOCATIONS
from orchestration.instance.home import LOCK
from orchestration.instance.workers import mark_host
from orchestration.lifecycle.results import lifecycle_dir, make_private
from orchestration.processes.background import Background


class Claims:
    """Held as long as this process lives; whatever it forks closes them."""

    def __init__(self, home: Path) -> None:
        """Raises OrchestrationError where another `up` has one of them."""
        self._home, self._results = home, lifecycle_dir()
        clone = PROJECT_ROOT / LOCATIONS / "__init__.py"
        self._files = [
            open(home / LOCK, "w"),  # noqa: SIM115
            # On NFS only what can be written to can be locked. Source: flock(2).
            open(clone, "a" if os.access(clone, os.W_OK) else "r"),  # noqa: SIM115
        ]
        for file, what in zip(self._files, (home, PROJECT_ROOT), strict=True):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OrchestrationError(
                    f"Another `up` runs on {what}, which is for one only. End it, or run this one "
                    "in a clone of its own, with a DAGSTER_HOME of its own."
                ) from None
        self._mark = mark_host()

    def keep_results(self) -> None:
        """Makes the folder of results anew where it is gone. Raises OSError where it cannot be."""
        if not self._results.is_dir():
            make_private(self._results)
            print(
                f"{self._results} is gone, with every result in it; it has been made anew. Dagster "
                "still lists those results: materialize again what is needed.",
                flush=True,
            )

    def is_state_there(self) -> bool:
        """Whether Dagster's state is still in its place. Raises OSError where nobody can tell."""
        with suppress(FileNotFoundError):
            mine = os.fstat(self._files[0].fileno())
            if os.path.samestat(mine, os.stat(self._home / LOCK)):
                return True
        print(
            f"Dagster's state, {self._home}, is gone: `up` ends. Start it again to begin anew.",
            flush=True,
        )
        return False


class DatabaseClaim:
    """Kept by a process of its own, since a connection does not survive a fork of its process."""

    def __init__(self, background: Background, folder: Path) -> None:
        """`folder` is a temporary one of this `up`. Raises OSError where there is no process."""
        self._background, self._held = background, folder / "database.held"
        self._start()

    def _start(self) -> None:
        self._holder = self._background.start(partial(_hold, self._held))

    @property
    def is_held(self) -> bool:
        """Whether the database has been claimed."""
        return self._held.exists()

    def watch(self) -> bool:
        """Whether this `up` may go on: no other has the database, as the process has said then."""
        if (status := self._holder.poll()) is not None and status < 0:
            self._start()
        return status is None or status < 0


def _hold(held: Path) -> None:
    from orchestration.instance.database_claim import hold_database

    try:
        hold_database(held)
    except OrchestrationError as error:
        sys.exit(str(error))
