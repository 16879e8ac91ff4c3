"""The supervisor: holds every process of a running `up`, and does what there is to do for each.

One thread waits for whatever comes first: output, the end of a process, a request, a changed file.
"""

import json
import os
import selectors
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dagster import Definitions

from orchestration import OrchestrationError, counted, explained
from orchestration.catalog.checkout import PROJECT_ROOT, checkout_root
from orchestration.catalog.names import URL_VARIABLE, url_of
from orchestration.catalog.partition_keys import check_key_of
from orchestration.catalog.products import ProductsFile
from orchestration.code_servers.selection import Selection
from orchestration.code_servers.sources import Sources
from orchestration.definitions.product import product_definitions
from orchestration.instance.home import has_postgres, prepare_dagster_home
from orchestration.lifecycle.child import ending
from orchestration.lifecycle.results import make_private
from orchestration.processes import console, control
from orchestration.processes.background import (
    Background,
    create_instance,
    follow,
    warn_of_dcpy,
)
from orchestration.processes.forkserver import Forkserver, Process, allow_open_files
from orchestration.processes.orphans import Orphans
from orchestration.processes.refusals import Refusals
from orchestration.processes.service import Service
from orchestration.processes.signals import Signals
from orchestration.runs.runs import Runs
from orchestration.server.claims import Claims, DatabaseClaim
from orchestration.server.dagster_services import CodeHost, DagsterServices
from orchestration.server.nightly import Nightly
from orchestration.server.stock_locations import StockLocations, reload_locations
from orchestration.server.up import GRACE_SECONDS

if TYPE_CHECKING:
    from orchestration.code_servers.code_locations import CodeLocations

LOOK_SECONDS = 1.0
# Until what Dagster's state has not followed is tried again.
FOLLOW_SECONDS = 10.0
# A saved file is served within a second.
IDLE_STEP_SECONDS = 0.75
# Until something is there that does not tell: a code server, and the webserver at the start.
STEP_SECONDS = 0.01
START_STEP_SECONDS = 0.05


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
        deployment: str | None,
        host_name: str | None,
        selection: Selection,
        started: float,
        folder: Path,
    ) -> None:
        """`started` is when somebody started it, in seconds since the epoch.

        Its sockets and what its processes read lie in the `folder`, a temporary one.
        """
        self._announced: list[str] | None = None
        self._followed: ProductsFile | None = None
        self._following: Process | None = None
        self._follow_at = 0.0
        self._refusals = Refusals()
        self._looked = time.monotonic()
        self._home = prepare_dagster_home()
        self.claims = Claims(self._home)
        self.folder = folder
        self.selector = selectors.DefaultSelector()
        self.signals = Signals(self.selector)
        self._socket = folder / "control.sock"
        self.control = control.ControlServer(self._socket, self.selector, self._handle)
        self.root = checkout_root()
        path = os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH")]))
        self.env = dict(os.environ) | {
            "PYTHONPATH": path,
            "DATA_ENGINEERING_ROOT": str(self.root),
            control.SOCKET_VARIABLE: str(self._socket),
            URL_VARIABLE: url_of(host, port, path_prefix),
        }
        self.sources = Sources(
            self.root,
            selection,
            watches=watches,
            deployment=Path(deployment) if deployment else None,
            host_name=host_name,
        )
        self.forkserver = Forkserver(warm, any_location)
        self.orphans = Orphans()
        self.background = Background(self.forkserver, self.env)
        self.runs = Runs(self.forkserver, self.selector, self.background)
        self.nightly = Nightly(self.background)
        self.locations: CodeLocations | StockLocations
        if host_name and not self.forkserver.warm:
            raise OrchestrationError(
                "Other hosts cannot be served so: use `dagster code-server start` here."
            )
        self.locations, prepare = self._warm(started) if self.forkserver.warm else self._stock()
        self.dagster: DagsterServices | CodeHost
        if host_name:
            self.dagster = CodeHost(host_name)
            return
        self.dagster = DagsterServices(
            host=host,
            port=port,
            path_prefix=path_prefix,
            folder=self.folder,
            forkserver=self.forkserver,
            selector=self.selector,
            # A stock server that has to be killed leaves its own temporary folder behind.
            env=self.env if self.forkserver.warm else self.env | {"TMPDIR": str(self.folder)},
            prepare=prepare,
        )

    def _warm(self, started: float) -> "tuple[CodeLocations, Callable[[], None]]":
        # Not before it is known that Dagster has what these need.
        from orchestration.code_servers.code_locations import CodeLocations
        from orchestration.code_servers.dependencies import installation_of
        from orchestration.code_servers.subscriber import subscribe
        from orchestration.processes.dagster_internals import (
            keep_databases_open,
            refuse_keys,
            replace_watching,
        )

        locations = CodeLocations(
            sources=self.sources,
            folder=self.folder,
            answers=self._home / "answers",
            installation=installation_of(list(sys.modules.values()), started),
            forkserver=self.forkserver,
            selector=self.selector,
            env=self.env,
            on_change=self._publish,
        )

        def prepare() -> None:
            replace_watching(partial(subscribe, locations.subscribers))
            refuse_keys(check_key_of)
            keep_databases_open()

        return locations, prepare

    def _stock(self) -> tuple[StockLocations, Callable[[], None]]:
        def reload(names: Collection[str]) -> None:
            assert isinstance(self.dagster, DagsterServices)
            self.background.start(partial(reload_locations, self.dagster.url, names))
            self.dagster.restart_daemon()

        locations = StockLocations(self.sources, on_change=self._publish, reload=reload)
        return locations, lambda: None

    def run(self) -> int:
        """Serves until told to stop, and gives the exit code.

        Raises OrchestrationError when the checkout cannot be used, or has not what is to be served.
        """
        # It has more to import than anything here takes.
        self.dagster.warm_up()
        self.sources.load()
        self.locations.start()
        self.background.start(partial(warn_of_dcpy, self.sources.file.products, self.root))
        is_shared = has_postgres() and isinstance(self.dagster, DagsterServices)
        claim = DatabaseClaim(self.background, self.folder) if is_shared else None
        # Before anybody else opens the instance: whoever is first creates it.
        creating: Process | None = None if claim else self._create_instance()
        outlast = self._refusals.outlast
        serve = partial(self.dagster.watch, are_answered=lambda: self.locations.are_answered)
        while not self.signals.has_stopped:
            self._wait()
            self.signals.watch()
            if self.signals.has_stopped:
                break
            self.background.watch()
            self.runs.watch()
            outlast("Locations cannot be looked after", self.locations.watch, None)
            clean = partial(self.nightly.watch, self.sources.file.retention)
            outlast("Old results cannot be cleaned up", clean, None)
            if not outlast("Dagster cannot be looked after", serve, True) or not self._look():
                return 1
            if claim and not outlast("The database cannot be claimed", claim.watch, True):
                return 1
            if not creating:
                if claim and claim.is_held:
                    problem = "Dagster's database cannot be prepared"
                    creating = outlast(problem, self._create_instance, None)
            elif self.dagster.are_started:
                self._follow()
                self._announce()
            elif status := creating.poll():
                print(f"Preparing Dagster's database {ending(status)}.", flush=True)
                return 1
            elif status == 0 and self.locations.are_served:
                outlast("Dagster cannot be started", self.dagster.start, None)
                self._follow()
        return 0

    def _create_instance(self) -> Process:
        return self.background.start(partial(create_instance, self.locations.sockets))

    def _wait(self) -> None:
        sys.stdout.flush()
        seconds = IDLE_STEP_SECONDS if self._announced else START_STEP_SECONDS
        if self.locations.is_waiting:
            seconds = STEP_SECONDS
        for key, _ in self.selector.select(timeout=seconds):
            key.data()

    def _look(self) -> bool:
        """Looks at what does not tell, now and then; False where Dagster's state has gone."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return True
        self._looked = time.monotonic()
        outlast, own = self._refusals.outlast, self.forkserver.pids
        outlast("What is left behind cannot be ended", partial(self.orphans.watch, own), None)
        outlast("The folder of results cannot be used", self.claims.keep_results, None)
        outlast("The temporary folder cannot be used", self._keep_sockets, None)
        return outlast("Dagster's state cannot be found", self.claims.is_state_there, True)

    def _keep_sockets(self) -> None:
        """Makes them anew where somebody has tidied them away among temporary files."""
        if self._socket.exists():
            return
        make_private(self.folder)
        before = self.control
        self.control = control.ControlServer(self._socket, self.selector, self._handle)
        before.close()
        self.locations.end_broker()
        print(f"The sockets in {self.folder} are gone; they have been made anew.", flush=True)

    def _handle(self, request: control.Request, caller: control.Caller) -> None:
        match request:
            case control.Run(run_id, location, command):
                if elsewhere := self.locations.elsewhere(location):
                    caller.answer(**elsewhere)
                    return
                interpreter = self.sources.interpreter(location)
                env = self.locations.environment(location, self.env)
                try:
                    caller.answer(pid=self.runs.start(run_id, command, env, interpreter))
                except OSError as error:
                    caller.answer(error=f"no process for the run: {error.strerror}")
            case control.Cancel(run_id):
                caller.answer(is_running=self.runs.cancel(run_id))
            case control.IsRunning(run_id):
                caller.answer(is_running=self.runs.is_running(run_id))
            case _:
                self.locations.handle(request, caller)

    def _publish(self) -> None:
        """Tells webserver and daemon of the locations."""
        self.dagster.write_workspace(self.locations.entries)

    def _follow(self) -> None:
        """Has Dagster's state follow products.yml; what has failed is tried again after a while."""
        if self._following and self._followed:
            if (status := self._following.poll()) is None:
                return
            if status:
                what = f"Following products.yml {ending(status)}"
                print(f"{what}. It is tried again in {FOLLOW_SECONDS:.0f} seconds.", flush=True)
                self._followed, self._follow_at = None, time.monotonic() + FOLLOW_SECONDS
        file = self.sources.file
        if file is not self._followed and time.monotonic() > self._follow_at:
            problem = "Dagster's state cannot follow products.yml"
            start = partial(self.background.start, partial(follow, file))
            if following := self._refusals.outlast(problem, start, None):
                self._following, self._followed = following, file

    def _announce(self) -> None:
        names = list(self.sources.names)
        is_new = names != self._announced
        if not is_new or not self.dagster.are_up:
            return
        if not self._following or self._following.poll() is None:
            return
        number = counted(len(names), "code location")
        if self._announced is None:
            broken = ", ".join(self.locations.broken)
            shown = f"; broken: {broken}" if broken else ""
            print(f"{self.dagster.description} {number}{shown}", flush=True)
        else:
            print(f"{number}: {', '.join(names)}", flush=True)
        self._announced = names

    def close(self) -> None:
        """Ends everything: runs first, so that they can say that they were interrupted."""
        self.control.close()
        self.locations.stop()
        for services, seconds in (
            (self.runs.services, GRACE_SECONDS / 2),
            ([*self.dagster.services, *self.locations.services], GRACE_SECONDS / 4),
        ):
            self._end(services, seconds)
        self.background.stop()

    def _end(self, services: Collection[Service], seconds: float) -> None:
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


def any_location() -> Definitions:
    """The definitions of a product as there are many; nobody has it."""
    return product_definitions(id="no such product", build_command="any")


def main() -> int:
    """Runs the supervisor; `up` starts it in a process of its own."""
    console.settle(waits=False)
    allow_open_files()
    settings = json.loads(sys.argv[1])
    selection = Selection(settings.pop("only"), settings.pop("owners"))
    # The name of a Unix socket has room for some hundred characters.
    short = "/tmp" if len(tempfile.gettempdir()) > 60 else None
    try:
        folder = Path(tempfile.mkdtemp(prefix="orchestration-", dir=short))
        try:
            supervisor = Supervisor(**settings, selection=selection, folder=folder)
            try:
                return supervisor.run()
            finally:
                supervisor.close()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OrchestrationError as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(explained(error), file=sys.stderr)
    return 1
