"""Questions to a server that may not answer at the moment."""

import time
from collections.abc import Callable
from typing import TypeVar

from orchestration import OrchestrationError

T = TypeVar("T")
SECONDS = 60.0


def patiently(ask: Callable[[], T]) -> T:
    """Asks again while the webserver, or the location in question, does not answer."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            return ask()
        except (OrchestrationError, OSError, AssertionError):
            if time.monotonic() > end:
                raise
            time.sleep(0.5)
