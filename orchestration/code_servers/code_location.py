"""A code location's life: loaded, asleep, woken when its code is needed, loaded anew, ended."""

import os
import selectors
import signal
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from pathlib import Path

from orchestration.code_servers.answers import Answers, kept_answers, read_answers, write_answers
from orchestration.code_servers.code_server import command, takes_requests
from orchestration.code_servers.loader import check, load
from orchestration.code_servers.memory import SERVER_MB, limit_memory
from orchestration.code_servers.states import NEXT, LocationState
from orchestration.definitions.interpreter import Interpreter
from orchestration.definitions.team import GIVEN_UP, LOAD_SECONDS
from orchestration.lifecycle.child import ending
from orchestration.processes.control import Caller, Served
from orchestration.processes.dagster_internals import broken_answers
from orchestration.processes.forkserver import Forkserver, Process
from orchestration.processes.service import Service

# What it takes as a rule, of one that was not loaded but kept.
KEPT_LOAD_SECONDS = 1.0
# After the system has refused a process.
RETRY_SECONDS = 2.0
# What a code server that is not needed any more has for finishing what it was asked.
RETIREMENT_SECONDS = 20.0
# What the UI shows of a location's output where that is broken.
MAX_TAIL = 30_000
# What it shows of why a team's definitions were given up.
MAX_REASON = 500
STILL_LOADING = "It is still loading."


class CodeLocation:
    """One location, over all its processes.

    `path` is where its sockets lie, without a suffix, `answers` where its answers are kept,
    `installation` what those of every location depend on, as a hash, where that is known,
    `address` the host and port where other hosts ask for it, empty where none does;
    `files_state` tells what the files that it is loaded from look like, `memory_limit` how many MB
    it may take, `interpreter` its own, if it has one, `has_definitions` whether its team defines
    something, without which it is loaded where it cannot be with it; `publish` tells those who
    follow what is served.
    """

    def __init__(
        self,
        name: str,
        *,
        path: Path,
        answers: Path,
        installation: str | None,
        address: str,
        forkserver: Forkserver,
        selector: selectors.BaseSelector,
        env: Mapping[str, str],
        files_state: Callable[[], Hashable],
        memory_limit: Callable[[], int | None],
        interpreter: Callable[[], Interpreter | None],
        has_definitions: Callable[[], bool],
        publish: Callable[[Served], None],
    ) -> None:
        self.name = name
        self.state = LocationState.LOADING
        self.load_seconds: float | None = None
        """How long it took to load; None as long as it has not."""
        self._path, self._answers_path, self.address = path, answers, address
        self.socket = path.with_suffix(".sock")
        """Where Dagster asks for it."""
        self._forkserver, self._selector = forkserver, selector
        # To serve definitions it needs no instance, and opening one takes time and 14 MB.
        self._env = {name: value for name, value in env.items() if name != "DAGSTER_HOME"}
        self._common = installation
        self._files_state, self._memory_limit = files_state, memory_limit
        self._interpreter, self._has_definitions = interpreter, has_definitions
        self._publish = publish
        self._given_up = self._giving_up = ""
        self._loaded_from: Hashable = None
        self._answers: Answers | None = None
        self._is_provisional = False
        self._loader: Service | None = None
        self._retry_at = 0.0
        self._server: Service | None = None
        self._server_socket = path
        self._servers = 0
        self._is_known = self._is_serving = False
        self._checker: Process | None = None
        self._retired: list[tuple[Service, float]] = []
        self._reloading: list[Caller] = []
        self._waking: list[Caller] = []

    @property
    def served(self) -> Served:
        """What those are told who follow."""
        if self.state is LocationState.ENDING:
            return Served(self.name, "", "", "")
        known = self._answers
        if not known:
            path = self._provisional_path if self._is_provisional else ""
            return Served(self.name, str(self.socket), str(path), "", self.address)
        return Served(
            self.name,
            str(self.socket),
            str(known.path),
            known.id,
            self.address,
            is_broken=known.problem is not None,
        )

    @property
    def problem(self) -> str | None:
        """Why it is broken, if it is."""
        return self._answers.problem if self._answers else None

    @property
    def is_answered(self) -> bool:
        """Whether something is answered for it, be it that it is still loading."""
        return self._answers is not None or self._is_provisional

    @property
    def services(self) -> list[Service]:
        """All processes there are for it now."""
        retired = [service for service, _ in self._retired]
        return [s for s in (self._loader, self._server, *retired) if s is not None]

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for a process to load it."""
        is_due = self.state is LocationState.LOADING and not self._loader
        return is_due and time.monotonic() >= self._retry_at

    @property
    def loading_seconds(self) -> float | None:
        """For how long a process has been loading it; None where none is."""
        return self._loader.age if self._loader else None

    @property
    def is_waking(self) -> bool:
        """Whether its code server is starting."""
        return self._server is not None and not self._is_serving

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """The variables of a process that serves it, or runs what it defines; others are in `env`.

        They are its interpreter's, where it has one for itself; and they say whether what is served
        is without its team's definitions, which were given up.
        """
        interpreter = self._interpreter()
        known = interpreter.environment(env) if interpreter else dict(env)
        return known | {GIVEN_UP: self._given_up}

    # Transitions

    def _enter(self, state: LocationState) -> None:
        assert state in NEXT[self.state], f"{self.name}: {self.state} is not followed by {state}"
        self.state = state

    def load(self, caller: Caller | None = None) -> None:
        """Loads it afresh; what was known of it is served until that is done."""
        if caller:
            self._reloading.append(caller)
        self._enter(LocationState.LOADING)
        self._stop_loading()
        self._retry_at, self._giving_up = 0.0, ""

    def take_kept(self) -> None:
        """Serves what it was served with before, where it would load the same now."""
        loaded_from = self._files_state()
        if kept := self._kept():
            self._loaded_from, self.load_seconds = loaded_from, KEPT_LOAD_SECONDS
            with suppress(FileNotFoundError):
                for line in self._log_path.read_text("utf-8", "replace").splitlines():
                    print(f"[{self.name}] {line}")
            self.take(kept)

    def _kept(self) -> Answers | None:
        """Its answers on disk, where its code would give the same now, as far as can be known."""
        installation = self._installation
        if not installation or self._interpreter():
            return None
        return kept_answers(self._answers_path, self.environment(self._env), installation)

    @property
    def _installation(self) -> str | None:
        return self._common and f"{self._common} {self._memory_limit()}"

    @property
    def _log_path(self) -> Path:
        return self._answers_path.with_suffix(".log")

    def start_loading(self) -> None:
        """Starts the process that loads it."""
        self._loaded_from = self._files_state()
        target, limit, installation = self._answers_path, self._memory_limit(), self._installation
        interpreter, socket = self._interpreter(), self._path.with_suffix(".loading")
        env = self.environment(self._env) | {GIVEN_UP: self._giving_up}

        def work() -> None:
            self._forkserver.forget_stale_modules()
            load(self.name, target, socket, limit, installation, interpreter)

        try:
            self._loader = Service(
                self.name,
                lambda output: self._forkserver.call(
                    work,
                    env=env,
                    output=output,
                    is_expendable=True,
                    has_session=True,
                ),
                env,
                self._selector,
            )
        except OSError as error:
            self._retry_at = time.monotonic() + RETRY_SECONDS
            print(f"[{self.name}] it cannot be loaded yet: {error.strerror}", flush=True)

    @property
    def _provisional_path(self) -> Path:
        return self._path.with_suffix(".provisional")

    def take(self, answers: Answers) -> None:
        """Serves these answers from now on; its code server is one of before."""
        self._answers, self._given_up = answers, self._giving_up
        self._enter(LocationState.BROKEN if answers.problem else LocationState.ASLEEP)
        self._retire_server()
        self._publish(self.served)
        for caller in self._reloading:
            caller.answer()
        self._reloading.clear()
        if not self._waking:
            return
        if answers.problem:
            self._refuse_to_wake(f"{self.name} is broken: {answers.problem}")
        else:
            self._start_server(is_known=True)

    def tell_provisionally(self) -> None:
        """Has those who wait for it told that it is still loading."""
        write_answers(self._provisional_path, broken_answers(STILL_LOADING), STILL_LOADING)
        self._is_provisional = True
        self._publish(self.served)

    def wake(self, caller: Caller) -> None:
        """Has its code server serve; the caller is told where."""
        if self._server:
            # It may have ended this moment.
            self._watch_server(self._server)
        if self.state is LocationState.BROKEN:
            caller.answer(error=f"{self.name} is broken: {self.problem}")
            return
        if self._is_serving:
            caller.answer(socket=str(self._server_socket))
            return
        self._waking.append(caller)
        if self.state is LocationState.ASLEEP:
            if self._files_state() == self._loaded_from and (self._interpreter() or self._kept()):
                self._start_server(is_known=not self._interpreter())
            else:
                # Its code may give others now, and half of each is never served.
                self.load()

    def sleep(self) -> None:
        """Ends its code server, which nobody needs."""
        if self.state is LocationState.AWAKE:
            self._enter(LocationState.ASLEEP)
            self._retire_server()

    def lose_callers(self) -> None:
        """Goes to sleep where the broker has ended, which would have said when to."""
        self._refuse_to_wake("the broker has ended")
        self.sleep()

    def end_frozen(self) -> None:
        """Ends its code server, which does not answer any more."""
        if self._server:
            print(f"[{self.name}] its code server was frozen, and is ended", flush=True)
            self._server.process.kill()

    def end(self) -> None:
        """Ends it for good."""
        self._enter(LocationState.ENDING)
        self._stop_loading()
        self._retire_server()
        self._publish(self.served)
        for caller in self._reloading:
            caller.answer()
        self._refuse_to_wake(f"{self.name} is served no more")

    # Processes

    def watch(self) -> None:
        """Takes the next step, if there is one; to be called again and again."""
        for retired in list(self._retired):
            service, end = retired
            if service.process.poll() is not None:
                self._retired.remove(retired)
                _end_session(service)
            elif time.monotonic() > end:
                service.process.kill()
        if self._loader:
            self._watch_loader(self._loader)
        if self._server:
            self._watch_server(self._server)

    def _watch_loader(self, loader: Service) -> None:
        status = loader.process.poll()
        if status is None:
            if loader.age > LOAD_SECONDS:
                self._stop_loading()
                self._take_failure(loader, f"It did not load within {LOAD_SECONDS} seconds")
            return
        self._loader = None
        _end_session(loader)
        if status:
            self._take_failure(loader, f"Its process {ending(status)} while loading")
            return
        self.load_seconds = loader.age
        loader.drain()
        try:
            # Whoever starts from what is kept is to read it, too.
            if loader.tail:
                self._log_path.write_text(loader.tail, encoding="utf-8")
            else:
                self._log_path.unlink(missing_ok=True)
            answers = read_answers(self._answers_path)
        except OSError as error:
            self._take_failure(loader, f"What it would answer cannot be read: {error}")
            return
        problem = answers.problem
        if not (problem and self._give_up_definitions(_last_line(loader) or problem)):
            self.take(answers)

    def _give_up_definitions(self, why: str) -> bool:
        """Has it loaded once more without what its team defines, if it was not."""
        if self._giving_up or not self._has_definitions():
            return False
        self._giving_up = why[:MAX_REASON]
        return True

    def _take_failure(self, loader: Service, what: str) -> None:
        loader.drain()
        print(f"[{self.name}] {what}", flush=True)
        if self._give_up_definitions(": ".join(filter(None, [what, _last_line(loader)]))):
            return
        tail = _tail(loader)[-MAX_TAIL:]
        problem = f"{what}. The end of its output:\n{tail or '(nothing)'}"
        try:
            self.take(write_answers(self._answers_path, broken_answers(problem), problem))
        except OSError as error:
            self._retry_at = time.monotonic() + RETRY_SECONDS
            print(f"[{self.name}] that cannot be written down: {error.strerror}", flush=True)

    def _stop_loading(self) -> None:
        # Not gently: SIGTERM would be an exception in whatever is just being imported, which may
        # well swallow it.
        if self._loader:
            self._loader.process.kill()
            _end_session(self._loader)
            self._retired.append((self._loader, time.monotonic() + RETIREMENT_SECONDS))
            self._loader = None

    def _start_server(self, *, is_known: bool) -> None:
        """Starts its code server; `is_known` is whether that answers as what is served."""
        self._is_known = is_known
        # Each its own: a server that ends removes its socket.
        self._servers += 1
        self._server_socket = self._path.with_suffix(f".{self._servers}.sock")
        interpreter, env = self._interpreter(), self.environment(self._env)
        try:
            self._server = Service(
                self.name,
                lambda output: self._forkserver.start(
                    command(self.name, self._server_socket),
                    interpreter=interpreter.path if interpreter else None,
                    env=env,
                    output=output,
                    prepare=self._limit_memory,
                    is_expendable=True,
                    has_session=True,
                ),
                env,
                self._selector,
            )
        except OSError as error:
            self._refuse_to_wake(f"no process for {self.name}: {error.strerror}")
            return
        self._is_serving = False
        self._enter(LocationState.AWAKE)

    def _limit_memory(self) -> None:
        if limit := self._memory_limit():
            limit_memory(limit + SERVER_MB)

    def _watch_server(self, server: Service) -> None:
        status = server.process.poll()
        if status is not None:
            _end_session(server)
            server.drain()
            # Before it is said, so that whoever reads that finds it so.
            self._publish(self.served)
            print(f"[{self.name}] its code server {ending(status)}", flush=True)
            self._lose_server(f"The code server of {self.name} {ending(status)}.")
        elif self._is_serving:
            return
        elif server.age > LOAD_SECONDS:
            server.process.kill()
        elif takes_requests(self._server_socket):
            self._serve() if self._is_known else self._check()

    def _check(self) -> None:
        """Has it asked whether it answers as before: not all of its files are known."""
        if not self._checker:
            name, path, expected = self.name, self._server_socket, self.served.id
            try:
                self._checker = self._forkserver.call(
                    lambda: check(name, path, expected), env=self._env, output=sys.stdout.fileno()
                )
            except OSError as error:
                self._refuse_to_wake(f"no process for {self.name}: {error.strerror}")
        elif (status := self._checker.poll()) is not None:
            self._checker = None
            if status == 0:
                self._serve()
            else:
                # It would only be asked again, while another is loaded.
                self._retire_server()
                self.load()

    def _serve(self) -> None:
        self._is_serving = True
        for caller in self._waking:
            caller.answer(socket=str(self._server_socket))
        self._waking.clear()

    def _lose_server(self, why: str) -> None:
        has_served, self._server, self._is_serving = self._is_serving, None, False
        self._checker = None
        if self.state is LocationState.AWAKE:
            self._enter(LocationState.ASLEEP)
            if not has_served:
                # Something has changed that cannot be seen in the files.
                self._refuse_to_wake(why)
                self.load()

    def _retire_server(self) -> None:
        if self._server:
            self._server.process.terminate()
            self._retired.append((self._server, time.monotonic() + RETIREMENT_SECONDS))
        self._server, self._is_serving = None, False
        self._checker = None

    def _refuse_to_wake(self, why: str) -> None:
        for caller in self._waking:
            caller.answer(error=why)
        self._waking.clear()


def _tail(loader: Service) -> str:
    # Neither a message nor a variable can have that.
    return loader.tail.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _last_line(loader: Service) -> str:
    return _tail(loader).strip().rpartition("\n")[2]


def _end_session(service: Service) -> None:
    """Ends what a process has left behind that had a session of its own."""
    assert service.process.pid
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(service.process.pid, signal.SIGKILL)
