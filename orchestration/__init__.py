"""Orchestration of data products in Dagster, one isolated code location per product."""

import errno

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class OrchestrationError(Exception):
    """Something the user can mend; its text says what happened, where, and what to do."""


def counted(number: int, noun: str) -> str:
    """The number with its noun, whose plural ends in `s`: `1 file`, `2 files`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def explained(error: OSError) -> str:
    """What the system did not do, and what to do about it, in two sentences."""
    advice = "Free some space" if error.errno in DISK_FULL else "Put that right"
    return f"{reason_of(error)}. {advice}, then run this again."


def reason_of(error: OSError) -> str:
    """What the system did not do, and with which file."""
    file = error.filename2 or error.filename
    return f"{error.strerror or error}{f' ({file})' if file else ''}"
