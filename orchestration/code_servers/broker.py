"""The broker: answers for every location without its code, and wakes it where that is not enough.

One process, which runs no user code. Each location has a socket, on which it looks like a code
server to Dagster. What webserver and daemon ask of all locations is answered from files that
loaders wrote; whatever else is asked goes to a code server that is started for it, and that ends
when there has been nothing to do for a while.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from orchestration.catalog.names import OPERATIONS
from orchestration.code_servers.answers import read_reply
from orchestration.code_servers.grpc_server import UNLIMITED, Unreachable, server_for
from orchestration.code_servers.remote_location import RemoteLocation
from orchestration.processes import control
from orchestration.processes.dagster_internals import (
    EXTERNAL_REPOSITORY,
    GET_SERVER_ID,
    LIST_REPOSITORIES,
    PING,
    RELOAD_CODE,
    reload_answer,
    repository_request,
    server_id_answer,
)
from orchestration.runs.run_protocol import (
    CANCEL_EXECUTION,
    RUN_METHODS,
    START_RUN,
    run_answer,
    run_asked_about,
    start_run_answer,
    started_run,
)

SUBSCRIBERS = "subscribers.sock"
# A location that has had nothing to do for so long goes to sleep. A sensor looks every 30 s.
IDLE_SECONDS = 60.0
# Its sensors look together, and seldom: all the while it would take a twentieth of all memory.
OPERATIONS_IDLE_SECONDS = 1.0
# Until one that is in use is looked at again.
LOOK_SECONDS = 1.0
# One that has not answered a request for so long, nor a ping after that, is frozen.
PATIENCE_SECONDS = 10.0
PING_SECONDS = 5.0
# A stock server has not many threads, and one that is busy with all of them is not frozen.
BUSY_REQUESTS = 4
CONNECT_SECONDS = 10.0
RETRY_SECONDS = 0.05
# Until a port that is taken is asked for again.
PORT_SECONDS = 1.0
# What was asked before a reload may still be answered.
CLOSING_SECONDS = 20.0
# What changes at the same time is told together.
GATHER_SECONDS = 0.01
# The supervisor tells of all locations in one line, and of one that is broken all that it said.
MAX_LINE_BYTES = 1 << 26


class Location:
    """A location as the broker knows it: what it answers, and a connection to its code server."""

    def __init__(self, name: str, socket: str, address: str) -> None:
        self.name, self.socket, self._address = name, socket, address
        self.id, self.is_broken = "", False
        self._answers: Path | None = None
        self._are_known = asyncio.Event()
        self._channel: grpc.aio.Channel | None = None
        self._waking = asyncio.Lock()
        self._idling: asyncio.Task[None] | None = None
        self._active = 0
        self._used = 0.0
        self._server = server_for(self, socket)

    async def start(self) -> None:
        """Takes requests from now on. Raises RuntimeError where its port cannot be had."""
        if self._address:
            self._server.add_insecure_port(self._address)
        await self._server.start()

    async def stop(self) -> None:
        """Takes none any more."""
        if self._idling:
            self._idling.cancel()
        self._disconnect()
        await self._server.stop(grace=1.0)

    def take(self, served: control.Served) -> None:
        """Answers as is told there from now on; the code server of before is not asked any more."""
        self.id, self.is_broken = served.id, served.is_broken
        if served.answers:
            self._answers = Path(served.answers)
            self._are_known.set()
        self._disconnect()

    async def answer(self, method: str, request: bytes, timeout: float | None) -> bytes:
        """The answer to a request that has only one. Raises Unreachable, AioRpcError, OSError."""
        name = method.rpartition("/")[2]
        if name == GET_SERVER_ID:
            return server_id_answer(self.id)
        if name == RELOAD_CODE:
            await _ask(control.Reload(self.name))
            return reload_answer()
        if name in RUN_METHODS:
            return await self._answer_about_run(name, request)
        await self._are_known.wait()
        if (reply := self._known(name, request)) is not None:
            return reply
        try:
            return await self._forward(method, request, timeout)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            # The code server had ended by then, which was not known here yet.
            self._disconnect()
            return await self._forward(method, request, timeout)

    async def _forward(self, method: str, request: bytes, timeout: float | None) -> bytes:
        async with self._code_server() as channel:
            call = channel.unary_unary(method)(request, timeout=timeout)
            return bytes(await self._unless_frozen(call, channel))
        raise AssertionError("never left")

    async def stream(
        self, method: str, request: bytes, timeout: float | None
    ) -> AsyncIterator[bytes]:
        """The answers to a request that has several. Raises Unreachable, AioRpcError."""
        await self._are_known.wait()
        async with self._code_server() as channel:
            call = channel.unary_stream(method)(request, timeout=timeout)
            while (part := await self._unless_frozen(call.read(), channel)) is not grpc.aio.EOF:
                yield part

    async def _answer_about_run(self, name: str, request: bytes) -> bytes:
        """Has the supervisor start or end a run's process, or look for it."""
        if name == START_RUN:
            await self._are_known.wait()
            assert self._answers
            listed = read_reply(self._answers, lambda known: known == LIST_REPOSITORIES)
            try:
                run_id, command = started_run(request, listed or b"")
                await _ask(control.Run(run_id, self.name, command))
            except (ValueError, Unreachable) as error:
                return start_run_answer(f"{self.name}: {error}")
            return start_run_answer(None)
        is_cancelled = name == CANCEL_EXECUTION
        kind = control.Cancel if is_cancelled else control.IsRunning
        answer = await _ask(kind(run_asked_about(name, request)))
        return run_answer(name, answer["is_running"])

    def _known(self, name: str, request: bytes) -> bytes | None:
        def is_it(known: str) -> bool:
            method, _, repository = known.partition("/")
            if method != name or name != EXTERNAL_REPOSITORY:
                return method == name
            places = filter(None, (f"unix:{self.socket}", self._address))
            return any(request == repository_request(self.name, p, repository) for p in places)

        assert self._answers
        return read_reply(self._answers, is_it)

    @asynccontextmanager
    async def _code_server(self) -> AsyncIterator[grpc.aio.Channel]:
        self._active += 1
        try:
            async with self._waking:
                channel = self._channel
                if not channel or channel.get_state() is not grpc.ChannelConnectivity.READY:
                    self._disconnect()
                    channel = self._channel = await self._connect()
            yield channel
        finally:
            self._active -= 1
            self._used = time.monotonic()

    async def _connect(self) -> grpc.aio.Channel:
        spent = 0.0
        while spent < CONNECT_SECONDS:
            # It starts also where whoever asks does not wait for it any more.
            self._idling = self._idling or _in_background(self._go_to_sleep())
            # That takes what it takes to start it, or to find out that it cannot be.
            socket = (await _ask(control.Wake(self.name)))["socket"]
            begun = time.monotonic()
            channel = grpc.aio.insecure_channel(f"unix:{socket}", options=UNLIMITED)
            if await _is_connected(channel, CONNECT_SECONDS - spent):
                return channel
            # One that has just ended may not be known as such yet.
            await channel.close()
            await asyncio.sleep(RETRY_SECONDS)
            spent += time.monotonic() - begun
        raise Unreachable(f"The code server of {self.name} does not answer.")

    async def _unless_frozen(self, call: Awaitable[Any], channel: grpc.aio.Channel) -> Any:
        task = asyncio.ensure_future(call)
        try:
            while not (await asyncio.wait({task}, timeout=PATIENCE_SECONDS))[0]:
                if self._active <= BUSY_REQUESTS and not await _answers(channel):
                    # One of before is being ended already.
                    if channel is self._channel:
                        self._disconnect()
                        await _ask(control.Frozen(self.name))
                    raise Unreachable(f"The code server of {self.name} was frozen, and was ended.")
            return task.result()
        except (asyncio.CancelledError, grpc.aio.UsageError):
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise
            # The channel was closed meanwhile, while it was asked or just before.
            raise Unreachable(f"The code server of {self.name} has not answered in time.") from None
        finally:
            task.cancel()

    async def _go_to_sleep(self) -> None:
        """Has its code server end when there has been nothing to do for a while."""
        patience = OPERATIONS_IDLE_SECONDS if self.name == OPERATIONS else IDLE_SECONDS
        self._used = time.monotonic()
        while self._active or time.monotonic() - self._used < patience:
            await asyncio.sleep(max(self._used + patience - time.monotonic(), LOOK_SECONDS))
        self._idling = None
        self._disconnect()
        with suppress(Unreachable):
            await _ask(control.Sleep(self.name))

    def _disconnect(self) -> None:
        channel, self._channel = self._channel, None
        if channel:
            _in_background(_close_later(channel))


class Broker:
    """All locations, and those who want to know what is served."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._locations: dict[str, Location | RemoteLocation] = {}
        self._subscribers: set[asyncio.StreamWriter] = set()
        self._stopping: set[asyncio.Task[None]] = set()
        self._is_telling = False

    async def run(self) -> None:
        """Serves what the supervisor tells of, and ends this process when that hangs up."""
        reader, writer = await _connection()
        writer.write(control.encoded(control.Follow()))
        is_first = True
        while line := await reader.readline():
            for served in control.served_in(line):
                await self._serve(served)
            if is_first:
                # From now on all are known.
                await asyncio.start_unix_server(self._subscribe, self._folder / SUBSCRIBERS)
                is_first = False
            self._tell()
        # There is nothing to be kept, and a loop that is closed complains of all that goes on.
        os._exit(0)

    async def _serve(self, served: control.Served) -> None:
        location = self._locations.get(served.location)
        if location and location.socket != served.socket:
            stopping = _in_background(self._locations.pop(served.location).stop())
            self._stopping.add(stopping)
            stopping.add_done_callback(self._stopping.discard)
            location = None
        if not served.socket:
            return
        if location:
            location.take(served)
            return
        name, socket = served.location, served.socket
        if served.elsewhere:
            location = RemoteLocation(name, socket, served.elsewhere, self._tell)
        else:
            location = Location(name, socket, served.address)
            location.take(served)
        self._locations[name] = location
        if served.address:
            _in_background(self._start_at(served.address, location))
        else:
            await location.start()

    async def _start_at(self, address: str, location: Location | RemoteLocation) -> None:
        """Starts it once it has its port, which one that is stopping may still have."""
        if self._stopping:
            await asyncio.wait(self._stopping)
        host, _, port = address.rpartition(":")
        is_told = False
        while self._locations.get(location.name) is location:
            try:
                # Tried without gRPC first, which writes a line whenever it is refused.
                probe = await asyncio.start_server(
                    lambda *_: None, host.strip("[]"), int(port), start_serving=False
                )
                probe.close()
                await location.start()
                return
            except (OSError, RuntimeError) as error:
                if not is_told:
                    what = f"{location.name} cannot be served at {address} yet: {error}"
                    print(f"{what}. It is tried again every second.", flush=True)
                    is_told = True
            await asyncio.sleep(PORT_SECONDS)

    async def _subscribe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._subscribers.add(writer)
        writer.write(self._served())
        with suppress(OSError):
            await reader.read()
        self._subscribers.discard(writer)
        writer.close()

    def _served(self) -> bytes:
        served = {each.name: (each.id, each.is_broken) for each in self._locations.values()}
        return json.dumps(served).encode() + b"\n"

    def _tell(self) -> None:
        def tell() -> None:
            self._is_telling = False
            line = self._served()
            for writer in self._subscribers:
                writer.write(line)

        if not self._is_telling:
            self._is_telling = True
            asyncio.get_running_loop().call_later(GATHER_SECONDS, tell)


async def _connection() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """One to the supervisor."""
    return await asyncio.open_unix_connection(
        os.environ[control.SOCKET_VARIABLE], limit=MAX_LINE_BYTES
    )


async def _ask(message: control.Request) -> dict[str, Any]:
    """What the supervisor answers. Raises Unreachable where it refuses."""
    try:
        reader, writer = await _connection()
        try:
            writer.write(control.encoded(message))
            return control.answer_in(await reader.readline())
        finally:
            writer.close()
    except (RuntimeError, OSError) as error:
        raise Unreachable(str(error)) from error


async def _is_connected(channel: grpc.aio.Channel, seconds: float) -> bool:
    """Whether somebody answers at the other end; waits for it until it is clear that nobody is."""
    state = channel.get_state(try_to_connect=True)
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while state in (grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING):
                await channel.wait_for_state_change(state)
                state = channel.get_state(try_to_connect=True)
    return state is grpc.ChannelConnectivity.READY


async def _answers(channel: grpc.aio.Channel) -> bool:
    """Whether the code server answers anything at all."""
    try:
        await channel.unary_unary(PING)(b"", timeout=PING_SECONDS)
    except grpc.aio.AioRpcError as error:
        return error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
    return True


async def _close_later(channel: grpc.aio.Channel) -> None:
    # Its own grace does not know of a request that somebody else waits for.
    await asyncio.sleep(CLOSING_SECONDS)
    await channel.close()


_background: set[asyncio.Task[Any]] = set()


def _in_background(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    # The event loop itself does not hold on to its tasks.
    task = asyncio.ensure_future(work)
    _background.add(task)
    task.add_done_callback(_background.discard)
    return task


def run_broker(folder: Path) -> None:
    """Runs the broker in this process, its sockets in the folder."""
    # It ends when the supervisor hangs up, which comes to that last.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    asyncio.run(Broker(folder).run())
