"""Keeps the locations of a webserver or daemon as they are served, from inside that process."""

import json
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestration.processes.dagster_internals import Workspace

RETRY_SECONDS = 0.5
# A reload in the UI can end with what was served when it began.
CHECK_SECONDS = 5.0


def subscribe(path: Path, workspace: "Workspace") -> None:
    """Loads what differs from what the broker serves, as soon as it says so; never returns.

    `path` is the broker's socket for subscribers.
    """
    refreshed: dict[str, str] = {}
    while True:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(CHECK_SECONDS)
                connection.connect(str(path))
                _follow(connection, workspace, refreshed)
        except OSError:
            # The broker has ended, and will be there again.
            time.sleep(RETRY_SECONDS)


def _follow(connection: socket.socket, workspace: "Workspace", refreshed: dict[str, str]) -> None:
    pending = b""
    served: dict[str, str] | None = None
    while True:
        try:
            chunk = connection.recv(1 << 16)
        except TimeoutError:
            pass
        else:
            if not chunk:
                raise ConnectionResetError
            *lines, pending = (pending + chunk).split(b"\n")
            if not lines:
                continue
            served = json.loads(lines[-1])
        if served is not None:
            _load_changed(workspace, served, refreshed)


def _load_changed(
    workspace: "Workspace", served: dict[str, str], refreshed: dict[str, str]
) -> None:
    if workspace.ids.keys() != served.keys():
        workspace.load_all()
    for name, loaded in workspace.ids.items():
        # One that is broken has no id here.
        known = refreshed.get(name, "") if loaded is None else loaded
        if (server_id := served.get(name, known)) != known:
            refreshed[name] = server_id
            workspace.load(name, server_id)
