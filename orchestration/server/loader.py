"""Loads a code location in a process of its own, and leaves what its code server would answer."""

import gc
import os
import sys
import traceback
from pathlib import Path

from orchestration.catalog.checkout import PROJECT_ROOT
from orchestration.lifecycle.reaper import end_descendants
from orchestration.server.answers import write_answers
from orchestration.server.dagster_internals import answers_of

LOCATIONS_PACKAGE = "orchestration.locations"


def load(name: str, target: Path) -> None:
    """Loads the location, writes its answers, and ends this process with all that it started."""
    # It ends before there is much garbage, and looking for some copies what it shares.
    gc.disable()
    status = 1
    try:
        replies, problem = answers_of(
            name=name, module=f"{LOCATIONS_PACKAGE}.{name}", folder=str(PROJECT_ROOT)
        )
        write_answers(target, replies, problem)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if os.path.exists("/proc/self/stat"):
            end_descendants(except_for=set())
        # Not by way of what the location's code wants done at the end, its threads included.
        os._exit(status)
