"""How the processes of a running `up` talk to its supervisor: JSON, a line each way.

Every request is a connection to one Unix socket; the supervisor closes it with the answer, which
holds `error` where the request is refused. One that follows stays open: it gets a list of all
locations, and from then on of those about which something has changed.
"""

import json
import os
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from orchestration import reason_of

SOCKET_VARIABLE = "ORCHESTRATION_CONTROL"
TIMEOUT_SECONDS = 60.0
# For an answer to somebody who does not read it.
ANSWER_SECONDS = 5.0
# Where there are too many open files.
REFUSED_SECONDS = 0.1


@dataclass(frozen=True)
class Run:
    """Start the process of a run of a location. Answer: its `pid`.

    Where another host serves that location: which, as `elsewhere`, by way of `socket`.
    """

    run_id: str
    location: str
    command: list[str]


@dataclass(frozen=True)
class Cancel:
    """End a run's process. Answer: whether there was one, `is_running`."""

    run_id: str


@dataclass(frozen=True)
class IsRunning:
    """Ask after a run's process. Answer: whether there is one, `is_running`."""

    run_id: str


@dataclass(frozen=True)
class Reload:
    """Load a location afresh. The answer comes once that is done."""

    location: str


@dataclass(frozen=True)
class Wake:
    """Start the code server of a location. Answer: the `socket` on which it serves."""

    location: str


@dataclass(frozen=True)
class Sleep:
    """End the code server of a location, which has had nothing to do for a while."""

    location: str


@dataclass(frozen=True)
class Frozen:
    """End the code server of a location, which does not answer any more."""

    location: str


@dataclass(frozen=True)
class Follow:
    """Tell of all locations (`Served`), and then of each about which something has changed."""


Request = Run | Cancel | IsRunning | Reload | Wake | Sleep | Frozen | Follow
REQUESTS: dict[str, type[Request]] = {
    kind.__name__.lower(): kind
    for kind in (Run, Cancel, IsRunning, Reload, Wake, Sleep, Frozen, Follow)
}


@dataclass(frozen=True)
class Served:
    """What those who follow are told of a location."""

    location: str
    socket: str
    """Where Dagster asks for it; empty once it is served no more."""
    answers: str
    """The file of its answers; empty while there are none."""
    id: str
    """Another one for other answers; empty while it loads for the first time."""
    address: str = ""
    """The host and port where other hosts ask for it, if they do."""
    elsewhere: str = ""
    """The host and port where another host serves it, if one does."""
    is_broken: bool = False
    """Whether its answers say that it cannot be loaded."""


def encoded(message: Request) -> bytes:
    """A request as its line."""
    return json.dumps({"do": type(message).__name__.lower(), **asdict(message)}).encode() + b"\n"


def decoded(line: bytes) -> Request:
    """The request in a line. Raises ValueError where it is none."""
    try:
        fields = json.loads(line)
        kind = REQUESTS[fields.pop("do")]
        for name, value in fields.items():
            if not isinstance(value, list if name == "command" else str):
                raise TypeError(name)
        return kind(**fields)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not understood: {line.decode(errors='replace')}") from error


def answer_in(line: bytes) -> dict[str, Any]:
    """The answer in a line. Raises RuntimeError for a refusal, OSError where there is none."""
    if not line:
        raise ConnectionResetError("`up` is gone")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer


def served_in(line: bytes) -> list[Served]:
    """What a line tells one that follows."""
    return [Served(**fields) for fields in json.loads(line)]


def is_served() -> bool:
    """Whether this process was started by `up`."""
    return SOCKET_VARIABLE in os.environ


def request(message: Request) -> dict[str, Any]:
    """Sends a request to `up`, and waits for the answer.

    Raises RuntimeError when it is refused, OSError when `up` is gone.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(os.environ[SOCKET_VARIABLE])
        connection.sendall(encoded(message))
        with connection.makefile("rb") as stream:
            return answer_in(stream.readline())


class Caller:
    """Whoever waits for the answer to a request."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def answer(self, **answer: Any) -> None:
        """Answers, and hangs up."""
        # Whoever asked may have gone.
        with suppress(OSError), self._connection as connection:
            connection.sendall(json.dumps(answer).encode() + b"\n")

    def hang_up(self) -> None:
        """Tells one that follows no more."""
        self._connection.close()

    def tell(self, served: Sequence[Served]) -> bool:
        """Sends a line to one that follows; False where nobody reads it any more."""
        try:
            self._connection.sendall(json.dumps([asdict(s) for s in served]).encode() + b"\n")
        except OSError:
            self._connection.close()
            return False
        return True


class ControlServer:
    """The supervisor's end."""

    def __init__(
        self,
        path: Path,
        selector: selectors.BaseSelector,
        handle: Callable[[Request, Caller], None],
    ) -> None:
        self._selector, self._handle = selector, handle
        self._refused: str | None = None
        self._asking: set[socket.socket] = set()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(256)
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            if self._refused != error.strerror:
                print(f"No request can be answered for now: {error.strerror}.", flush=True)
            self._refused = error.strerror
            # Who asks stays there, and would be looked at again at once.
            time.sleep(REFUSED_SECONDS)
            return
        self._refused = None
        connection.setblocking(False)
        self._asking.add(connection)
        # Whoever takes time to ask, or says nothing, delays nobody.
        take = partial(self._take, connection, bytearray())
        self._selector.register(connection, selectors.EVENT_READ, take)

    def _take(self, connection: socket.socket, line: bytearray) -> None:
        """Takes what there is of a request, and has it handled once that is all."""
        chunk = b""
        with suppress(OSError):
            chunk = connection.recv(65_536)
        line += chunk
        if chunk and not chunk.endswith(b"\n"):
            return
        self._selector.unregister(connection)
        self._asking.remove(connection)
        connection.settimeout(ANSWER_SECONDS)
        caller = Caller(connection)
        try:
            message = decoded(bytes(line))
        except ValueError as error:
            caller.answer(error=str(error))
            return
        try:
            self._handle(message, caller)
        except OSError as error:
            caller.answer(error=f"not at the moment: {reason_of(error)}")

    def close(self) -> None:
        """Takes no more requests."""
        for open_socket in (self._listener, *self._asking):
            self._selector.unregister(open_socket)
            open_socket.close()
        self._asking.clear()
