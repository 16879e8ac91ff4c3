"""All code locations that are served, and the broker that answers for them."""

import itertools
import os
import selectors
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from orchestration.catalog.names import INGEST
from orchestration.code_servers.broker import SUBSCRIBERS, run_broker
from orchestration.code_servers.code_location import CodeLocation
from orchestration.code_servers.sources import Sources
from orchestration.code_servers.states import LocationState
from orchestration.lifecycle.child import ending
from orchestration.lifecycle.results import make_private
from orchestration.processes.control import (
    Caller,
    Follow,
    Frozen,
    Reload,
    Request,
    Served,
    Sleep,
    Wake,
)
from orchestration.processes.forkserver import Forkserver
from orchestration.processes.refusals import Refusals
from orchestration.processes.service import Service

# Less than the supervisor waits when nothing happens: each time it wakes then, this is due.
LOOK_SECONDS = 0.6
# How much longer than the others a location may take to load before nobody waits for it any more,
# and how long they take as long as none of them has loaded.
PATIENCE_SECONDS = 1.0
LIKELY_LOAD_SECONDS = 4.0
# How many load at once for each processor, those included that take long.
MOST_PER_PROCESSOR = 4
RETRY_SECONDS = 1.0


class CodeLocations:
    """A code location for each name of the sources, and their broker."""

    def __init__(
        self,
        *,
        sources: Sources,
        folder: Path,
        answers: Path,
        installation: str | None,
        forkserver: Forkserver,
        selector: selectors.BaseSelector,
        env: Mapping[str, str],
        on_change: Callable[[], None],
    ) -> None:
        """Their sockets lie in `folder`; `answers` is what stays from one start to the next,
        `installation` what all of them depend on, as a hash, where that is known.

        `on_change` is called whenever other locations than before are served.
        """
        self._sources, self._folder = sources, folder
        self._answers, self._installation = answers, installation
        self._forkserver, self._selector, self._env = forkserver, selector, env
        self._on_change = on_change
        self._numbers = itertools.count(1)
        self._locations: dict[str, CodeLocation] = {}
        self._elsewhere: dict[str, Served] = {}
        self._followed: object = None
        self._ending: list[CodeLocation] = []
        self._followers: list[Caller] = []
        self._broker: Service | None = None
        self._retry_at = 0.0
        self._refusals = Refusals()
        self._processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
        self._looked = time.monotonic()

    @property
    def entries(self) -> list[dict[str, object]]:
        """What Dagster's workspace file says of them."""
        return [
            {"grpc_server": {"location_name": name, "socket": socket}}
            for name, socket in self.sockets.items()
        ]

    @property
    def sockets(self) -> dict[str, str]:
        """Where Dagster asks for each, in their order."""
        own = {name: str(location.socket) for name, location in self._locations.items()}
        sockets = own | {name: served.socket for name, served in self._elsewhere.items()}
        return {name: sockets[name] for name in self._sources.names if name in sockets}

    def elsewhere(self, name: str) -> dict[str, str]:
        """Who serves a location that another host serves, and by which socket to reach it."""
        served = self._elsewhere.get(name)
        return {"elsewhere": served.elsewhere, "socket": served.socket} if served else {}

    def environment(self, name: str, env: Mapping[str, str]) -> Mapping[str, str]:
        """The variables of a process that runs what the location defines; others are in `env`."""
        location = self._locations.get(name)
        return location.environment(env) if location else env

    @property
    def services(self) -> list[Service]:
        """All processes there are for them."""
        locations = [*self._locations.values(), *self._ending]
        own = [self._broker] if self._broker else []
        return [*own, *(service for location in locations for service in location.services)]

    @property
    def are_served(self) -> bool:
        """Whether Dagster can ask for them, one after the other: the broker is faster."""
        return all(Path(socket).exists() for socket in list(self.sockets.values())[:1])

    @property
    def are_answered(self) -> bool:
        """Whether something is answered for each, be it that it is still loading."""
        return all(location.is_answered for location in self._locations.values())

    @property
    def subscribers(self) -> Path:
        """The broker's socket for those who want to know what is served."""
        return self._folder / SUBSCRIBERS

    @property
    def broken(self) -> list[str]:
        """Those that are broken."""
        return [location.name for location in self._locations.values() if location.problem]

    @property
    def is_waiting(self) -> bool:
        """Whether something has to be looked at that does not tell when it is there."""
        return any(location.is_waking for location in self._locations.values())

    def start(self) -> None:
        """Starts the broker, and loads all locations of which nothing is kept that still holds."""
        make_private(self._answers)
        self._follow_names()
        self._start_broker()
        self._clean_answers()
        for location in self._locations.values():
            location.take_kept()
        self._start_loading()

    def _clean_answers(self) -> None:
        """Removes what is kept of locations that there are no more, and what a crash has left."""
        names = {INGEST, *(product.slug for product in self._sources.file.products)}
        for path in self._answers.iterdir():
            if path.stem not in names or path.name.startswith("."):
                path.unlink()

    def _start_broker(self) -> None:
        folder = self._folder
        try:
            self._broker = Service(
                "broker",
                lambda output: self._forkserver.call(
                    lambda: run_broker(folder), env=self._env, output=output
                ),
                self._env,
                self._selector,
            )
        except OSError as error:
            self._retry_at = time.monotonic() + RETRY_SECONDS
            print(f"The broker cannot be started yet: {error.strerror}", flush=True)

    def _follow_names(self) -> None:
        """Begins with new locations, and ends removed ones.

        Raises OSError, and leaves all as it was, where that cannot be written down.
        """
        elsewhere = {n: str(a) for n, a in self._sources.elsewhere.items()}
        listening = {n: str(a) for n, a in self._sources.listening.items()}
        names = list(self._sources.names)
        if self._followed == (followed := (names, elsewhere, listening)):
            return
        before, others = self._locations, self._elsewhere
        wanted = {name: listening.get(name, "") for name in names if name not in elsewhere}
        kept = {name: each for name, each in before.items() if wanted.get(name) == each.address}
        self._locations = {n: kept.get(n) or self._new(n, address) for n, address in wanted.items()}
        self._elsewhere = {
            name: others[name]
            if name in others and others[name].elsewhere == elsewhere[name]
            else Served(name, str(self._new_path()), "", "", elsewhere=elsewhere[name])
            for name in names
            if name in elsewhere
        }
        try:
            self._on_change()
        except OSError:
            self._locations, self._elsewhere = before, others
            raise
        self._followed = followed
        for name, location in before.items():
            if name not in kept:
                location.end()
                self._ending.append(location)
        for name in others.keys() - self._elsewhere.keys():
            self._publish(Served(name, "", "", ""))
        for name, location in self._locations.items():
            if name not in kept:
                self._publish(location.served)
        for name, served in self._elsewhere.items():
            if served is not others.get(name):
                self._publish(served)

    def _new_path(self) -> Path:
        # A number, since a socket's name has to be short.
        return self._folder / f"{next(self._numbers)}.sock"

    def _new(self, name: str, address: str) -> CodeLocation:
        return CodeLocation(
            name,
            path=self._new_path().with_suffix(""),
            answers=self._answers / f"{name}.zip",
            installation=self._installation,
            address=address,
            forkserver=self._forkserver,
            selector=self._selector,
            env=self._env,
            files_state=lambda: (
                self._sources.files.state_of(name),
                self._forkserver.own_files,
            ),
            memory_limit=lambda: self._sources.memory_limit(name),
            interpreter=lambda: self._sources.interpreter(name),
            has_definitions=lambda: self._sources.has_definitions(name),
            publish=self._publish,
        )

    def _publish(self, served: Served) -> None:
        self._followers = [follower for follower in self._followers if follower.tell([served])]

    def handle(self, request: Request, caller: Caller) -> None:
        """Does what is asked about a location, and answers."""
        match request:
            case Follow():
                served = [location.served for location in self._locations.values()]
                if caller.tell([*served, *self._elsewhere.values()]):
                    self._followers.append(caller)
            case Reload(name) | Wake(name) | Sleep(name) | Frozen(name):
                if not (location := self._locations.get(name)):
                    caller.answer(error=f"{name} is served no more")
                elif isinstance(request, Reload):
                    location.load(caller)
                elif isinstance(request, Wake):
                    location.wake(caller)
                else:
                    location.sleep() if isinstance(request, Sleep) else location.end_frozen()
                    caller.answer()
            case _:
                caller.answer(error=f"not understood: {request}")

    def watch(self) -> None:
        """Follows the files, and takes the next step with each; to be called again and again."""
        now = time.monotonic()
        if now - self._looked > LOOK_SECONDS:
            self._looked = now
            self._load_changed()
        for location in [*self._locations.values(), *self._ending]:
            problem = f"{location.name} cannot be looked after"
            self._refusals.outlast(problem, location.watch, None)
        self._ending = [location for location in self._ending if location.services]
        self._start_loading()
        self._watch_broker()

    def _load_changed(self) -> None:
        changed = self._sources.watch()
        before = set(self._locations)
        problem = "What is served cannot be changed"
        self._refusals.outlast(problem, self._follow_names, None)
        for name in changed & before & set(self._locations):
            print(f"[{name}] reloading", flush=True)
            self._locations[name].load()

    def _start_loading(self) -> None:
        """Starts loading those whose turn it is, and tells who waits for the slow ones."""
        locations = self._locations.values()
        loading = [each for each in locations if each.state is LocationState.LOADING]
        if not loading:
            return
        usual = max(
            (each.load_seconds for each in locations if each.load_seconds is not None),
            default=LIKELY_LOAD_SECONDS,
        )
        patience = usual + PATIENCE_SECONDS
        ages = [age for each in loading if (age := each.loading_seconds) is not None]
        # One that takes long may be waiting for something.
        free = min(
            self._processors - sum(age < patience for age in ages),
            MOST_PER_PROCESSOR * self._processors - len(ages),
        )
        for location in loading:
            if free > 0 and location.is_waiting:
                location.start_loading()
                free -= 1
            if not location.is_answered and (location.loading_seconds or 0.0) > patience:
                problem = "What is still loading cannot be told of"
                self._refusals.outlast(problem, location.tell_provisionally, None)

    def end_broker(self) -> None:
        """Ends the broker; the next one begins with new sockets."""
        if self._broker:
            self._broker.process.kill()

    def _watch_broker(self) -> None:
        now = time.monotonic()
        if self._broker and (status := self._broker.process.poll()) is not None:
            self._broker.drain()
            for location in self._locations.values():
                location.lose_callers()
            print(f"The broker {ending(status)}; starting it again", flush=True)
            quick = self._broker.age < RETRY_SECONDS
            self._broker, self._retry_at = None, now + (RETRY_SECONDS if quick else 0.0)
        if not self._broker and now >= self._retry_at:
            self._start_broker()

    def stop(self) -> None:
        """Begins to end all of it."""
        for location in self._locations.values():
            location.end()
        for follower in self._followers:
            follower.hang_up()
