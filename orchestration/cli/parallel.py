"""Runs beside each other without a server, each in a process of its own.

Of Ctrl-C only this process hears, and cancels the runs as the UI would.
"""

import os
import selectors
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from orchestration.cli.forks import SIGNALS, Fork, Message, Tell
from orchestration.cli.runs import Display, Run, State
from orchestration.lifecycle.child import ending
from orchestration.processes import console


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
        console.stop_waiting()

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
                how = ending(fork.status)
                self._give_up(run, how)
                if self.cancelled_by:
                    self._settle(run, State.CANCELLED, "")
                else:
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
