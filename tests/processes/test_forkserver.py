"""Processes that the system refuses."""

import errno
import os
import selectors
import signal
from pathlib import Path

import pytest

from orchestration.code_servers.code_location import CodeLocation
from orchestration.code_servers.states import LocationState
from orchestration.processes.control import Served
from orchestration.processes.forkserver import Forkserver
from orchestration.server.supervisor import any_location
from tests.harness.processes import wait_until


def refuse(*_: object, **__: object) -> int:
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def test_a_process_that_is_refused_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    forkserver = Forkserver(False, any_location)
    monkeypatch.setattr(os, "fork", refuse)
    before = set(os.listdir("/dev/fd"))
    with pytest.raises(BlockingIOError):
        forkserver.call(lambda: None, env={}, output=1)
    # What earlier processes have left is closed with the next.
    assert set(os.listdir("/dev/fd")) <= before


def test_where_no_file_can_be_opened_signals_still_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_: str) -> list[str]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    forkserver = Forkserver(False, any_location)
    monkeypatch.setattr(os, "listdir", none_left)
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        forkserver.call(lambda: None, env={}, output=1)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_location_that_is_refused_a_process_is_loaded_as_soon_as_there_is_room(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    served: list[Served] = []
    location = CodeLocation(
        "libraries",
        address="",
        path=tmp_path / "1",
        answers=tmp_path / "libraries.zip",
        installation=None,
        forkserver=Forkserver(True, any_location),
        selector=selectors.DefaultSelector(),
        env=os.environ,
        files_state=lambda: None,
        memory_limit=lambda: None,
        interpreter=lambda: None,
        has_definitions=lambda: False,
        publish=served.append,
    )
    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", refuse)
        location.start_loading()
    said = f"[libraries] it cannot be loaded yet: {os.strerror(errno.EAGAIN)}\n"
    assert capsys.readouterr().out == said
    assert not location.is_waiting
    assert wait_until(lambda: location.is_waiting)
    location.start_loading()

    def is_served() -> bool:
        location.watch()
        return bool(served)

    assert wait_until(is_served, 60)
    assert location.state is LocationState.ASLEEP
    assert location.problem is None
