"""The parent of one child process: runs it, and leaves nothing of its process tree behind.

Started as `python -I -S reaper.py GRACE_SECONDS COMMAND…` with a pipe as standard input. The
command is ended when that pipe closes, so it cannot outlive whoever holds the other end, however
that one dies. Whatever the command started is ended with it, processes that went into a session of
their own included: on Linux they are all adopted by this process. Exits as the command did.

Standard library only, and no import of this project: it has to start in a few milliseconds.
"""

import contextlib
import os
import select
import signal
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
LEFT_BEHIND_GRACE = 2.0
NOT_FOUND = 127  # what a shell says


def main(grace: float, command: list[str]) -> int:
    """Runs the command and returns its exit status, negative for a signal."""
    adopt_orphans()
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        child = os.posix_spawnp(
            command[0],
            command,
            os.environ,
            file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
            setsid=True,
            setsigdef=[signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE],
        )
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be started: {error.strerror}\n")
        return NOT_FOUND
    statuses: dict[int, int] = {}
    while child not in statuses and not stopping:
        ready, _, _ = select.select([0, wake_read], [], [])
        if wake_read in ready:
            os.read(wake_read, 4096)
        if 0 in ready and not os.read(0, 4096):
            stopping = True
        reap(statuses)
    end_all(child, grace if stopping else LEFT_BEHIND_GRACE, statuses)
    return os.waitstatus_to_exitcode(statuses.get(child, signal.SIGKILL))


def adopt_orphans() -> None:
    """On Linux, makes every orphaned descendant a child of this process."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap(statuses: dict[int, int]) -> None:
    """Takes note of every child that has ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        statuses[pid] = status


def end_all(child: int, grace: float, statuses: dict[int, int]) -> None:
    """Ends the command's group and all that descends from this process: SIGTERM, then SIGKILL."""
    number, deadline = signal.SIGTERM, time.monotonic() + grace
    told: set[int] = set()
    while alive := living(child, statuses):
        if number is signal.SIGTERM and time.monotonic() > deadline:
            number, told = signal.SIGKILL, set()
        # A script whose command were ended before it would go on to its next one.
        for pid in [pid for pid in alive if pid not in told]:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        # SIGKILL again and again: a process may fork faster than it is found.
        told = set(alive) if number is signal.SIGTERM else set()
        time.sleep(0.02)
        reap(statuses)


def living(child: int, statuses: dict[int, int]) -> list[int]:
    """The processes that descend from this one, each before those that it started; off Linux, the
    command alone, by its group."""
    reap(statuses)
    if not Path("/proc/self/stat").exists():
        try:
            os.killpg(child, 0)
        except ProcessLookupError:
            return []
        return [-child]
    return [pid for generation in generations({os.getpid()}) for pid in generation]


def descendants(ancestors: set[int]) -> set[int]:
    """The processes below those, on Linux; of the ended ones, this process's own children."""
    return set().union(*generations(ancestors))


def generations(ancestors: set[int]) -> list[set[int]]:
    """The descendants of those: their children, the children of these, and so on."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            stat = path.read_text(errors="replace")
        except OSError:
            continue
        state, parent = stat.rpartition(")")[2].split()[:2]
        if state != "Z" or int(parent) == os.getpid():
            parents[int(path.parent.name)] = int(parent)
    found: list[set[int]] = []
    new = ancestors
    while new := {pid for pid, parent in parents.items() if parent in new}.difference(*found):
        found.append(new)
    return found


def end_descendants(except_for: set[int]) -> None:
    """Kills all that descends from this process, apart from those and what descends from them."""
    while left := descendants({os.getpid()}) - except_for - descendants(except_for):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.02)


def end_as(status: int) -> None:
    """Ends this process as another one has ended; the status is negative for a signal."""
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    end_as(main(float(sys.argv[1]), sys.argv[2:]))
