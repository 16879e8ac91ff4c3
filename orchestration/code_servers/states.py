"""The states of a code location's life, and which follows which."""

from enum import Enum


class LocationState(Enum):
    """Where a location is in its life."""

    LOADING = "loading"
    """A process loads it, or is about to; what was known of it before is served meanwhile."""
    ASLEEP = "asleep"
    """All that is usually asked of it can be answered, and no process has its code."""
    AWAKE = "awake"
    """A code server of its own answers what only its code can."""
    BROKEN = "broken"
    """It cannot be loaded; the reason is served."""
    ENDING = "ending"
    """It is served no more, and its processes are ending."""


NEXT = {
    LocationState.LOADING: {
        LocationState.LOADING,
        LocationState.ASLEEP,
        LocationState.BROKEN,
        LocationState.ENDING,
    },
    LocationState.ASLEEP: {
        LocationState.LOADING,
        LocationState.AWAKE,
        LocationState.ENDING,
    },
    LocationState.AWAKE: {
        LocationState.LOADING,
        LocationState.ASLEEP,
        LocationState.ENDING,
    },
    LocationState.BROKEN: {LocationState.LOADING, LocationState.ENDING},
    LocationState.ENDING: set(),
}
"""The states that each can be followed by."""
