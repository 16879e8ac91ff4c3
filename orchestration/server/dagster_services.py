"""Dagster's webserver and daemon, of which there is one each for all locations."""

import json
import selectors
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from orchestration.catalog.names import url_of
from orchestration.generator.render import WORKSPACE
from orchestration.lifecycle.child import ending
from orchestration.processes.forkserver import Forkserver
from orchestration.processes.service import Service

# One that ends is started again, but not more often than this.
RESTART_SECONDS = 10.0
# How long it takes at most until one that is warm knows that it may start.
STEP_SECONDS = 0.01
WEBSERVER, DAEMON = "webserver", "daemon"


class DagsterServices:
    """Webserver and daemon, with the workspace file that both read."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        path_prefix: str,
        folder: Path,
        forkserver: Forkserver,
        selector: selectors.BaseSelector,
        env: Mapping[str, str],
        prepare: Callable[[], None],
    ) -> None:
        """`prepare` is called in a fork that becomes one of them."""
        self.url = url_of(host, port, path_prefix)
        self._host, self._port, self._path_prefix = host, port, path_prefix
        self._workspace, self._may_start = folder / WORKSPACE, folder / "may-start"
        self._forkserver, self._selector, self._env = forkserver, selector, env
        self._prepare = prepare
        self._entries: Sequence[Mapping[str, object]] | None = None
        self._running: dict[str, Service] = {}
        self._ended: set[str] = set()
        self._is_restarting = False
        self._are_up = False
        self._webservers = 0

    @property
    def description(self) -> str:
        """What is announced, before the number of code locations."""
        return f"Dagster is at {self.url} with"

    @property
    def services(self) -> list[Service]:
        """Their processes."""
        return list(self._running.values())

    @property
    def are_started(self) -> bool:
        """Whether they were to start."""
        return self._may_start.exists()

    @property
    def are_up(self) -> bool:
        """Whether the webserver listens, or has done so."""
        if not self._are_up and WEBSERVER in self._running:
            self._are_up = self._is_answered()
        return self._are_up

    def _is_answered(self) -> bool:
        with suppress(OSError), socket.create_connection((self._host, self._port)):
            return True
        return False

    def warm_up(self) -> None:
        """Has the webserver import what it needs, where it can wait then until `start`."""
        if self._forkserver.warm:
            self._start(WEBSERVER)

    def start(self) -> None:
        """Starts the webserver on the workspace that was written; the daemon follows."""
        if WEBSERVER not in self._running:
            self._start(WEBSERVER)
        self._may_start.touch()

    def _start(self, name: str) -> None:
        if name == WEBSERVER:
            own = ["dagster-webserver", "--host", self._host, "--port", str(self._port)]
            own += ["--path-prefix", self._path_prefix]
        else:
            own = ["dagster-daemon", "run"]
        levels = [f"--{whose}log-level=warning" for whose in ("", "code-server-")]
        command = [*own, *levels, "--workspace", str(self._workspace)]
        self._running[name] = Service(
            name,
            lambda output: self._forkserver.start(
                command, env=self._env, output=output, prepare=lambda: self._prepare_for(name)
            ),
            self._env,
            self._selector,
        )
        self._ended.discard(name)
        self._webservers += name == WEBSERVER

    def _prepare_for(self, name: str) -> None:
        self._prepare()
        if name == WEBSERVER:
            # There are no forks where Dagster has moved names.
            from orchestration.processes.dagster_internals import prepare_webserver

            prepare_webserver()
        while not self._may_start.exists():
            time.sleep(STEP_SECONDS)

    def watch(self, *, are_answered: Callable[[], bool]) -> bool:
        """Starts again what has ended; False where it ended before it was up for the first time.

        The daemon asks for all locations as soon as it is started, and would only delay those for
        which nothing is answered yet: it waits until `are_answered`.
        """
        if self._entries is not None and not self._workspace.exists():
            # What lies among temporary files for weeks is tidied away.
            self.write_workspace(self._entries)
        if DAEMON not in self._running and self.are_up and are_answered():
            self._try_to_start(DAEMON)
        for name, service in list(self._running.items()):
            if (status := service.process.poll()) is None:
                continue
            is_wanted = name == DAEMON and self._is_restarting
            if name not in self._ended and not is_wanted:
                service.drain()
                print(f"The {name} {ending(status)}.", flush=True)
            self._ended.add(name)
            if not self.are_up:
                return False
            if name == WEBSERVER and self._webservers == 1 and self._is_answered():
                what = f"Somebody else has taken {self.url} meanwhile"
                print(f"{what}. Choose another --port.", flush=True)
                return False
            if is_wanted or service.age > RESTART_SECONDS:
                self._is_restarting = False
                self._try_to_start(name)
        return True

    def _try_to_start(self, name: str) -> None:
        try:
            self._start(name)
        except OSError as error:
            if name in self._running:
                self._running[name].started = time.monotonic()
            print(f"No process for the {name}: {error.strerror}.", flush=True)

    def write_workspace(self, entries: Sequence[Mapping[str, object]]) -> None:
        """Writes down which locations there are, for both to read."""
        new = self._workspace.with_suffix(".new")
        if not new.parent.is_dir():
            new.parent.mkdir(mode=0o700)
        # JSON is YAML, too, and quicker to write.
        new.write_text(json.dumps({"load_from": list(entries)}))
        new.replace(self._workspace)
        self._entries = entries

    def restart_daemon(self) -> None:
        """Has the daemon read the workspace again."""
        if DAEMON in self._running:
            self._is_restarting = True
            self._running[DAEMON].process.terminate()


class CodeHost:
    """Stands in for them on a host that serves its locations to those of another."""

    services: tuple[Service, ...] = ()

    def __init__(self, host_name: str) -> None:
        self.description = f"{host_name} serves"
        self.are_started = self.are_up = False

    def warm_up(self) -> None:
        """Nothing: there is no webserver."""

    def start(self) -> None:
        """Has it announced that there is something to be asked."""
        self.are_started = self.are_up = True

    def watch(self, *, are_answered: Callable[[], bool]) -> bool:
        """True: there is nothing that could end."""
        return True

    def write_workspace(self, entries: Sequence[Mapping[str, object]]) -> None:
        """Nothing: the webserver's host has its own."""
