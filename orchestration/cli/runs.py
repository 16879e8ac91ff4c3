"""Runs beside each other without a server: which can start, how far each is, how all of it ends.

Each is a process of its own. Of Ctrl-C only this process hears, and cancels the runs as the UI
would.
"""

import os
import selectors
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from orchestration import OrchestrationError
from orchestration.catalog.names import INGEST
from orchestration.catalog.partition_keys import check_key, read_build_key
from orchestration.cli.forks import SIGNALS, Fork, Message, Tell
from orchestration.cli.selection import Catalog, Selection


class State(Enum):
    """What has become of a run."""

    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    NOT_STARTED = "not started"


@dataclass
class Run:
    """One run, and how far it is."""

    selection: Selection
    partition: str
    config: Mapping[str, Any] = field(default_factory=dict)
    after: Sequence["Run"] = ()
    """The runs that have to succeed before it can start."""
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    state: State = State.WAITING
    began: float = 0.0
    seconds: float = 0.0
    asset: str = ""
    """What it materializes now, or at the end."""
    error: str = ""
    """Why it has not succeeded."""
    log: str | None = None
    """The log of what failed."""
    results: list[Message] = field(default_factory=list)
    """Of each asset that it materialized: `asset`, and `path` and `rows` where there are any."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more becomes of it."""
        return self.state not in (State.WAITING, State.RUNNING)

    @property
    def is_due(self) -> bool:
        """Whether what it comes after is there."""
        return all(run.state is State.SUCCEEDED for run in self.after)

    @property
    def unreachable(self) -> str:
        """Why it will never be due, if so."""
        lost = [run for run in self.after if run.has_ended and run.state is not State.SUCCEEDED]
        return f"It needs {', '.join(run.selection.name for run in lost)}." if lost else ""

    def check_partition(self) -> None:
        """Raises PartitionKeyError where the partition key cannot be one of such a run."""
        (check_key if self.selection.location == INGEST else read_build_key)(self.partition)

    def take(self, message: Message) -> None:
        """Notes what follows from what it has told."""
        match message:
            case {"began": asset}:
                self.asset = asset
            case {"materialized": _}:
                self.results.append(message)
            case {"failed": _, "error": error, "log": log}:
                self.error, self.log = self.error or error, self.log or log

    @property
    def sentence(self) -> str:
        """Why it has not succeeded, without what was printed and raised below that."""
        return self.error.split("\n\n")[0].partition(" Its last output:\n")[0]

    def described(self) -> dict[str, Any]:
        """How it went, as a program reads it."""
        return {
            "selection": self.selection.name,
            "partition": self.partition,
            "run_id": self.id,
            "state": self.state.value,
            "seconds": round(self.seconds, 3),
            "error": self.sentence or None,
            "log": self.log,
            "results": [
                {
                    "asset": result["materialized"],
                    "path": result.get("path"),
                    "rows": result.get("rows"),
                }
                for result in self.results
            ],
        }


def check_options(config: Mapping[str, Any], known: Set[str]) -> None:
    """Raises OrchestrationError for an option in `config` that none of the assets has."""
    if unknown := sorted(set(config) - known):
        raise OrchestrationError(
            f"There is no option {', '.join(unknown)} in the config of what is selected. "
            f"Its options: {', '.join(sorted(known)) or 'none'}."
        )


def selected_runs(
    catalog: Catalog,
    *,
    selection: Sequence[str],
    partition: str,
    everything: bool,
    owner: Sequence[str],
    group: Sequence[str],
    config: Mapping[str, Any] | None,
    push: bool,
    latest: bool,
) -> list[Run]:
    """A run for each thing that is selected; one that takes in what another makes comes after it.

    The arguments are those of `options.selecting`. Raises OrchestrationError for what cannot be.
    """
    # An interpreter of a location's own executes runs, too, and may have an older click.
    from orchestration.cli.options import with_storage

    selections = catalog.choose(selection, everything=everything, owners=owner, groups=group)
    options = with_storage(config or {}, push=push, latest=latest)
    runs: list[Run] = []
    ingesting: dict[str, Run] = {}
    for each in selections:
        run = Run(each, partition, options)
        runs.append(run)
        if each.location == INGEST:
            ingesting[each.assets[0]] = run
    for run in runs:
        upstream = catalog.upstream(run.selection) if ingesting else set()
        run.after = [ingesting[name] for name in sorted(upstream & set(ingesting))]
        run.check_partition()
    return runs


class Display(Protocol):
    """Shows somebody what the runs do."""

    def show(self, run: Run, message: Message) -> None:
        """A run has told something; what follows from it is in `run` already."""

    def note(self, text: str) -> None:
        """A word on all of them."""


class Runs:
    """Executes runs, at most `jobs` of them at the same time.

    `work` does one in a process of its own. `cancel` is called with the runs that go on when
    somebody presses Ctrl-C, `give_up` with one whose process ended without a word, and how.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        *,
        jobs: int,
        display: Display,
        work: Callable[[Run, Tell], None],
        cancel: Callable[[Sequence[Run]], None],
        give_up: Callable[[Run, str], None],
    ) -> None:
        self.runs = runs
        self.cancelled_by: signal.Signals | None = None
        self._jobs, self._display = jobs, display
        self._work, self._cancel, self._give_up = work, cancel, give_up
        self._forks: dict[Fork, Run] = {}
        self._selector = selectors.DefaultSelector()

    def execute(self) -> None:
        """Returns once all of them have ended, or will not be started."""
        is_cancelled = False
        with self._selector, self._signals():
            while not all(run.has_ended for run in self.runs):
                if self.cancelled_by and not is_cancelled:
                    is_cancelled = True
                    self._cancel_all()
                self._start()
                for key, _ in self._selector.select(timeout=0.5 if self._forks else 0):
                    key.data()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        self._selector.register(wake_read, selectors.EVENT_READ, lambda: os.read(wake_read, 4096))
        before = {
            number: signal.signal(number, self._note_signal)
            for number in SIGNALS
            # Ignored is what nohup has it.
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        wakeup_before = signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(wake_read)
            os.close(wake_write)

    def _note_signal(self, number: int, _: object) -> None:
        self.cancelled_by = self.cancelled_by or signal.Signals(number)

    def _start(self) -> None:
        for run in self.runs:
            if run.state is not State.WAITING:
                continue
            if why := run.unreachable:
                self._settle(run, State.NOT_STARTED, why)
            elif len(self._forks) < self._jobs and run.is_due:
                run.state, run.began = State.RUNNING, time.monotonic()
                fork = Fork(lambda tell, run=run: self._work(run, tell))  # type: ignore[misc]
                self._forks[fork] = run
                self._selector.register(
                    fork, selectors.EVENT_READ, lambda fork=fork: self._read(fork)
                )

    def _read(self, fork: Fork) -> None:
        run = self._forks[fork]
        for message in fork.read():
            self._take(run, message)
        if fork.status is not None:
            self._selector.unregister(fork)
            del self._forks[fork]
            if not run.has_ended:
                how = f"ended with exit code {fork.status}"
                if fork.status < 0:
                    how = f"was ended by {signal.Signals(-fork.status).name}"
                self._give_up(run, how)
                self._settle(run, State.FAILED, run.error or f"Its process {how}.")

    def _take(self, run: Run, message: Message) -> None:
        run.seconds = time.monotonic() - run.began
        if "ended" in message:
            self._settle(run, State(message["ended"]), run.error or message.get("error", ""))
        else:
            run.take(message)
            self._display.show(run, message)

    def _settle(self, run: Run, state: State, error: str) -> None:
        run.state, run.error = state, error
        self._display.show(run, {"ended": state.value})

    def _cancel_all(self) -> None:
        for run in self.runs:
            if run.state is State.WAITING:
                self._settle(run, State.NOT_STARTED, "")
        self._display.note("Cancelling …")
        self._cancel(list(self._forks.values()))
        for fork in self._forks:
            fork.interrupt()
