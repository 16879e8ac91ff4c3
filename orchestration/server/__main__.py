"""The process of the supervisor, which `up` starts as `python -m orchestration.server`."""

import gc
import sys

# To look for garbage as often as usual takes a third of the time that all the imports take.
MANY_OBJECTS = 100_000


def main() -> int:
    """Runs it."""
    gc.set_threshold(MANY_OBJECTS, *gc.get_threshold()[1:])
    from orchestration.server.supervisor import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
