"""The supervisor: one code server per location, and the webserver and the daemon over them all.

It starts the servers and looks after them, and holds the runs' processes. Dagster gets a workspace
file of sockets, so that webserver and daemon share the servers.
"""

import fcntl
import json
import math
import os
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from dagster import DagsterInstance, Definitions

from orchestration import OrchestrationError, control, explained
from orchestration.builds import product_definitions
from orchestration.checkout import PROJECT_ROOT, checkout_root, products_file
from orchestration.code_servers import CodeServer, ending
from orchestration.environment import dcpy_python, problem_with_dcpy
from orchestration.forkserver import Forkserver, Process
from orchestration.generate import LOCATIONS, WORKSPACE, generate, warnings
from orchestration.graphql import query
from orchestration.instance import (
    add_starter_partitions,
    note_death,
    note_deaths,
    open_instance,
    prepare_dagster_home,
)
from orchestration.products import Product, read_products
from orchestration.selection import Selection
from orchestration.serve import GRACE_SECONDS
from orchestration.services import Service
from orchestration.storage import lifecycle_dir
from orchestration.watch import Watch

LOOK_SECONDS = 1.0
# How much longer than the others a location may take to load before nobody waits for it any more,
# and how long they take as long as none of them has loaded.
PATIENCE_SECONDS = 1.0
COLD_PATIENCE_SECONDS = 30.0
LIKELY_LOAD_SECONDS = 4.0
# The longest pause between two locations when the UI reloads all.
RELOAD_PAUSE_SECONDS = 2.0
SHORT_LIFE_SECONDS = 10.0


class Supervisor:
    """Everything that runs while the server runs."""

    def __init__(
        self, *, host: str, port: int, warm: bool, watches: bool, selection: Selection
    ) -> None:
        self._claim(prepare_dagster_home())
        self.host, self.port = host, port
        self.root = checkout_root()
        self.watches, self.selection = watches, selection
        self.watch = Watch(self.root)
        self.products: Sequence[Product] = ()
        self.code_servers: dict[str, CodeServer] = {}
        self.leaving: list[CodeServer] = []
        self.webserver: Service | None = None
        self.daemon: Service | None = None
        self.runs: dict[str, Service] = {}
        self.tasks: list[Process] = []
        self._waiting: list[tuple[CodeServer, Any]] = []
        self._stopping = False
        self._parent = os.getppid()
        self._announced = False
        self._published: list[str] = []
        # What the webserver asks to reload only because it reads its workspace file again.
        self._spared: set[str] = set()
        self._last_reload = -math.inf
        self._last_look = 0.0
        # The name of a Unix socket has room for some hundred characters.
        short = "/tmp" if len(tempfile.gettempdir()) > 60 else None
        self.folder = Path(tempfile.mkdtemp(prefix="orchestration-", dir=short))
        self.selector = selectors.DefaultSelector()
        self._listen()
        path = os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH")]))
        self.env = dict(os.environ) | {
            "PYTHONPATH": path,
            "DATA_ENGINEERING_ROOT": str(self.root),
            control.SOCKET_VARIABLE: str(self.folder / "control.sock"),
        }
        self.forkserver = Forkserver(warm, any_location)

    def _claim(self, home: Path) -> None:
        # Held as long as this process lives; whatever it forks closes it.
        self._claimed = open(home / "up.lock", "w")  # noqa: SIM115
        try:
            fcntl.flock(self._claimed, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OrchestrationError(
                f"Another `up` runs on {home}, and Dagster's state is for one only. End it, or "
                "give this one its own with DCPY_LIFECYCLE_DATA_DIR or DAGSTER_HOME."
            ) from None

    def _listen(self) -> None:
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.folder / "control.sock"))
        self.listener.listen(64)
        self.selector.register(self.listener, selectors.EVENT_READ, self._answer)
        self.selector.register(wake_read, selectors.EVENT_READ, lambda: os.read(wake_read, 4096))

    def _stop(self, *_: object) -> None:
        self._stopping = True

    @property
    def workspace(self) -> Path:
        """The workspace file that webserver and daemon read."""
        return self.folder / WORKSPACE

    def run(self) -> int:
        """Serves until told to stop, and gives the exit code.

        Raises OrchestrationError when the checkout cannot be used, or has not what is to be served.
        """
        self._generate()
        self._look_for_changes()
        # Before anybody else opens the instance: whoever is first creates it.
        seeding = self._seed(note_deaths)
        self.tasks.append(seeding)
        self._sync()
        self.tasks.append(self._task(self._warn_of_dcpy))
        while not self._stopping:
            self._attend()
            if self.webserver is None:
                status = seeding.poll()
                if status:
                    _say(f"Preparing Dagster's database {ending(status)}.")
                    return 1
                if status == 0 and self._servable:
                    self._start_dagster()
                continue
            if not self._keep_dagster():
                return 1
            if not self._announced:
                # A server that is replaced before Dagster watches it would go unnoticed.
                self._announce()
                continue
            if time.monotonic() - self._last_look > LOOK_SECONDS:
                self._look_for_changes()
            if self._published != list(self.code_servers) and self._servable and self._is_quiet:
                self._publish()
        return 0

    @property
    def _settled(self) -> bool:
        return all(server.is_settled for server in self.code_servers.values())

    @property
    def _servable(self) -> bool:
        """Whether all locations answer that can be waited for."""
        servers = self.code_servers.values()
        usual = max(
            (server.load_seconds for server in servers if server.load_seconds is not None),
            default=LIKELY_LOAD_SECONDS,
        )
        patience = PATIENCE_SECONDS if self.forkserver.warm else COLD_PATIENCE_SECONDS
        return all(
            server.is_settled or server.loading_seconds > usual + patience for server in servers
        )

    @property
    def _is_quiet(self) -> bool:
        """Whether the UI is not reloading all: that would end with the locations it began with."""
        since = time.monotonic() - self._last_reload
        return not self._waiting and since > RELOAD_PAUSE_SECONDS

    def _attend(self) -> None:
        """Waits a moment for something to happen, and does what there is to do."""
        if os.getppid() != self._parent:
            self._stopping = True
        for key, _ in self.selector.select(timeout=0.5 if self._settled else 0.05):
            key.data()
        for server in [*self.code_servers.values(), *self.leaving]:
            server.attend()
        self.leaving = [server for server in self.leaving if server.services]
        for run_id, run in list(self.runs.items()):
            if (status := run.process.poll()) is not None:
                del self.runs[run_id]
                if status:
                    self._note_death(run_id, ending(status))
        self.tasks = [task for task in self.tasks if task.poll() is None]
        for service in self._services():
            if not service.is_shown:
                self._show(service)
        for server, stream in list(self._waiting):
            if server.is_settled or server in self.leaving or not server.services:
                self._waiting.remove((server, stream))
                self._last_reload = time.monotonic()
                _reply(stream, {"is_replaced": True})

    def _services(self) -> set[Service]:
        services = [self.webserver, self.daemon, *self.runs.values()]
        for server in [*self.code_servers.values(), *self.leaving]:
            services += server.services
        return {service for service in services if service is not None}

    def _show(self, service: Service) -> None:
        def show() -> None:
            if not service.show_output():
                self.selector.unregister(service.output)
                service.close()

        service.is_shown = True
        self.selector.register(service.output, selectors.EVENT_READ, show)

    def _generate(self) -> None:
        self.products, changes = generate(self.root)
        for change in changes:
            _say(f"generated {change.path}" if change.new else f"removed {change.path}")
        for warning in warnings(self.products, self.root):
            _say(f"warning: {warning}")

    def _look_for_changes(self) -> None:
        """Brings what is served up to date with the files; an unusable products.yml is ignored."""
        self._last_look = time.monotonic()
        try:
            sources = self.watches and self.watch.products_changed()
            generated = self.watch.workspace_changed()
            if sources or (self.watches and generated):
                self._generate()
            if generated or self.watch.workspace_changed():
                self._sync()
            if self.watches:
                for name in self.watch.changed_locations(self.products):
                    if name in self.code_servers:
                        _say(f"[{name}] reloading")
                        self.code_servers[name].load()
        except (OrchestrationError, OSError) as error:
            _say(f"{error}\nNothing was changed; everything goes on as it was.")

    def _sync(self) -> None:
        """Starts the servers of new locations and ends those of removed ones."""
        if not self.watches and self.webserver:
            self.products = read_products(products_file(self.root))
        wanted = [
            name
            for name in self.selection.locations(self.products)
            if (PROJECT_ROOT / LOCATIONS / f"{name}.py").exists()
        ]
        for name in [name for name in self.code_servers if name not in wanted]:
            server = self.code_servers.pop(name)
            server.end()
            self.leaving.append(server)
        new = [name for name in wanted if name not in self.code_servers]
        for name in new:
            server = CodeServer(name, self.folder, self.forkserver, self.env)
            self.code_servers[name] = server
            server.attend()
        if new and self.webserver:
            self.tasks.append(self._seed())

    def _seed(self, *more: Callable[[DagsterInstance], None]) -> Process:
        slugs = [product.slug for product in self.products]

        def prepare(instance: DagsterInstance) -> None:
            add_starter_partitions(instance, slugs)

        def seed() -> None:
            try:
                with open_instance(prepare) as instance:
                    for work in more:
                        work(instance)
            except OrchestrationError as error:
                sys.exit(str(error))

        return self._task(seed)

    def _note_death(self, run_id: str, how: str) -> None:
        """Has the run fail whose process ended before it could say how the run went."""

        def note() -> None:
            with DagsterInstance.get() as instance:
                if run := instance.get_run_by_id(run_id):
                    note_death(instance, run, how)

        try:
            self.tasks.append(self._task(note))
        except OSError as error:
            _say(f"run {run_id}: its process {how}; nobody to write that down: {error.strerror}")

    def _warn_of_dcpy(self) -> None:
        """Says which interpreter cannot run the checkout's dcpy, before a stage finds out."""
        users: dict[tuple[Path, bool], list[str]] = {dcpy_python(None): []}
        for product in self.products:
            users.setdefault(dcpy_python(product.python), []).append(product.id)
        for python, ids in users.items():
            problem = problem_with_dcpy(python, root=self.root, lifecycle=lifecycle_dir())
            if problem:
                whom = f"for {', '.join(ids)}" if python != dcpy_python(None) else "for the stages"
                _say(f"warning: {whom}: {problem}")

    def _task(self, work: Callable[[], None]) -> Process:
        return self.forkserver.call(work, env=self.env, output=sys.stdout.fileno())

    def _start_dagster(self) -> None:
        self._write_workspace()
        self.webserver = self._start_webserver()
        self.daemon = self._start_daemon()

    def _keep_dagster(self) -> bool:
        """Starts webserver or daemon again if it has ended; False if it ended while starting up."""
        for service in filter(None, (self.webserver, self.daemon)):
            if (status := service.process.poll()) is None:
                continue
            if not service.has_ended:
                service.has_ended = True
                service.show_output()
                _say(f"The {service.name} {ending(status)}.")
            if not self._announced:
                return False
            if service.age < SHORT_LIFE_SECONDS:
                continue
            try:
                if service is self.webserver:
                    self.webserver = self._start_webserver()
                else:
                    self.daemon = self._start_daemon()
            except OSError as error:
                _say(f"No process for the {service.name}: {error.strerror}.")
        return True

    def _start_webserver(self) -> Service:
        options = ("--host", self.host, "--port", str(self.port), "--log-level", "warning")
        return self._dagster("webserver", "dagster-webserver", *options)

    def _start_daemon(self) -> Service:
        return self._dagster("daemon", "dagster-daemon", "run", "--log-level", "warning")

    def _dagster(self, name: str, *command: str) -> Service:
        workspace = ("--workspace", str(self.workspace))
        return Service(name, self.forkserver, [*command, *workspace], env=self.env)

    def _write_workspace(self) -> None:
        entries = [
            {"grpc_server": {"location_name": name, "socket": str(server.socket)}}
            for name, server in self.code_servers.items()
        ]
        new = self.workspace.with_suffix(".new")
        new.write_text(yaml.safe_dump({"load_from": entries}))
        new.replace(self.workspace)
        self._published = list(self.code_servers)

    def _publish(self) -> None:
        """Tells webserver and daemon that there are other locations now.

        The webserver reads its workspace file again, asking every server to reload, which none
        does this time. The daemon is started again; runs do not depend on it.
        """
        self._write_workspace()
        url = f"http://{self.host}:{self.port}"
        self._spared = set(self.code_servers)
        replaced_before = sum(server.replaced for server in self.code_servers.values())
        refreshing = self._task(lambda: _reload_workspace(url))
        self.tasks.append(refreshing)
        assert self.daemon
        self.daemon.process.terminate()
        while self.daemon.process.poll() is None or refreshing.poll() is None:
            self._attend()
            if self._stopping:
                return
        self._spared.clear()
        self.daemon = self._start_daemon()
        if refreshing.poll():
            _say("The webserver has not taken over the change; trying again.")
            self._published, self._last_reload = [], time.monotonic()
            return
        if replaced_before != sum(server.replaced for server in self.code_servers.values()):
            # Dagster may have loaded it from the one before.
            self._published = []
        _say(f"{len(self.code_servers)} code locations: {', '.join(self.code_servers)}")

    def _announce(self) -> None:
        with socket.socket() as probe:
            if probe.connect_ex((self.host, self.port)) != 0:
                return
        self._announced = True
        broken = [server.name for server in self.code_servers.values() if server.problem]
        count = len(self.code_servers)
        _say(
            f"Dagster is at http://{self.host}:{self.port} with {count} code locations"
            + (f"; broken: {', '.join(broken)}" if broken else "")
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
                try:
                    run = Service(f"run {run_id[:8]}", self.forkserver, command, env=self.env)
                except OSError as error:
                    _reply(stream, {"error": f"no process for the run: {error.strerror}"})
                    return
                self.runs[run_id] = run
                _reply(stream, {"pid": run.process.pid})
            case {"do": "reload", "location": str(name)} if name in self.code_servers:
                if name in self._spared:
                    self._spared.remove(name)
                    _reply(stream, {"is_replaced": False})
                    return
                try:
                    self.code_servers[name].load()
                except OSError as error:
                    _reply(stream, {"error": f"no process for the server: {error.strerror}"})
                    return
                self._waiting.append((self.code_servers[name], stream))
            case {"do": "reload", "location": _}:
                _reply(stream, {"is_replaced": False})
            case _:
                _reply(stream, {"error": f"not understood: {message}"})

    def close(self) -> None:
        """Ends everything: runs first, so that they can say that they were interrupted."""
        self.selector.unregister(self.listener)
        self.listener.close()
        for server in self.code_servers.values():
            server.stop_loading()
        runs = set(self.runs.values())
        servers = self._services() - runs
        for services, seconds in ((runs, GRACE_SECONDS / 2), (servers, GRACE_SECONDS / 4)):
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
        for task in self.tasks:
            task.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def any_location() -> Definitions:
    """The definitions of a product as there are many; nobody has it."""
    return product_definitions(id="any", slug="any", build_command="any", path=os.devnull)


def _say(text: str) -> None:
    print(text, flush=True)


def _reload_workspace(url: str) -> None:
    try:
        query(url, "mutation { reloadWorkspace { __typename } }")
    except OrchestrationError as error:
        sys.exit(str(error))


def _reply(stream: Any, answer: dict[str, Any]) -> None:
    # Whoever asked may have gone.
    with suppress(OSError), stream:
        stream.write(json.dumps(answer) + "\n")


def main() -> int:
    """Runs the supervisor; `up` starts it in a process of its own."""
    settings = json.loads(sys.argv[1])
    selection = Selection(settings.pop("only"), settings.pop("owners"))
    try:
        supervisor = Supervisor(**settings, selection=selection)
        try:
            return supervisor.run()
        finally:
            supervisor.close()
    except OrchestrationError as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(explained(error), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
