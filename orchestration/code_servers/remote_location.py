"""A location that another host serves, as the broker knows it.

It is asked every second whether it is there, and still the same. What it answers to everybody is
kept: a host that is off, refuses or says nothing delays nobody, and its locations show why.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from uuid import uuid4

import grpc
import grpc.aio

from orchestration.code_servers.grpc_server import UNLIMITED, Unreachable, server_for
from orchestration.processes.control import Served
from orchestration.processes.dagster_internals import (
    EXTERNAL_REPOSITORY,
    GET_CURRENT_IMAGE,
    GET_SERVER_ID,
    LIST_REPOSITORIES,
    RELOAD_CODE,
    broken_answers,
    repository_request,
    server_id_answer,
)
from orchestration.runs.run_protocol import (
    full_name,
    other_release,
    repositories_in,
    server_id_in,
)

LOOK_SECONDS = 1.0
ANSWER_SECONDS = 2.0
# For all that it has to tell of itself.
LOAD_SECONDS = 15.0
# What was asked over a connection may still be answered, where the host is only busy.
CLOSING_SECONDS = 30.0
# A host that starts again is away for so long, and a page that is lost for a moment helps nobody.
PATIENCE_SECONDS = 4.0
STILL_LOADING = "It is still loading."
SILENCE = (
    "Deadline",
    "No route",
    "unreachable",
    "timed out",
    "timeout",
    "shutdown",
    "reset",
    "closed",
)
# A connection that another channel has lost is not used, nor a proxy, which no private host is
# behind; and a host that is back is found soon.
OPTIONS = [
    *UNLIMITED,
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 2000),
]


class RemoteLocation:
    """A location at an address, `host:port`; `on_change` is called when it answers otherwise."""

    def __init__(self, name: str, socket: str, address: str, on_change: Callable[[], None]) -> None:
        self.name, self.socket, self.address = name, socket, address
        self.id, self.is_broken = "", False
        self._on_change = on_change
        self._remote_id = ""
        self._answers: dict[str, bytes] = {}
        self._are_known = asyncio.Event()
        self._problem: str | None = None
        self._answered = time.monotonic()
        self._is_lost = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()
        self._channel = self._new_channel()
        self._server = server_for(self, socket)
        self._following: asyncio.Task[None] | None = None

    def _new_channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(self.address, options=OPTIONS)

    async def start(self) -> None:
        """Takes requests from now on."""
        await self._server.start()
        self._following = asyncio.ensure_future(self._follow())

    async def stop(self) -> None:
        """Takes none any more."""
        if self._following:
            self._following.cancel()
        await self._channel.close()
        await self._server.stop(grace=1.0)

    def take(self, _served: Served) -> None:
        """Nothing: the other host says what is answered."""

    # What it is asked

    async def answer(self, method: str, request: bytes, timeout: float | None) -> bytes:
        """The answer to a request that has only one. Raises Unreachable, AioRpcError."""
        name = method.rpartition("/")[2]
        if name == GET_SERVER_ID:
            return server_id_answer(self.id)
        await self._are_known.wait()
        if name in (LIST_REPOSITORIES, GET_CURRENT_IMAGE) and name in self._answers:
            return self._answers[name]
        if name == EXTERNAL_REPOSITORY:
            for known, reply in self._answers.items():
                repository = known.partition("/")[2]
                if repository and request == self._request(f"unix:{self.socket}", repository):
                    return reply
        if self._problem and name != RELOAD_CODE:
            raise Unreachable(self._problem)
        try:
            return await self._ask(method, request, timeout)
        finally:
            if name == RELOAD_CODE:
                await self._look()

    async def stream(
        self, method: str, request: bytes, timeout: float | None
    ) -> AsyncIterator[bytes]:
        """The answers to a request that has several. Raises Unreachable, AioRpcError."""
        await self._are_known.wait()
        if self._problem:
            raise Unreachable(self._problem)
        call = self._channel.unary_stream(method)(request, timeout=timeout)
        while (part := await call.read()) is not grpc.aio.EOF:
            yield part

    async def _ask(self, method: str, request: bytes, timeout: float | None) -> bytes:
        call = self._channel.unary_unary(method)(request, timeout=timeout)
        try:
            return bytes(await call)
        except asyncio.CancelledError:
            if not call.cancelled() or asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise
            # The channel was given up meanwhile.
            raise Unreachable(f"{self.address} does not answer any more.") from None

    def _request(self, place: str, repository: str) -> bytes:
        return repository_request(self.name, place, repository)

    # What becomes of it

    async def _follow(self) -> None:
        while True:
            await self._look()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        try:
            reply = await self._ask(full_name(GET_SERVER_ID), b"", ANSWER_SECONDS)
            server_id = server_id_in(reply)
            if not server_id:
                self._lose(STILL_LOADING)
            elif server_id != self._remote_id:
                await self._fetch(server_id)
            self._answered = time.monotonic()
        except (grpc.aio.AioRpcError, Unreachable) as error:
            self._miss(_reason(error))
        except Exception as error:
            # Whatever another release of Dagster, or another program, answers.
            what = f"{type(error).__name__}: {error}"
            self._lose(f"{self.address} gives answers that cannot be understood here: {what}")

    async def _fetch(self, server_id: str) -> None:
        """Asks for all that is answered from memory from now on."""
        listed = await self._ask(full_name(LIST_REPOSITORIES), b"", LOAD_SECONDS)
        if problem := other_release(listed):
            self._remote_id = server_id
            self._show(f"{self.address} {problem}", broken_answers(f"{self.address} {problem}"))
            return
        image = await self._ask(full_name(GET_CURRENT_IMAGE), b"", LOAD_SECONDS)
        answers = {LIST_REPOSITORIES: listed, GET_CURRENT_IMAGE: image}
        for repository in repositories_in(listed):
            answers[f"{EXTERNAL_REPOSITORY}/{repository}"] = await self._ask(
                full_name(EXTERNAL_REPOSITORY),
                self._request(self.address, repository),
                LOAD_SECONDS,
            )
        if self._problem and self._problem != STILL_LOADING:
            print(f"{self.name} is back on {self.address}.", flush=True)
        self._remote_id = server_id
        self._show(None, answers)

    def _miss(self, reason: str) -> None:
        # Whatever it was that this connection has lost, a new one may find it.
        closing = asyncio.ensure_future(self._close(self._channel))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        self._channel = self._new_channel()
        is_away = time.monotonic() - self._answered > PATIENCE_SECONDS
        if is_away or not self._are_known.is_set():
            self._lose(
                f"{self.address}, where it is served, {reason}. It is asked again every second."
            )

    async def _close(self, channel: grpc.aio.Channel) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._is_lost.wait(), CLOSING_SECONDS)
        await channel.close()

    def _lose(self, problem: str) -> None:
        self._remote_id = ""
        self._is_lost.set()
        if problem != self._problem:
            print(f"{self.name}: {problem}", flush=True)
            self._show(problem, broken_answers(problem))

    def _show(self, problem: str | None, answers: dict[str, bytes]) -> None:
        self._problem, self._answers = problem, answers
        self.is_broken = not any(name.startswith(f"{EXTERNAL_REPOSITORY}/") for name in answers)
        if not problem:
            self._is_lost.clear()
        # One of its own: another host can be back with what it had before.
        self.id = uuid4().hex
        self._are_known.set()
        self._on_change()


def _reason(error: Exception) -> str:
    details = error.details() or "" if isinstance(error, grpc.aio.AioRpcError) else ""
    # gRPC has several words for a host that says nothing, and which of them is a matter of chance.
    told = details.rpartition(": ")[2]
    if not told or any(word in told for word in SILENCE):
        return "does not answer"
    return f"cannot be reached: {told}"
