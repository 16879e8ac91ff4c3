"""Runs that a command has asked for: what is selected, how far each is, what came of it.

They are executed here (`parallel`, each by a `run_process`), or by a running `up`
(`launched_runs`).
"""

import uuid
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from orchestration import OrchestrationError
from orchestration.catalog.names import INGEST
from orchestration.catalog.partition_keys import check_key, read_build_key
from orchestration.cli.forks import Message
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

    if not (selection or everything or owner or group) and _is_selection(catalog, partition):
        key = "20260101" if partition.startswith(f"{INGEST}/") else "main"
        raise OrchestrationError(
            f"The partition is missing. Write it after what is selected: {partition} {key}"
        )
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


def _is_selection(catalog: Catalog, text: str) -> bool:
    try:
        catalog.select(text)
    except OrchestrationError:
        return False
    return True


class Display(Protocol):
    """Shows somebody what the runs do."""

    def show(self, run: Run, message: Message) -> None:
        """A run has told something; what follows from it is in `run` already."""

    def note(self, text: str) -> None:
        """A word on all of them."""
