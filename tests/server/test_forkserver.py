"""Processes that the system refuses."""

import errno
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from orchestration.server.code_server import CodeServer
from orchestration.server.forkserver import Forkserver
from orchestration.server.supervisor import any_location
from tests.harness.processes import wait_until


def refuse(*_: object, **__: object) -> int:
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def test_a_process_that_is_refused_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    forkserver = Forkserver(False, any_location)
    monkeypatch.setattr(os, "fork", refuse)
    before = os.listdir("/dev/fd")
    with pytest.raises(BlockingIOError):
        forkserver.call(lambda: None, env={}, output=1)
    assert os.listdir("/dev/fd") == before


def test_a_location_whose_server_is_refused_is_served_as_soon_as_there_is_room(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Short, since the name of a Unix socket is.
    with tempfile.TemporaryDirectory(prefix="refused-") as folder:
        forkserver = Forkserver(False, any_location)
        server = CodeServer("libraries", Path(folder), forkserver, os.environ)

        def is_settled() -> bool:
            server.attend()
            return server.is_settled

        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "Popen", refuse)
            server.load()
        said = f"[libraries] its server cannot be started: {os.strerror(errno.EAGAIN)}\n"
        assert capsys.readouterr().out == said
        assert not is_settled()
        assert wait_until(is_settled, 60)
        assert server.problem is None

        def has_ended() -> bool:
            server.attend()
            return not server.services

        server.end()
        assert wait_until(has_ended, 60)
