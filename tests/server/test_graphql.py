import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from orchestration import OrchestrationError
from orchestration.server.graphql import Refused, query


@contextmanager
def answering(status: int) -> Iterator[str]:
    """The address of a server that has nothing but this to say."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_error(status)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_server_that_has_met_an_error_can_be_asked_again() -> None:
    with answering(500) as url, pytest.raises(Refused, match="refused: 500 Internal Server Error"):
        query(url, "{ version }")


def test_what_knows_no_graphql_is_no_server_of_dagster() -> None:
    with answering(404) as url, pytest.raises(OrchestrationError, match="There is no") as raised:
        query(url, "{ version }")
    assert not isinstance(raised.value, Refused)
