"""`make soak`: what only time brings to light, in some half an hour.

First 200 runs with faults of all kinds, then a day of a team's 20 locations. Exits with 1 where
something is not as it should be, `up` taking more in the end than it began with included.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from orchestration.catalog.checkout import SAMPLE_ROOT
from orchestration.lifecycle.environment import dcpy_python
from soak import end_when_told
from soak.day import spend_a_day
from soak.faults import bring_about

# Whoever runs this has settings of their own, which must not be those of the copy.
SETTINGS = ("DAGSTER_HOME", "DAGSTER_POSTGRES_URL", "DCPY_LIFECYCLE_DATA_DIR", "DCPY_PYTHON")


def main() -> int:
    """Runs the soak, and prints what it found."""
    end_when_told()
    parser = argparse.ArgumentParser(prog="python -m soak", description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="with faults (%(default)s)")
    parser.add_argument("--hours", type=int, default=24, help="of the day (%(default)s)")
    parser.add_argument("--seed", type=int, default=20260101, help="what happens (%(default)s)")
    options = parser.parse_args()
    for name in SETTINGS:
        os.environ.pop(name, None)
    # Each copy finds the sample's dcpy where `make dcpy` has put it.
    os.environ["DATA_ENGINEERING_ROOT"] = str(SAMPLE_ROOT)
    os.environ["DCPY_PYTHON"] = str(dcpy_python(None)[0])
    are_wrong = False
    for bring, number in ((bring_about, options.runs), (spend_a_day, options.hours)):
        if number:
            with tempfile.TemporaryDirectory(prefix="soak-") as folder:
                wrong = bring(Path(folder), number, options.seed)
            print("\n".join(["wrong:", *wrong]) if wrong else "All is as it should be.", flush=True)
            are_wrong = are_wrong or bool(wrong)
    return 1 if are_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
