"""A location's code server as Dagster has it: how it is started, and what it answers when asked."""

import socket
import subprocess
import time
from pathlib import Path

import grpc

from orchestration.catalog.checkout import PROJECT_ROOT
from orchestration.definitions.interpreter import Interpreter
from orchestration.instance.home import has_postgres
from orchestration.lifecycle.reaper import end_as
from orchestration.processes.dagster_internals import (
    answers_of,
    broken_answers,
    check_understood,
    code_server_at,
)

LOCATIONS_PACKAGE = "orchestration.locations"
STEP_SECONDS = 0.02
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def command(name: str, path: Path) -> list[str]:
    """What starts the code server of a location, on the socket at `path`."""
    return [
        *("dagster", "api", "grpc", "--socket", str(path)),
        *("--module-name", f"{LOCATIONS_PACKAGE}.{name}"),
        *("--working-directory", str(PROJECT_ROOT)),
        *("--location-name", name),
        *("--log-level", "warning"),
    ]


def takes_requests(path: Path) -> bool:
    """Whether somebody listens on the socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True


def answers_at(name: str, path: Path) -> tuple[dict[str, bytes], str | None]:
    """What the code server answers that serves on the socket at `path`.

    The second is why the location is broken, if so. Raises grpc.RpcError where it does not answer.
    """
    with grpc.insecure_channel(f"unix:{path}", options=UNLIMITED) as channel:
        return answers_of(name, code_server_at(channel))


def answers_from(
    interpreter: Interpreter, name: str, path: Path
) -> tuple[dict[str, bytes], str | None]:
    """What the code server answers that a location has in an interpreter of its own.

    The second is why the location is broken, if so. It is started for that, on the socket at
    `path`; this process ends as it does where it ends by itself. Ending it is for the caller.
    """
    if problem := interpreter.problem(has_postgres=has_postgres()):
        return broken_answers(problem), problem
    # Once it is asked only, so that what goes wrong then is an answer.
    server = subprocess.Popen(
        [interpreter.path, "-m", *command(name, path), "--lazy-load-user-code"],
        stdin=subprocess.DEVNULL,
    )
    while not takes_requests(path):
        if (status := server.poll()) is not None:
            end_as(status)
        time.sleep(STEP_SECONDS)
    try:
        answers, problem = answers_at(name, path)
    except grpc.RpcError:
        # It has crashed, or is told to by what hangs in it, once there is no more patience.
        end_as(server.wait())
    if not interpreter.difference:
        return answers, problem
    if problem is None:
        try:
            check_understood(answers)
        except Exception as error:
            # Whatever it is that another release does differently.
            problem = f"{type(error).__name__}: {error}"
        else:
            print(f"warning: {interpreter.difference}, which can talk to it.", flush=True)
            return answers, None
    problem = f"{interpreter.difference}. {interpreter.advice}\n{problem}"
    return broken_answers(problem), problem
