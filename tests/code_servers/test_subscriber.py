"""What a webserver or daemon has loaded follows what the broker serves."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from orchestration.code_servers import subscriber
from orchestration.processes.dagster_internals import Workspace
from tests.harness.processes import wait_until

# Less than a broker that has just ended is waited for.
CHECK_SECONDS = 0.05


class Loaded(Workspace):
    """Locations of which some cannot be loaded."""

    def __init__(self) -> None:
        self.known: dict[str, str | None] = {"good": None, "broken": None}
        self.refused = {"broken"}
        self.loads: list[str] = []

    @property
    def ids(self) -> dict[str, str | None]:
        return dict(self.known)

    def load(self, name: str, server_id: str) -> None:
        self.loads.append(name)
        self.known[name] = None if name in self.refused else server_id


@pytest.fixture
def workspace() -> Loaded:
    return Loaded()


@pytest.fixture
def broker(
    workspace: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """Where the workspace's subscriber connects."""
    monkeypatch.setattr(subscriber, "CHECK_SECONDS", CHECK_SECONDS)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "subscribers.sock"))
        listener.listen()
        listener.settimeout(10)
        path = tmp_path / "subscribers.sock"
        Thread(target=subscriber.subscribe, args=(path, workspace), daemon=True).start()
        yield listener


def tell(connection: socket.socket, **served: tuple[str, bool]) -> None:
    connection.sendall(json.dumps(served).encode() + b"\n")


def test_what_could_not_be_loaded_is_tried_again_unless_it_is_broken(
    workspace: Loaded, broker: socket.socket
) -> None:
    workspace.refused.add("good")
    with broker.accept()[0] as connection:
        tell(connection, good=("1", False), broken=("2", True))
        assert wait_until(lambda: workspace.loads.count("good") == 3)
        workspace.refused.remove("good")
        assert wait_until(lambda: workspace.known["good"] == "1")
        assert workspace.loads.count("broken") == 1
        # As soon as it is served otherwise.
        workspace.refused.clear()
        tell(connection, good=("1", False), broken=("3", False))
        assert wait_until(lambda: workspace.known["broken"] == "3")
        assert workspace.loads.count("broken") == 2


def test_with_another_broker_all_is_tried_again_that_could_not_be_loaded(
    workspace: Loaded, broker: socket.socket
) -> None:
    with broker.accept()[0] as connection:
        tell(connection, good=("1", False), broken=("2", True))
        assert wait_until(lambda: workspace.loads == ["good", "broken"])
    with broker.accept()[0] as connection:
        tell(connection, good=("1", False), broken=("2", True))
        assert wait_until(lambda: workspace.loads == ["good", "broken", "broken"])
