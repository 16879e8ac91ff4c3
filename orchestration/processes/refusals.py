"""What the system refuses for now, such as a process or room on a disk, and gives again later."""

import time
from collections.abc import Callable
from typing import TypeVar

from orchestration import reason_of

RETRY_SECONDS = 1.0
T = TypeVar("T")


class Refusals:
    """Knows what is refused at the moment."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, float]] = {}

    def outlast(self, problem: str, step: Callable[[], T], otherwise: T) -> T:
        """What the step gives; where the system refuses it, `otherwise`, until a second later.

        To be called again and again. The `problem` is said once while it lasts. A step that is
        refused has to leave everything such that it can be taken again.
        """
        reason, retry_at = self._known.get(problem, ("", 0.0))
        if time.monotonic() < retry_at:
            return otherwise
        try:
            result = step()
        except OSError as error:
            if reason != (now := reason_of(error)):
                print(f"{problem}: {now}. It is tried again every second.", flush=True)
            self._known[problem] = now, time.monotonic() + RETRY_SECONDS
            return otherwise
        self._known.pop(problem, None)
        return result
