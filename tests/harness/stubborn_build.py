"""Run as `python -m tests.harness.stubborn_build FOLDER`: a run whose build refuses to end."""

import os
import sys
from pathlib import Path

from dagster import AssetExecutionContext, asset, materialize

from orchestration.lifecycle import child
from orchestration.lifecycle.redaction import Redactor

# A shell, its child, and a daemon in a session of its own, all deaf to SIGTERM.
COMMAND = """
trap '' TERM HUP INT
stay() { echo $BASHPID > $1.pid; for each in 1 2 3; do sleep 20; done; }
export -f stay
echo $$ > shell.pid
setsid bash -c 'stay daemon' &
bash -c 'stay child; true'
"""


def main(folder: Path) -> None:
    """Runs the build in an asset, as a stage would."""

    @asset
    def build(context: AssetExecutionContext) -> None:
        child.run(
            context.log,
            command=["bash", "-c", COMMAND],
            cwd=folder,
            env=os.environ,
            log=folder / "build.log",
            redact=Redactor({}),
            grace=0.5,
        )

    materialize([build])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
