"""`python -m orchestration COMMAND`, with whatever Python it is called.

Nothing of the project is imported before it is clear that this Python can run it.
"""

import importlib.util
import os
import signal
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ENVIRONMENT = os.path.join(ROOT, "orchestration", "dagster", ".venv")


def settle_interpreter() -> None:
    """Starts again with the project's own Python where this one has no Dagster, or is too old.

    Also where this one cannot name every file, as in a locale of one byte a character.
    """
    python = sys.executable
    dagster = importlib.util.find_spec("dagster")
    if sys.version_info < (3, 11) or not (dagster and dagster.origin):
        python = os.path.join(ENVIRONMENT, "bin", "python")
        if os.path.abspath(sys.prefix) == ENVIRONMENT or not os.access(python, os.X_OK):
            sys.exit(
                f"{sys.executable} has no Dagster, and {ENVIRONMENT} cannot be used. "
                f"Run `make up` in {ROOT}, which makes it."
            )
    elif sys.flags.utf8_mode or sys.getfilesystemencoding() == "utf-8":
        return
    os.environ["PYTHONUTF8"] = "1"
    os.execv(python, [python, "-m", "orchestration", *sys.argv[1:]])


if __name__ == "__main__":
    heard = signal.getsignal(signal.SIGINT)
    if heard == signal.default_int_handler:
        # As long as there is nothing to tidy up, Ctrl-C ends it as it ends any program.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    settle_interpreter()
    from orchestration.cli.main import main
    from orchestration.processes import console

    console.settle(waits=True)
    signal.signal(signal.SIGINT, heard)
    sys.exit(main())
