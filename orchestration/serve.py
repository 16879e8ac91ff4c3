"""`up`: serves the web UI and the daemon over one code server per location.

Two processes lead it. The one that the user starts only holds a pipe: when it ends, however it
does, everything behind it is ended. The other one, `Supervisor`, starts the servers and looks after
them. Dagster gets a workspace file of sockets, so that webserver and daemon share the servers.
"""

import argparse
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from orchestration import OrchestrationError, control, reaper
from orchestration.checkout import PROJECT_ROOT, checkout_root
from orchestration.code_servers import CodeServer
from orchestration.forkserver import Forkserver
from orchestration.generate import WORKSPACE, generate, location_names, warnings
from orchestration.instance import add_starter_partitions, prepare_dagster_home
from orchestration.services import Service

GRACE_SECONDS = 20.0
# How long the UI waits for locations before it comes up without those that are slow.
PATIENCE_SECONDS = 3.0


def up(*, host: str, port: int, warm: bool) -> int:
    """Serves until it is told to stop; gives the exit code.

    Raises OrchestrationError when the port is taken.
    """
    _check_port(host, port)
    command = [sys.executable, "-m", "orchestration.serve", host, str(port)]
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", reaper.__file__, str(GRACE_SECONDS), *command]
        + ([] if warm else ["--cold"]),
        cwd=PROJECT_ROOT,
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin
    interrupted = False

    def stop(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        assert process.stdin
        process.stdin.close()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    status = process.wait()
    return 0 if interrupted else status if status > 0 else 1


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OrchestrationError(
                f"Cannot listen on {host}:{port}: {error.strerror}. Choose another port with "
                "--port (make up PORT=…)."
            ) from error


class Supervisor:
    """Everything that runs while the server runs."""

    def __init__(self, host: str, port: int, warm: bool) -> None:
        self.host, self.port = host, port
        self.folder = Path(tempfile.mkdtemp(prefix="orchestration-"))
        self.selector = selectors.DefaultSelector()
        self.code_servers: dict[str, CodeServer] = {}
        self.webserver: Service | None = None
        self.daemon: Service | None = None
        self.runs: list[Service] = []
        self._shown: set[Service] = set()
        self._waiting: list[tuple[CodeServer, Any]] = []
        self._stopping = False
        self._announced = False
        self._wake_read, wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(wake_write, False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.folder / "control.sock"))
        self.listener.listen(64)
        self.selector.register(self.listener, selectors.EVENT_READ, self._answer)
        self.selector.register(self._wake_read, selectors.EVENT_READ, self._drain)
        self.home = prepare_dagster_home()
        path = os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH")]))
        self.env = dict(os.environ) | {
            "PYTHONPATH": path,
            control.SOCKET_VARIABLE: str(self.folder / "control.sock"),
        }
        self.forkserver = Forkserver(warm)

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _drain(self) -> None:
        os.read(self._wake_read, 4096)

    @property
    def workspace(self) -> Path:
        """The workspace file that webserver and daemon read."""
        return self.folder / WORKSPACE

    def run(self, locations: Sequence[str], slugs: Sequence[str]) -> int:
        """Serves the locations until told to stop, and gives the exit code."""
        # Before anybody else opens the instance: whoever is first creates it.
        seeding = self.forkserver.call(
            lambda: _seed(slugs), env=self.env, output=sys.stdout.fileno()
        )
        while seeding.poll() is None and not self._stopping:
            self._attend()
        if seeding.poll():
            return 1
        for name in locations:
            self.code_servers[name] = CodeServer(name, self.folder, self.forkserver, self.env)
        started = time.monotonic()
        while not self._stopping:
            self._attend()
            if self.webserver is None:
                settled = all(server.is_settled for server in self.code_servers.values())
                waited = time.monotonic() - started > PATIENCE_SECONDS
                if settled or waited:
                    self._start_dagster()
            else:
                self._announce()
                for service in (self.webserver, self.daemon):
                    if service and (status := service.process.poll()) is not None:
                        service.show_output()
                        print(f"The {service.name} ended with status {status}.", flush=True)
                        return 1
        return 0

    def _attend(self) -> None:
        is_loading = any(not server.is_settled for server in self.code_servers.values())
        for key, _ in self.selector.select(timeout=0.05 if is_loading else 0.5):
            key.data()
        for server in self.code_servers.values():
            server.attend()
        self.runs = [run for run in self.runs if run.process.poll() is None]
        for service in self._services() - self._shown:
            self._show(service)
        for server, stream in list(self._waiting):
            if server.is_settled:
                self._waiting.remove((server, stream))
                _reply(stream, {})

    def _services(self) -> set[Service]:
        services = [self.webserver, self.daemon, *self.runs]
        for server in self.code_servers.values():
            services += server.services
        return {service for service in services if service is not None}

    def _show(self, service: Service) -> None:
        def show() -> None:
            if not service.show_output():
                self.selector.unregister(service.output)
                service.close()

        self._shown.add(service)
        self.selector.register(service.output, selectors.EVENT_READ, show)

    def _start_dagster(self) -> None:
        entries = [
            {"grpc_server": {"location_name": name, "socket": str(server.socket)}}
            for name, server in self.code_servers.items()
        ]
        self.workspace.write_text(yaml.safe_dump({"load_from": entries}))
        workspace = ("--workspace", str(self.workspace))
        self.webserver = Service(
            "webserver",
            self.forkserver,
            [
                *("dagster-webserver", "--host", self.host, "--port", str(self.port)),
                *("--log-level", "warning", *workspace),
            ],
            env=self.env,
        )
        self.daemon = Service(
            "daemon",
            self.forkserver,
            ["dagster-daemon", "run", "--log-level", "warning", *workspace],
            env=self.env,
        )

    def _announce(self) -> None:
        if self._announced:
            return
        with socket.socket() as probe:
            if probe.connect_ex((self.host, self.port)) == 0:
                self._announced = True
                broken = [s.name for s in self.code_servers.values() if s.problem]
                print(
                    f"Dagster is at http://{self.host}:{self.port} with "
                    f"{len(self.code_servers)} code locations"
                    + (f"; broken: {', '.join(broken)}" if broken else ""),
                    flush=True,
                )

    def _answer(self) -> None:
        connection, _ = self.listener.accept()
        connection.settimeout(5)
        stream = connection.makefile("rw", encoding="utf-8")
        connection.close()
        try:
            message = json.loads(stream.readline())
        except (OSError, ValueError):
            stream.close()
            return
        match message:
            case {"do": "run", "run_id": str(run_id), "command": list(command)}:
                run = Service(f"run {run_id[:8]}", self.forkserver, command, env=self.env)
                self.runs.append(run)
                _reply(stream, {"pid": run.process.pid})
            case {"do": "reload", "location": str(name)} if name in self.code_servers:
                self.code_servers[name].load()
                self._waiting.append((self.code_servers[name], stream))
            case _:
                _reply(stream, {"error": f"not understood: {message}"})

    def close(self) -> None:
        """Ends everything: runs first, so that they can say that they were interrupted."""
        servers = self._services() - set(self.runs)
        for services, seconds in ((self.runs, GRACE_SECONDS / 2), (servers, GRACE_SECONDS / 4)):
            for service in services:
                if service.process.poll() is None:
                    service.process.terminate()
            end = time.monotonic() + seconds
            while time.monotonic() < end and any(s.process.poll() is None for s in services):
                for key, _ in self.selector.select(timeout=0.1):
                    key.data()
            for service in services:
                if service.process.poll() is None:
                    service.process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _reply(stream: Any, answer: dict[str, Any]) -> None:
    # Whoever asked may have gone.
    with suppress(OSError), stream:
        stream.write(json.dumps(answer) + "\n")


def _seed(slugs: Sequence[str]) -> None:
    from dagster import DagsterInstance

    with DagsterInstance.get() as instance:
        add_starter_partitions(instance, slugs)


def main() -> int:
    """Runs the supervisor; `up` starts it in a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--cold", action="store_true")
    options = parser.parse_args()
    root = checkout_root()
    try:
        products, changes = generate(root)
    except OrchestrationError as error:
        print(error, file=sys.stderr)
        return 1
    for change in changes:
        print(f"generated {change.path}" if change.new else f"removed {change.path}", flush=True)
    for warning in warnings(products, root):
        print(f"warning: {warning}", flush=True)
    supervisor = Supervisor(options.host, options.port, not options.cold)
    try:
        return supervisor.run(location_names(products), [product.slug for product in products])
    finally:
        supervisor.close()


if __name__ == "__main__":
    sys.exit(main())
