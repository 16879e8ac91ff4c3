"""What a person, or a log, sees of runs that are executed here."""

import re
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self, TextIO

from orchestration import counted
from orchestration.cli.forks import PRINTED, Message
from orchestration.cli.runs import Run, State

# How the part of a step's output begins that says why it failed.
FAILURE = re.compile(r"Traceback \(most recent call last\)|(Product|Template) '[^']*'(, \w+)?: ")
STYLES = {
    State.SUCCEEDED: "green",
    State.FAILED: "bold red",
    State.CANCELLED: "yellow",
    State.NOT_STARTED: "yellow",
}


class Progress:
    """Lines of what the runs do; at a terminal with colours, and what is going on below them."""

    def __init__(self, runs: Sequence[Run], out: TextIO, *, verbose: bool) -> None:
        self._runs, self._out, self._verbose = runs, out, verbose
        self._live: _Live | None = None
        self._held: dict[str, list[str]] = {}

    def __enter__(self) -> Self:
        if self._out.isatty():
            self._live = _Live(self._runs, self._out)
            self._live.__enter__()
            # What goes on already, where it was interrupted to ask something.
            self._live.update()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._live:
            self._live.__exit__(*exception)
            self._live = None

    def note(self, text: str) -> None:
        """A word on all runs, at a terminal, as long as they go on."""
        if self._live:
            self._live.note(text)

    def show(self, run: Run, message: Message) -> None:
        """A line, or several, on what a run has told."""
        match message:
            case {"run": run_id}:
                self._line(f"{run.selection.name} for {run.partition} is run {run_id}", "dim")
            case {"waits": why}:
                self._line(f"{run.selection.name} waits. {why}", "yellow")
            case {"began": asset}:
                self._line(f"{asset} …", "bold")
            case {"output": text}:
                self._output(run, text)
            case {"done": asset, "seconds": seconds}:
                self._release(run)
                self._line(f"{asset} succeeded in {seconds:.1f} s", "green")
            case {"failed for now": asset}:
                self._release(run)
                self._line(f"{asset} failed, and will be tried again.", "yellow")
            case {"interrupted": asset}:
                self._line(f"{asset} was interrupted, and what it had started was ended.", "yellow")
            case {"failed": asset}:
                if self._verbose:
                    self._release(run)
                if len(self._runs) > 1:
                    self._line(f"{asset} failed.", "bold red")
            case {"ended": "cancelled"} if not run.asset:
                self._line(f"{run.selection.name} was cancelled before it had begun.", "yellow")
            case {"ended": "not started"} if len(self._runs) > 1:
                self._line(f"{run.selection.name}: {run.state.value}", STYLES[run.state])
            case _ if PRINTED in message:
                self._line(f"    {message[PRINTED]}", "dim")
        if self._live:
            self._live.update()

    def _output(self, run: Run, text: str) -> None:
        # The sentence that a step fails with comes at the end. Its traceback is in its log, and
        # here only where somebody asked for it. What a build command prints is its own.
        held = self._held.get(run.id)
        for line in text.split("\n"):
            if held is None and FAILURE.match(line) and not run.asset.endswith("/build"):
                held = self._held.setdefault(run.id, [])
            if held is None:
                self._line(self._indented(run, line), "dim")
            else:
                held.append(line)

    def _release(self, run: Run) -> None:
        for line in self._held.pop(run.id, ()):
            self._line(self._indented(run, line), "dim")

    def _indented(self, run: Run, line: str) -> str:
        return f"    {run.asset}: {line}" if len(self._runs) > 1 else f"    {line}"

    def _line(self, text: str, style: str) -> None:
        if self._live:
            self._live.line(text, style)
        else:
            print(text, file=self._out, flush=True)

    def summary(self) -> None:
        """How it all ended: where the results are, and last why what did not succeed did not."""
        for run in self._runs:
            if run.results and run.state is State.SUCCEEDED:
                _styled(_result_of(run), "", self._out)
        for run in self._runs:
            if run.error:
                # What could not be run at all is an error of the command's, not of the run's.
                out = self._out if run.asset else sys.stderr
                _styled(_failure_of(run, verbose=self._verbose), "red", out)
        states = [run.state for run in self._runs]
        if all(state is State.SUCCEEDED for state in states):
            _styled("Succeeded.", "bold green", self._out)
        elif len(states) > 1:
            counts = {state: states.count(state) for state in State if state in states}
            listed = ", ".join(f"{count} {state.value}" for state, count in counts.items())
            _styled(f"Of {counted(len(states), 'run')}: {listed}.", "bold red", self._out)


def _styled(text: str, style: str, out: TextIO) -> None:
    if out.isatty():
        from rich.console import Console
        from rich.text import Text

        Console(file=out).print(Text(text, style), soft_wrap=True)
    else:
        print(text, file=out, flush=True)


def _failure_of(run: Run, *, verbose: bool) -> str:
    what = f"{run.asset or run.selection.name} {run.state.value}."
    log = f" Its log: {_short(run.log)}" if run.log else ""
    return f"{what} {run.error if verbose else run.sentence}{log}"


def _result_of(run: Run) -> str:
    [*_, last] = [each for each in run.results if "path" in each] or run.results
    rows = f", {counted(last['rows'], 'row')}" if "rows" in last else ""
    where = f": {_short(last['path'])}" if "path" in last else ""
    return f"{last['materialized']}{where}{rows}"


def _short(path: str) -> str:
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path


class _Live(AbstractContextManager["_Live"]):
    """Below the lines, what runs now and for how long, and what waits."""

    def __init__(self, runs: Sequence[Run], out: TextIO) -> None:
        from rich.console import Console
        from rich.progress import Progress as Bars
        from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

        self._runs = runs
        self._bars = Bars(
            SpinnerColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=Console(file=out),
            transient=True,
        )
        # Not by the run's id: a server that launches it gives it another.
        self._tasks = [self._bars.add_task("", start=False, visible=False) for _ in runs]
        self._waiting = self._bars.add_task("", start=False, visible=False)
        self._note = self._bars.add_task("", start=False, visible=False)

    def __enter__(self) -> "_Live":
        self._bars.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._bars.stop()

    def line(self, text: str, style: str) -> None:
        from rich.text import Text

        self._bars.console.print(Text(text, style), soft_wrap=True)

    def note(self, text: str) -> None:
        self._bars.update(self._note, description=text, visible=True)

    def update(self) -> None:
        for run, task in zip(self._runs, self._tasks, strict=True):
            if run.state is State.RUNNING and not self._bars.tasks[task].started:
                self._bars.start_task(task)
                self._bars.tasks[task].start_time = run.began
            self._bars.update(
                task,
                description=run.asset or run.selection.name,
                visible=run.state is State.RUNNING,
            )
        waiting = sum(run.state is State.WAITING for run in self._runs)
        self._bars.update(self._waiting, description=f"{waiting} waiting", visible=waiting > 0)
