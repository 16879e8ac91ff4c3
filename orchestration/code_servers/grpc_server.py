"""A gRPC server for a location: takes whatever a code server can be asked, as bytes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import grpc
import grpc.aio

from orchestration.processes.dagster_internals import streamed_methods

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

# There is more of why a location is broken than gRPC takes, which has room for 8 KB, encoded.
MAX_DETAILS = 1000


class Unreachable(Exception):
    """Why a location cannot be asked."""


class Answering(Protocol):
    """Whoever answers for a location; both raise Unreachable, AioRpcError or OSError."""

    async def answer(self, method: str, request: bytes, timeout: float | None) -> bytes:
        """The answer to a request that has only one."""

    def stream(self, method: str, request: bytes, timeout: float | None) -> AsyncIterator[bytes]:
        """The answers to a request that has several."""


def server_for(location: Answering, socket: str) -> grpc.aio.Server:
    """A server that has the location answer what is asked on the socket."""
    server = grpc.aio.server(options=[*UNLIMITED, ("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((_Requests(location),))
    server.add_insecure_port(f"unix:{socket}")
    return server


class _Requests(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Takes every request to a location as bytes, whatever it is called."""

    def __init__(self, location: Answering) -> None:
        self._location = location
        self._streamed = streamed_methods()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        method = details.method

        async def answer(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            async with _failures_told(context):
                return await self._location.answer(method, request, context.time_remaining())
            raise AssertionError("told")

        async def stream(
            request: bytes, context: grpc.aio.ServicerContext[Any, Any]
        ) -> AsyncIterator[bytes]:
            async with _failures_told(context):
                async for part in self._location.stream(method, request, context.time_remaining()):
                    yield part

        if method.rpartition("/")[2] in self._streamed:
            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(answer)


@asynccontextmanager
async def _failures_told(context: "grpc.aio.ServicerContext[Any, Any]") -> AsyncIterator[None]:
    try:
        yield
    except (Unreachable, OSError) as error:
        await context.abort(grpc.StatusCode.UNAVAILABLE, str(error)[:MAX_DETAILS])
    except grpc.aio.AioRpcError as error:
        await context.abort(error.code(), (error.details() or "")[:MAX_DETAILS])
