"""A limit to the memory of a process, which the system keeps."""

import resource
from pathlib import Path

MEGABYTE = 1024 * 1024
# What a code server's own threads are given, used or not.
SERVER_MB = 256


def limit_memory(megabytes: int) -> None:
    """Lets this process, and each that it starts, take so much more than this one has.

    What goes beyond that is a MemoryError. Linux keeps it; elsewhere it may have no effect.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_taken() + megabytes * MEGABYTE, hard))


def lift_limit() -> None:
    """Lets this process take what it likes again."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def _taken() -> int:
    """The bytes that count: private memory that can be written, shared with a parent or not."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return int(status.partition("VmData:")[2].split()[0]) * 1024
