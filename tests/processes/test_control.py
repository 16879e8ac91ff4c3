import os
import resource
import selectors
import socket
from pathlib import Path

import pytest

from orchestration.processes.control import Caller, ControlServer, Request, Run, decoded, encoded


def test_what_is_asked_arrives() -> None:
    request = Run("1", "roads", ["dagster", "api"])
    assert decoded(encoded(request)) == request


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\xff\n",
        b"[]\n",
        b'{"do": "dance"}\n',
        b'{"do": []}\n',
        b'{"do": "cancel"}\n',
        b'{"do": "cancel", "run_id": []}\n',
        b'{"do": "run", "run_id": "1", "location": "a", "command": "ls"}\n',
        b"[" * 100_000,
    ],
)
def test_what_is_no_request_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="not understood"):
        decoded(line)


def test_who_asks_when_no_file_can_be_opened_is_answered_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Request] = []

    def handle(request: Request, caller: Caller) -> None:
        asked.append(request)
        caller.answer()

    def take() -> None:
        for key, _ in selector.select(timeout=5):
            key.data()

    selector = selectors.DefaultSelector()
    server = ControlServer(tmp_path / "control.sock", selector, handle)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(tmp_path / "control.sock"))
        connection.sendall(encoded(Run("1", "roads", [])))
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        first_free = os.dup(0)
        os.close(first_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (first_free, limits[1]))
        try:
            take()
            take()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert not asked
        assert capsys.readouterr().out.count("No request can be answered for now") == 1
        take()
        assert asked == [Run("1", "roads", [])]
    server.close()
    selector.close()
