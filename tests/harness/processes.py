"""Processes and waiting, for the tests."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from orchestration.catalog.checkout import PROJECT_ROOT

NYC = PROJECT_ROOT.parent / "shared" / "nyc"
ORCHESTRATION = (sys.executable, "-m", "orchestration")
# Seconds until what should come counts as never coming, however loaded the machine is; where less
# is promised, the test says so.
PATIENCE = 120.0


def orchestration(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    project: Path = PROJECT_ROOT,
    seconds: float = PATIENCE,
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m orchestration`, with `env` on top of this process's environment."""
    return subprocess.run(
        [*ORCHESTRATION, *arguments],
        cwd=project,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE) -> bool:
    """Waits for the condition to hold; False when it does not within `seconds`."""
    started = time.monotonic()
    while not condition():
        waited = time.monotonic() - started
        if waited > seconds:
            return False
        time.sleep(pause_after(waited))
    return True


def promised(seconds: float) -> float:
    """Within how many seconds that may be asked for here and now which is promised in so many.

    That is where the processors are a user's alone; here they are in use several times over.
    """
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def pause_after(waited: float, least: float = 0.02) -> float:
    """Seconds until the next look, after so many: each look costs what others wait for here."""
    return min(max(waited / 10, least), 0.5)


def is_running(pid: int) -> bool:
    """Whether the process exists and has not ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return not Path("/proc/self").exists()
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below the folder, with its content and time of change."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
