"""Dagster's webserver and daemon, of which there is one each for all locations.

They get a workspace file of sockets, so that they share the locations' code servers.
"""

import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import yaml

from orchestration import OrchestrationError
from orchestration.generator.render import WORKSPACE
from orchestration.server.code_server import CodeServer, ending
from orchestration.server.forkserver import Forkserver
from orchestration.server.graphql import query
from orchestration.server.service import Service

# One that ends is started again, but not more often than this.
RESTART_SECONDS = 10.0
WEBSERVER, DAEMON = "webserver", "daemon"


class DagsterServices:
    """Webserver and daemon."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        path_prefix: str,
        folder: Path,
        forkserver: Forkserver,
        env: Mapping[str, str],
    ) -> None:
        self.url = f"http://{host}:{port}{path_prefix}"
        self.published: list[str] = []
        """The locations that they know of."""
        self._daemon_knows: list[str] = []
        self._host, self._port, self._path_prefix = host, port, path_prefix
        self._workspace = folder / WORKSPACE
        self._forkserver, self._env = forkserver, env
        self._running: dict[str, Service] = {}
        self._were_up = False

    @property
    def services(self) -> list[Service]:
        """Their processes."""
        return list(self._running.values())

    @property
    def are_started(self) -> bool:
        """Whether they have been started."""
        return bool(self._running)

    @property
    def are_up(self) -> bool:
        """Whether the webserver listens, or has done so."""
        if not self._were_up:
            with socket.socket() as probe:
                self._were_up = probe.connect_ex((self._host, self._port)) == 0
        return self._were_up

    def start(self) -> None:
        """Starts them on the locations that were written down."""
        self._start(WEBSERVER)
        self._start(DAEMON)

    def _start(self, name: str) -> None:
        if name == WEBSERVER:
            own = ["dagster-webserver", "--host", self._host, "--port", str(self._port)]
            own += ["--path-prefix", self._path_prefix]
        else:
            own = ["dagster-daemon", "run"]
        command = [*own, "--log-level", "warning", "--workspace", str(self._workspace)]
        self._running[name] = Service(name, self._forkserver, command, env=self._env)
        if name == DAEMON:
            self._daemon_knows = self.published

    def keep(self) -> bool:
        """Starts again what has ended; False where it ended before it was up for the first time."""
        for name, service in list(self._running.items()):
            if (status := service.process.poll()) is None:
                continue
            if not service.has_ended:
                service.has_ended = True
                service.show_output()
                print(f"The {name} {ending(status)}.", flush=True)
            if not self._were_up:
                return False
            if service.age > RESTART_SECONDS:
                try:
                    self._start(name)
                except OSError as error:
                    service.started = time.monotonic()
                    print(f"No process for the {name}: {error.strerror}.", flush=True)
        return True

    def write_workspace(self, servers: Mapping[str, CodeServer]) -> None:
        """Writes down which locations there are, for both to read when they are told to."""
        entries = [
            {"grpc_server": {"location_name": name, "socket": str(server.socket)}}
            for name, server in servers.items()
        ]
        new = self._workspace.with_suffix(".new")
        new.write_text(yaml.safe_dump({"load_from": entries}))
        new.replace(self._workspace)
        self.published = list(servers)

    def reload_workspace(self) -> None:
        """Has the webserver read the workspace file again; ends this process where it does not."""
        try:
            query(self.url, "mutation { reloadWorkspace { __typename } }")
        except OrchestrationError as error:
            sys.exit(f"The webserver has not taken over the locations: {error.__cause__ or error}")

    @property
    def daemon_is_behind(self) -> bool:
        """Whether the daemon was started on other locations than those that were written down."""
        return self._daemon_knows != self.published

    def end_daemon(self) -> None:
        """Tells the daemon to end."""
        self._running[DAEMON].process.terminate()

    @property
    def daemon_has_ended(self) -> bool:
        """Whether it has."""
        return self._running[DAEMON].process.poll() is not None

    def start_daemon(self) -> None:
        """Starts it again."""
        self._start(DAEMON)
