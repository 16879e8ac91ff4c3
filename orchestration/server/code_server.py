"""A location's code server: started, watched, replaced when it reloads, and ended.

Dagster knows a location by one socket. A new server loads the location beside the one that serves,
on a socket of its own, and takes over that name once it has loaded: a rename, which no client can
come between. A location whose server hangs, exits or crashes gets a stand-in that gives the reason.

The other way to have Dagster use forked servers is a small client as the workspace's
`executable_path`, which asks for the fork and stands in for it. Then webserver and daemon each
start servers of their own, one after the other, and one that hangs keeps the others waiting. With
20 locations on two cores that took 8.5 s and 1.97 GB, where this takes 4.6 s and 0.84 GB (medians
of three, side by side).
"""

import itertools
import os
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from orchestration.catalog.checkout import PROJECT_ROOT
from orchestration.server import broken_location, control
from orchestration.server.forkserver import Forkserver
from orchestration.server.service import Service

LOCATIONS_PACKAGE = "orchestration.locations"
LOAD_SECONDS = 25.0
# A stock server is two fresh interpreters, and all locations' start at the same time.
COLD_LOAD_SECONDS = 300.0
EXCEPTION_STATUS = 1
MAX_RESTART_DELAY = 30.0
# After the system has refused a process, or a stand-in has failed.
RETRY_SECONDS = 2.0
# What a server that was replaced has for finishing what it was asked.
RETIREMENT_SECONDS = 20.0
# It is handed over in an environment variable.
MAX_EXCUSE = 30_000


class CodeServer:
    """One location's server, over all its processes."""

    _numbers = itertools.count(1)

    def __init__(
        self, name: str, folder: Path, forkserver: Forkserver, env: Mapping[str, str]
    ) -> None:
        self.name = name
        # A number, since a socket's name has to be short, and a server that ends removes its own.
        self.socket = folder / f"{next(self._numbers)}.sock"
        self._forkserver = forkserver
        # To serve definitions it needs no instance, and opening one takes time and 14 MB.
        self._env = {name: value for name, value in env.items() if name != "DAGSTER_HOME"}
        if not forkserver.warm:
            # A stock server that has to be killed leaves its own temporary folder behind.
            self._env["TMPDIR"] = str(folder)
        self._serving: Service | None = None
        self._loading: Service | None = None
        self._excuse: str | None = None
        self._count = 0
        self._retired: list[tuple[Service, float]] = []
        self._restart_at = 0.0
        self._quick_ends = 0
        self._pause_until = 0.0
        self._is_due = False
        self._began = 0.0
        self.problem: str | None = None
        self.load_seconds: float | None = None
        """How long it took to load; None as long as it has not."""
        self.replaced = 0
        """How often another server has taken over."""
        self._limit_seconds = LOAD_SECONDS if forkserver.warm else COLD_LOAD_SECONDS
        self._has_ended = False

    @property
    def is_settled(self) -> bool:
        """Whether something answers for the location, be it with the reason why it cannot."""
        return self._loading is None and self._serving is not None and not self._is_due

    @property
    def services(self) -> list[Service]:
        """All processes there are for it now."""
        retired = [service for service, _ in self._retired]
        return [s for s in (self._serving, self._loading, *retired) if s is not None]

    @property
    def loading_seconds(self) -> float:
        """For how long it has not settled now."""
        return 0.0 if self.is_settled else time.monotonic() - self._began

    def load(self) -> None:
        """Loads the location afresh; what serves now goes on until that is done."""
        self.stop_loading()
        self._began = time.monotonic()
        self._is_due, self._pause_until = True, 0.0
        self.attend()

    def _start(
        self, module: str, *options: str, more_env: Mapping[str, str] | None = None
    ) -> Service:
        self._count += 1
        command = [
            *("dagster", *(("api", "grpc") if self._forkserver.warm else ("code-server", "start"))),
            *("--socket", str(self._loading_socket)),
            *("--module-name", module),
            *("--working-directory", str(PROJECT_ROOT)),
            *("--location-name", self.name),
            *("--log-level", "warning"),
            *options,
        ]
        name = self.name

        def on_reload() -> bool:
            return bool(control.request({"do": "reload", "location": name})["is_replaced"])

        return Service(
            name,
            self._forkserver,
            command,
            env={**self._env, **(more_env or {})},
            on_reload=on_reload,
            is_expendable=True,
        )

    @property
    def _loading_socket(self) -> Path:
        return self.socket.with_suffix(f".{self._count}.sock")

    def stop_loading(self) -> None:
        """Ends the server that loads, if one does, which nobody depends on.

        Not gently: SIGTERM would be an exception in whatever is just being imported, which may
        well swallow it.
        """
        if self._loading:
            self._loading.process.kill()
            self._retire(self._loading)
            self._loading = None

    def end(self) -> None:
        """Ends it for good."""
        self._has_ended, self._is_due = True, False
        self.stop_loading()
        if self._serving:
            self._retire(self._serving)
        self._serving = None

    def attend(self) -> None:
        """Takes the next step, if there is one; to be called again and again."""
        for retired in list(self._retired):
            service, end = retired
            if service.process.poll() is not None:
                self._retired.remove(retired)
            elif time.monotonic() > end:
                service.process.kill()
        if time.monotonic() < self._pause_until:
            return
        try:
            self._attend_current()
        except OSError as error:
            self._pause_until = time.monotonic() + RETRY_SECONDS
            self._is_due = self._loading is None and not self._has_ended
            print(f"[{self.name}] its server cannot be started: {error.strerror}", flush=True)

    def _attend_current(self) -> None:
        if self._is_due:
            self._excuse = None
            self._loading = self._start(f"{LOCATIONS_PACKAGE}.{self.name}")
            self._is_due = False
        elif self._loading:
            self._attend_loading(self._loading)
        elif self._serving and (status := self._serving.process.poll()) is not None:
            if self._excuse:
                serving, self._serving = self._serving, None
                self._fail(f"Its server {ending(status)} while loading", serving)
            else:
                self._restart(self._serving, status)

    def _attend_loading(self, loading: Service) -> None:
        status = loading.process.poll()
        if status is not None:
            self._fail(f"Its server {ending(status)} while loading", loading, status)
        elif _answers(self._loading_socket):
            self.problem = self._excuse
            if not self.problem:
                self.load_seconds = loading.age
            os.rename(self._loading_socket, self.socket)
            if self._serving:
                self._retire(self._serving)
            self._serving, self._loading = loading, None
            self.replaced += 1
        elif loading.age > self._limit_seconds:
            loading.process.kill()
            self._fail(f"It did not load within {self._limit_seconds:.0f} seconds", loading)

    def _fail(self, what: str, failed: Service, status: int | None = None) -> None:
        """Starts a server that can say what is wrong."""
        failed.show_output()
        self._retire(failed)
        self._loading = None
        lazy = ("--lazy-load-user-code",) if self._forkserver.warm else ()
        is_first = self._excuse is None
        if not is_first:
            self._pause_until = time.monotonic() + RETRY_SECONDS
        print(f"[{self.name}] {what}", flush=True)
        tail = failed.tail.replace("\0", "\N{REPLACEMENT CHARACTER}")[-MAX_EXCUSE:]
        self._excuse = f"{what}. The end of its output:\n{tail or '(nothing)'}"
        if is_first and status == EXCEPTION_STATUS and "MemoryError" not in tail:
            # An ordinary exception. Dagster shows it best, once it is asked for the location. Where
            # memory is too short for loading it, though, it is for a server, too.
            self._loading = self._start(f"{LOCATIONS_PACKAGE}.{self.name}", *lazy)
        else:
            self._loading = self._start(
                broken_location.__name__, *lazy, more_env={broken_location.REASON: self._excuse}
            )

    def _restart(self, ended: Service, status: int) -> None:
        """Brings a server back that ended by itself, ever more slowly if it keeps ending."""
        now = time.monotonic()
        if not self._restart_at:
            self._quick_ends = self._quick_ends + 1 if ended.age < 60 else 0
            delay = min(2.0**self._quick_ends - 1, MAX_RESTART_DELAY)
            self._restart_at = now + delay
            print(f"[{self.name}] its server {ending(status)}; starting it again", flush=True)
        if now >= self._restart_at:
            self._restart_at = 0.0
            self._serving = None
            self.load()

    def _retire(self, service: Service) -> None:
        if service.process.poll() is None:
            service.process.terminate()
        self._retired.append((service, time.monotonic() + RETIREMENT_SECONDS))


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True


def ending(status: int) -> str:
    """How a process ended, in words; the status is negative for a signal."""
    if status >= 0:
        return f"ended with exit code {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
