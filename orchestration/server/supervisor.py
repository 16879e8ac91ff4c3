"""The supervisor: holds every process of a running `up`, and does what there is to do for each.

One thread waits for whatever comes first: output, the end of a process, a request, a changed file.
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
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from dagster import DagsterInstance, Definitions

from orchestration import OrchestrationError, counted, explained
from orchestration.catalog.checkout import PROJECT_ROOT, checkout_root
from orchestration.definitions.product import product_definitions
from orchestration.generator.render import LOCATIONS
from orchestration.instance.deaths import note_death, note_deaths
from orchestration.instance.home import LOCK, open_instance, prepare_dagster_home
from orchestration.instance.partitions import add_starter_partitions
from orchestration.lifecycle.environment import dcpy_python, problem_with_dcpy
from orchestration.lifecycle.results import lifecycle_dir, make_private
from orchestration.server import console, control
from orchestration.server.code_locations import CodeLocations
from orchestration.server.code_server import CodeServer, ending
from orchestration.server.dagster_services import DagsterServices
from orchestration.server.forkserver import Forkserver, Process
from orchestration.server.selection import Selection
from orchestration.server.service import Service
from orchestration.server.up import GRACE_SECONDS

LOOK_SECONDS = 1.0
# The longest pause between two locations when the UI reloads all.
RELOAD_PAUSE_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 60.0


class Supervisor:
    """Everything that runs while the server runs."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        path_prefix: str,
        warm: bool,
        watches: bool,
        selection: Selection,
    ) -> None:
        self.home = prepare_dagster_home()
        self._claim()
        self.root = checkout_root()
        self.runs: dict[str, Service] = {}
        self.tasks: list[Process] = []
        self._waiting: list[tuple[CodeServer, Any]] = []
        self._stopping = False
        self._parent = os.getppid()
        self._announced = False
        # What the webserver asks to reload only because it reads its workspace file again.
        self._spared: set[str] = set()
        self._last_reload = -math.inf
        self._pause = RELOAD_PAUSE_SECONDS
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
        self.dagster = DagsterServices(
            host=host,
            port=port,
            path_prefix=path_prefix,
            folder=self.folder,
            forkserver=self.forkserver,
            env=self.env,
        )
        self.locations = CodeLocations(
            root=self.root,
            selection=selection,
            watches=watches,
            folder=self.folder,
            forkserver=self.forkserver,
            env=self.env,
        )

    def _claim(self) -> None:
        # Held as long as this process lives; whatever it forks closes them.
        self._claimed = [
            open(self.home / LOCK, "w"),  # noqa: SIM115
            open(PROJECT_ROOT / LOCATIONS / "__init__.py"),  # noqa: SIM115
        ]
        for claimed, what in zip(self._claimed, (self.home, PROJECT_ROOT), strict=True):
            try:
                fcntl.flock(claimed, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OrchestrationError(
                    f"Another `up` runs on {what}, which is for one only. End it, or run this one "
                    "in a clone of its own, with a DAGSTER_HOME of its own."
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

    def run(self) -> int:
        """Serves until told to stop, and gives the exit code.

        Raises OrchestrationError when the checkout cannot be used, or has not what is to be served.
        """
        self.locations.generate()
        self.locations.follow()
        # Before anybody else opens the instance: whoever is first creates it.
        seeding = self._seed(note_deaths)
        self.locations.sync()
        self._begin(self._warn_of_dcpy)
        while not self._stopping:
            self._attend()
            if not self.dagster.are_started:
                status = seeding.poll()
                if status:
                    _say(f"Preparing Dagster's database {ending(status)}.")
                    return 1
                if status == 0 and self.locations.are_servable:
                    self.dagster.write_workspace(self.locations.servers)
                    self.dagster.start()
                continue
            if not self.dagster.keep():
                return 1
            if not self._announced:
                # A server that is replaced before Dagster watches it would go unnoticed.
                self._announce()
                continue
            if time.monotonic() - self._last_look > LOOK_SECONDS:
                self._last_look = time.monotonic()
                if not self._state_is_there():
                    return 1
                self.locations.follow()
            has_changed = self.dagster.published != list(self.locations.servers)
            if has_changed and self.locations.are_servable and self._is_quiet:
                try:
                    self._publish()
                except OSError as error:
                    _say(f"Dagster cannot be told of the new locations: {error.strerror}.")
                    self._publish_again()
        return 0

    def _state_is_there(self) -> bool:
        """Whether Dagster's state is still in its place. Results that are gone are nobody's end."""
        results = lifecycle_dir()
        if not results.is_dir():
            make_private(results)
            _say(
                f"{results} is gone, with every result in it; it has been made anew. Dagster still "
                "lists those results: materialize again what is needed."
            )
        with suppress(FileNotFoundError):
            mine = os.fstat(self._claimed[0].fileno())
            if os.path.samestat(mine, os.stat(self.home / LOCK)):
                return True
        _say(f"Dagster's state, {self.home}, is gone: `up` ends. Start it again to begin anew.")
        return False

    @property
    def _is_quiet(self) -> bool:
        """Whether the UI is not reloading all: that would end with the locations it began with."""
        since = time.monotonic() - self._last_reload
        return not self._waiting and since > self._pause

    def _attend(self) -> None:
        """Waits a moment for something to happen, and does what there is to do."""
        if os.getppid() != self._parent:
            self._stopping = True
        sys.stdout.flush()
        for key, _ in self.selector.select(timeout=0.5 if self.locations.are_settled else 0.05):
            key.data()
        self.locations.attend()
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
            if server.is_settled or server not in self.locations.servers.values():
                self._waiting.remove((server, stream))
                self._last_reload = time.monotonic()
                _reply(stream, {"is_replaced": True})

    def _services(self) -> set[Service]:
        return {*self.dagster.services, *self.locations.services, *self.runs.values()}

    def _show(self, service: Service) -> None:
        def show() -> None:
            if not service.show_output():
                self.selector.unregister(service.output)
                service.close()

        service.is_shown = True
        self.selector.register(service.output, selectors.EVENT_READ, show)

    def _seed(self, *more: Callable[[DagsterInstance], None]) -> Process:
        slugs = [product.slug for product in self.locations.products]

        def prepare(instance: DagsterInstance) -> None:
            add_starter_partitions(instance, slugs)

        def seed() -> None:
            try:
                with open_instance(prepare) as instance:
                    for work in more:
                        work(instance)
            except OrchestrationError as error:
                sys.exit(str(error))

        return self._begin(seed)

    def _note_death(self, run_id: str, how: str) -> None:
        """Has the run fail whose process ended before it could say how the run went."""

        def note() -> None:
            with DagsterInstance.get() as instance:
                if run := instance.get_run_by_id(run_id):
                    note_death(instance, run, how)

        try:
            self._begin(note)
        except OSError as error:
            _say(f"run {run_id}: its process {how}; nobody to write that down: {error.strerror}")

    def _warn_of_dcpy(self) -> None:
        """Says which interpreter cannot run the checkout's dcpy, before a stage finds out."""
        users: dict[tuple[Path, bool], list[str]] = {dcpy_python(None): []}
        for product in self.locations.products:
            users.setdefault(dcpy_python(product.python), []).append(product.id)
        for python, ids in users.items():
            problem = problem_with_dcpy(python, root=self.root, lifecycle=lifecycle_dir())
            if problem:
                whom = f"for {', '.join(ids)}" if python != dcpy_python(None) else "for the stages"
                _say(f"warning: {whom}: {problem}")

    def _begin(self, work: Callable[[], None]) -> Process:
        """Has a fork do some work beside all else."""
        task = self.forkserver.call(work, env=self.env, output=sys.stdout.fileno())
        self.tasks.append(task)
        return task

    def _publish(self) -> None:
        """Gives new products their partitions, and tells webserver and daemon of the locations.

        The webserver reads its workspace file again, asking every server to reload, which none
        does this time. The daemon is started again; runs do not depend on it.
        """
        servers = self.locations.servers
        self._seed()
        self.dagster.write_workspace(servers)
        self._spared = set(servers)
        replaced_before = self.locations.replaced
        refreshing = self._begin(self.dagster.reload_workspace)
        is_behind = self.dagster.daemon_is_behind
        if is_behind:
            self.dagster.end_daemon()
        while refreshing.poll() is None or (is_behind and not self.dagster.daemon_has_ended):
            self._attend()
            if self._stopping:
                return
        self._spared.clear()
        if is_behind:
            self.dagster.start_daemon()
        if refreshing.poll() or replaced_before != self.locations.replaced:
            # Of a server that was replaced meanwhile, Dagster may have asked the one before.
            self._publish_again()
        else:
            self._pause = RELOAD_PAUSE_SECONDS
            _say(f"{counted(len(servers), 'code location')}: {', '.join(servers)}")

    def _publish_again(self) -> None:
        self.dagster.published, self._last_reload = [], time.monotonic()
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    def _announce(self) -> None:
        if not self.dagster.are_up:
            return
        self._announced = True
        servers = self.locations.servers
        broken = [server.name for server in servers.values() if server.problem]
        _say(
            f"Dagster is at {self.dagster.url} with {counted(len(servers), 'code location')}"
            + (f"; broken: {', '.join(broken)}" if broken else "")
        )

    def _answer(self) -> None:
        try:
            connection, _ = self.listener.accept()
        except OSError as error:
            _say(f"A request cannot be answered: {error.strerror}.")
            return
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
                    run = Service(
                        f"run {run_id[:8]}",
                        self.forkserver,
                        command,
                        env=self.env,
                        is_expendable=True,
                    )
                except OSError as error:
                    _reply(stream, {"error": f"no process for the run: {error.strerror}"})
                    return
                self.runs[run_id] = run
                _reply(stream, {"pid": run.process.pid})
            case {"do": "reload", "location": str(name)} if name in self.locations.servers:
                if name in self._spared:
                    self._spared.remove(name)
                    _reply(stream, {"is_replaced": False})
                    return
                self.locations.servers[name].load()
                self._waiting.append((self.locations.servers[name], stream))
            case {"do": "reload", "location": _}:
                _reply(stream, {"is_replaced": False})
            case _:
                _reply(stream, {"error": f"not understood: {message}"})

    def close(self) -> None:
        """Ends everything: runs first, so that they can say that they were interrupted."""
        self.selector.unregister(self.listener)
        self.listener.close()
        self.locations.stop_loading()
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
    return product_definitions(id="any", build_command="any")


def _say(text: str) -> None:
    print(text, flush=True)


def _reply(stream: Any, answer: dict[str, Any]) -> None:
    # Whoever asked may have gone.
    with suppress(OSError), stream:
        stream.write(json.dumps(answer) + "\n")


def main() -> int:
    """Runs the supervisor; `up` starts it in a process of its own."""
    console.settle(waits=False)
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
