"""How Dagster's processes ask `up` for something: a line of JSON each way over a Unix socket."""

import json
import os
import socket
from typing import Any

SOCKET_VARIABLE = "ORCHESTRATION_CONTROL"
TIMEOUT_SECONDS = 60.0


def is_served() -> bool:
    """Whether this process was started by `up`."""
    return SOCKET_VARIABLE in os.environ


def request(message: dict[str, Any]) -> dict[str, Any]:
    """Sends a request to `up`, and waits for the answer.

    Raises RuntimeError when it is refused, OSError when `up` is gone.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(os.environ[SOCKET_VARIABLE])
        with connection.makefile("rw", encoding="utf-8") as stream:
            stream.write(json.dumps(message) + "\n")
            stream.flush()
            answer: dict[str, Any] = json.loads(stream.readline())
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer
