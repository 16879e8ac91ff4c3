"""Stands in for a code location whose server hangs, exits or crashes, and says so in the UI."""

import os

REASON = "ORCHESTRATION_BROKEN_LOCATION"

if REASON in os.environ:
    raise RuntimeError(os.environ[REASON])
