"""What a running `up` has for itself alone: a folder of state, and this clone."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from orchestration import OrchestrationError
from orchestration.catalog.checkout import PROJECT_ROOT
from orchestration.generator.render import LOCATIONS
from orchestration.instance.home import LOCK
from orchestration.lifecycle.results import lifecycle_dir, make_private


class Claims:
    """Held as long as this process lives; whatever it forks closes them."""

    def __init__(self, home: Path) -> None:
        """Raises OrchestrationError where another `up` has one of them."""
        self._home = home
        self._files = [
            open(home / LOCK, "w"),  # noqa: SIM115
            open(PROJECT_ROOT / LOCATIONS / "__init__.py"),  # noqa: SIM115
        ]
        for file, what in zip(self._files, (home, PROJECT_ROOT), strict=True):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OrchestrationError(
                    f"Another `up` runs on {what}, which is for one only. End it, or run this one "
                    "in a clone of its own, with a DAGSTER_HOME of its own."
                ) from None

    def are_there(self) -> bool:
        """Whether Dagster's state is still in its place. Results that are gone are nobody's end."""
        results = lifecycle_dir()
        if not results.is_dir():
            make_private(results)
            print(
                f"{results} is gone, with every result in it; it has been made anew. Dagster still "
                "lists those results: materialize again what is needed.",
                flush=True,
            )
        with suppress(FileNotFoundError):
            mine = os.fstat(self._files[0].fileno())
            if os.path.samestat(mine, os.stat(self._home / LOCK)):
                return True
        print(
            f"Dagster's state, {self._home}, is gone: `up` ends. Start it again to begin anew.",
            flush=True,
        )
        return False
