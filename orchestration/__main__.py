"""`python -m orchestration COMMAND`."""

import sys

from orchestration.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
