import os
import resource
import selectors
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestration.processes.control import (
    Caller,
    Cancel,
    ControlServer,
    Request,
    Run,
    answer_in,
    decoded,
    encoded,
)
from tests.harness.processes import wait_until


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


class Asked:
    """What a control server in this process is asked."""

    def __init__(self, path: Path) -> None:
        self.requests: list[Request] = []
        self._selector = selectors.DefaultSelector()
        self._server = ControlServer(path, self._selector, self._handle)

    def _handle(self, request: Request, caller: Caller) -> None:
        self.requests.append(request)
        caller.answer()

    def take(self) -> None:
        """Has it do what there is to do."""
        for key, _ in self._selector.select(timeout=5):
            key.data()

    def take_until(self, *requests: Request) -> None:
        """Has it do what there is to do, until it has been asked this."""

        def are_asked() -> bool:
            self.take()
            return self.requests == [*requests]

        assert wait_until(are_asked)

    def close(self) -> None:
        """Ends it."""
        self._server.close()
        self._selector.close()


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Asked]:
    asked = Asked(tmp_path / "control.sock")
    yield asked
    asked.close()


@contextmanager
def asking(folder: Path, line: bytes) -> Iterator[socket.socket]:
    """Somebody who has said that much."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(folder / "control.sock"))
        connection.sendall(line)
        yield connection


def test_who_asks_when_no_file_can_be_opened_is_answered_later(
    asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = Run("1", "roads", [])
    with asking(tmp_path, encoded(request)):
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        first_free = os.dup(0)
        os.close(first_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (first_free, limits[1]))
        try:
            asked.take()
            asked.take()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert not asked.requests
        assert capsys.readouterr().out.count("No request can be answered for now") == 1
        asked.take_until(request)


def test_who_connects_and_says_nothing_yet_delays_nobody_and_is_answered_once_all_is_said(
    asked: Asked, tmp_path: Path
) -> None:
    slow, quick = Cancel("1"), Cancel("2")
    line = encoded(slow)
    with (
        asking(tmp_path, b""),
        asking(tmp_path, line[:9]) as late,
        asking(tmp_path, encoded(quick)),
    ):
        asked.take_until(quick)
        late.sendall(line[9:])
        asked.take_until(quick, slow)
        assert answer_in(late.makefile("rb").readline()) == {}
