"""The broker, in a process of its own, with a supervisor that says what the test has it say."""

import os
import selectors
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import grpc
import pytest

from orchestration.catalog.names import OPERATIONS
from orchestration.code_servers import broker
from orchestration.code_servers.answers import write_answers
from orchestration.processes.control import (
    SOCKET_VARIABLE,
    Caller,
    ControlServer,
    Follow,
    Frozen,
    Request,
    Served,
    Sleep,
    Wake,
)
from orchestration.processes.dagster_internals import GET_SERVER_ID, PING
from orchestration.runs.run_protocol import full_name, server_id_in
from tests.harness.processes import PATIENCE, wait_until
from tests.harness.up_server import free_port

BROKER = "from pathlib import Path; from {} import run_broker; run_broker(Path({!r}))"
# What only a code server answers.
ASKED = full_name("ExecutionPlanSnapshot")
# Not the connection to whoever was there before.
OPTIONS = [("grpc.use_local_subchannel_pool", 1)]


class Supervisor:
    """Tells the broker of locations, and answers what it asks."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, list[Request]()
        self.answer: Callable[[Caller], None] = lambda caller: caller.answer()
        self._follower: Caller | None = None
        self._selector = selectors.DefaultSelector()
        self._has_ended = Event()
        self._thread = Thread(target=self._work)
        control = folder / "control.sock"
        self._control = ControlServer(control, self._selector, self._handle)
        self._answers = write_answers(folder / "answers.zip", {}, None).path
        self._thread.start()
        self.log = folder / "broker.log"
        with self.log.open("wb") as log:
            self._broker = subprocess.Popen(
                [sys.executable, "-c", BROKER.format(broker.__name__, str(folder))],
                env={**os.environ, SOCKET_VARIABLE: str(control)},
                stdout=log,
            )
        assert wait_until(lambda: self._follower)

    def _work(self) -> None:
        while not self._has_ended.is_set():
            for key, _ in self._selector.select(timeout=0.1):
                key.data()

    def _handle(self, request: Request, caller: Caller) -> None:
        self.asked.append(request)
        if isinstance(request, Follow):
            caller.tell([])
            self._follower = caller
        elif isinstance(request, Wake):
            self.answer(caller)
        else:
            caller.answer()

    def tell(self, *told: tuple[str, str, str]) -> None:
        """Tells of locations: each one's name, id, and address; without an id it is gone."""
        assert self._follower
        self._follower.tell(
            [
                Served(name, str(self.socket(name)) if id else "", str(self._answers), id, address)
                for name, id, address in told
            ]
        )

    def socket(self, name: str) -> Path:
        """Where the broker answers for a location."""
        return self.folder / f"{name}.sock"

    def stop(self) -> None:
        """Ends it, and so the broker."""
        self._has_ended.set()
        self._thread.join()
        assert self._follower
        self._follower.hang_up()
        self._control.close()
        self._broker.wait(10)


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(tmp_path)
    yield supervisor
    supervisor.stop()


def ask(place: str, method: str, seconds: float = PATIENCE) -> bytes:
    """The answer to a request without a message. Raises grpc.RpcError where there is none."""
    with grpc.insecure_channel(place, options=OPTIONS) as channel:
        reply: bytes = channel.unary_unary(method)(b"", timeout=seconds, wait_for_ready=True)
        return reply


def is_served(place: str, server_id: str) -> bool:
    """Whether a location is served there under that id, be it in a moment."""

    def is_it() -> bool:
        try:
            return server_id_in(ask(place, full_name(GET_SERVER_ID), 1.0)) == server_id
        except grpc.RpcError:
            return False

    return wait_until(is_it)


@contextmanager
def code_server(path: Path, *, is_frozen: bool) -> Iterator[Event]:
    """One that answers no request, nor a ping where it `is_frozen`; gives whether it was asked."""
    is_over, is_asked = Event(), Event()

    def answer(_request: bytes, context: grpc.ServicerContext) -> bytes:
        is_asked.set()
        is_over.wait()
        return b""

    class Requests(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            is_answered = details.method == PING and not is_frozen
            return grpc.unary_unary_rpc_method_handler((lambda *_: b"") if is_answered else answer)

    server = grpc.server(ThreadPoolExecutor(4), handlers=[Requests()])
    server.add_insecure_port(f"unix:{path}")
    server.start()
    try:
        yield is_asked
    finally:
        is_over.set()
        server.stop(None).wait()


def test_a_port_goes_from_one_location_to_another(supervisor: Supervisor) -> None:
    first, second = (f"127.0.0.1:{free_port()}" for _ in range(2))
    supervisor.tell(("one", "1", first), ("two", "2", second))
    assert is_served(first, "1") and is_served(second, "2")
    # As a product that is renamed, and one that takes another's place.
    gone = [("one", "", ""), ("two", "", "")]
    supervisor.tell(*gone, ("three", "3", second), ("four", "4", first))
    assert is_served(first, "4") and is_served(second, "3")
    assert is_served(f"unix:{supervisor.socket('four')}", "4")
    assert not supervisor.log.read_text()


def test_a_port_that_is_taken_is_asked_for_again(supervisor: Supervisor) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        supervisor.tell(("one", "1", address))
        said = f"one cannot be served at {address} yet: "
        assert wait_until(lambda: said in supervisor.log.read_text())
    assert is_served(address, "1")
    assert supervisor.log.read_text().count("\n") == 1
    assert is_served(f"unix:{supervisor.socket('one')}", "1")


def test_a_long_refusal_is_told(supervisor: Supervisor) -> None:
    supervisor.answer = lambda caller: caller.answer(error="It is broken: " + "why\n" * 50_000)
    supervisor.tell(("one", "1", ""))
    with pytest.raises(grpc.RpcError) as refused:
        ask(f"unix:{supervisor.socket('one')}", ASKED)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert refused.value.details().startswith("It is broken: why\n")


def test_a_location_goes_to_sleep_that_woke_after_nobody_waited_for_it_any_more(
    supervisor: Supervisor,
) -> None:
    waiting: list[Caller] = []
    supervisor.answer = waiting.append
    supervisor.tell((OPERATIONS, "1", ""))
    place = f"unix:{supervisor.socket(OPERATIONS)}"
    assert is_served(place, "1")
    with grpc.insecure_channel(place, options=OPTIONS) as channel:
        asking = channel.unary_unary(ASKED).future(b"")
        assert wait_until(lambda: waiting)
        asking.cancel()
    waiting.pop().answer(socket="any")
    assert wait_until(lambda: Sleep(OPERATIONS) in supervisor.asked, 30)


@pytest.mark.long
@pytest.mark.parametrize("is_frozen", [False, True])
def test_who_asks_a_code_server_of_before_is_told_and_the_next_one_lives(
    supervisor: Supervisor, is_frozen: bool
) -> None:
    path = supervisor.folder / "code.sock"
    supervisor.answer = lambda caller: caller.answer(socket=str(path))
    supervisor.tell(("one", "1", ""))
    with code_server(path, is_frozen=is_frozen) as is_asked, ThreadPoolExecutor() as pool:
        asking = pool.submit(ask, f"unix:{supervisor.socket('one')}", ASKED, 40.0)
        assert is_asked.wait(PATIENCE)
        # Loaded anew meanwhile.
        supervisor.tell(("one", "2", ""))
        refused = asking.exception()
    assert isinstance(refused, grpc.RpcError)
    assert refused.code() is grpc.StatusCode.UNAVAILABLE
    assert Frozen("one") not in supervisor.asked
