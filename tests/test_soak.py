"""What `make soak` has started ends with it."""

import signal
import subprocess
import sys

from orchestration.catalog.checkout import PROJECT_ROOT
from tests.harness.forks import command_of, descendants
from tests.harness.processes import is_running, wait_until


def test_a_soak_that_is_ended_leaves_no_server() -> None:
    """Whoever gives up on it in another terminal had an `up` that went on for ever."""
    soak = subprocess.Popen(
        [sys.executable, "-m", "soak", "--runs", "1", "--hours", "0"],
        cwd=PROJECT_ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def server() -> set[int]:
        own = {pid for pid in descendants(soak.pid) if b"orchestration.server" in command_of(pid)}
        return own if len(own) > 1 else set()

    try:
        assert wait_until(server, 60)
        started = descendants(soak.pid)
    finally:
        soak.send_signal(signal.SIGTERM)
        soak.wait(30)
    assert wait_until(lambda: not any(map(is_running, started)))
