"""`python -m orchestration COMMAND`."""

import sys

from orchestration.cli.main import main
from orchestration.server import console

if __name__ == "__main__":
    console.settle(waits=True)
    sys.exit(main())
