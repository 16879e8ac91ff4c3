"""Keeps the locations of a webserver or daemon as they are served, from inside that process."""

import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestration.processes.dagster_internals import Workspace

RETRY_SECONDS = 0.5
# A reload in the UI can end with what was served when it began.
CHECK_SECONDS = 5.0
# The longest pause before what could not be loaded is tried again.
MAX_PAUSE_SECONDS = 300.0


def subscribe(path: Path, workspace: "Workspace") -> None:
    """Loads what differs from what the broker serves, as soon as it says so; never returns.

    `path` is the broker's socket for subscribers.
    """
    while True:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(CHECK_SECONDS)
                connection.connect(str(path))
                # What was not loaded may be what has been lost with the broker of before.
                _follow(connection, _Loading(workspace))
        except OSError:
            # The broker has ended, and will be there again.
            time.sleep(RETRY_SECONDS)


def _follow(connection: socket.socket, loading: "_Loading") -> None:
    pending = b""
    served: dict[str, tuple[str, bool]] | None = None
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
            loading.load_changed(served)


class _Loading:
    """Knows what it has loaded, and when to try again what has failed."""

    def __init__(self, workspace: "Workspace") -> None:
        self._workspace = workspace
        self._refreshed: dict[str, str] = {}
        self._retries: dict[str, tuple[float, float]] = {}

    def load_changed(self, served: Mapping[str, tuple[str, bool]]) -> None:
        """Loads what is served otherwise: each has its id, and whether it is served as broken."""
        if self._workspace.ids.keys() != served.keys():
            self._workspace.load_all()
        for name, loaded in self._workspace.ids.items():
            if name not in served:
                continue
            server_id, is_broken = served[name]
            # One that is broken has no id here.
            known = self._refreshed.get(name, "") if loaded is None else loaded
            has_failed = loaded is None and server_id and not is_broken
            if server_id != known or (has_failed and self._is_due(name)):
                self._refreshed[name] = server_id
                self._workspace.load(name, server_id)
            if not has_failed:
                self._retries.pop(name, None)

    def _is_due(self, name: str) -> bool:
        """Whether it is time to try again; each time the pause is twice as long."""
        now = time.monotonic()
        pause, due = self._retries.setdefault(name, (CHECK_SECONDS, now + CHECK_SECONDS))
        if now < due:
            return False
        pause = min(2 * pause, MAX_PAUSE_SECONDS)
        self._retries[name] = pause, now + pause
        return True
