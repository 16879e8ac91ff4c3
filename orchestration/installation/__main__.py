"""`python -m orchestration.installation`: what `make` calls before it starts anything."""

import os
import sys

from orchestration import OrchestrationError, explained
from orchestration.catalog.checkout import checkout_root
from orchestration.installation.environment import install


def main() -> int:
    """Installs the checkout's dcpy, unless `DCPY_PYTHON` says who has it; gives the exit code."""
    if os.environ.get("DCPY_PYTHON"):
        return 0
    try:
        install(checkout_root())
    except OrchestrationError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(explained(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
