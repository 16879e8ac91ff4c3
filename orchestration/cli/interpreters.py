"""Work for a location that has an interpreter of its own, done there.

The fork that it would be done in starts that interpreter, with the same standard output.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from orchestration import OrchestrationError
from orchestration.cli.forks import end_with, telling
from orchestration.definitions.interpreter import Interpreter
from orchestration.instance.home import has_postgres
from orchestration.lifecycle.reaper import end_as


def do_there(interpreter: Interpreter, work: Callable[..., None], *arguments: Any) -> None:
    """Calls `work` in that interpreter with the arguments, and a function by which to tell things.

    Ends this process as that one ends, where that is not well. Raises OrchestrationError where
    the interpreter cannot be used.
    """
    if problem := interpreter.problem(has_postgres=has_postgres()):
        raise OrchestrationError(problem)
    if interpreter.difference:
        print(f"warning: {interpreter.difference}.", flush=True)
    process = subprocess.Popen(
        # Not the modules of whatever folder this happens to be started in.
        [interpreter.path, "-P", "-m", __name__],
        env=interpreter.environment(os.environ),
        stdin=subprocess.PIPE,
    )
    assert process.stdin
    # It stays open: when it closes, this process has ended.
    pickle.dump((work, arguments), process.stdin)
    process.stdin.flush()
    while True:
        try:
            status = process.wait()
            break
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
    if status:
        end_as(status)


def main() -> None:
    """Does what it is told on standard input."""
    work, arguments = pickle.load(sys.stdin.buffer)
    end_with(sys.stdin.fileno())
    work(*arguments, telling(os.dup(sys.stdout.fileno())))


if __name__ == "__main__":
    main()
