"""What each stage tells of its work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestration.catalog.git import Commit

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Process:
    """What is told of the process that did a stage's work."""

    seconds: float
    tail: str
    """Its last lines of output."""
    result: Path
    """Where the stage's result lies."""


@dataclass(frozen=True)
class CheckResult:
    """How a check of a stage's result went."""

    name: str
    passed: bool
    is_error: bool
    """Whether a failure keeps the result from being published."""
    said: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    tables: Rows = ()
    """A row for each table."""


@dataclass(frozen=True)
class Ingested:
    """What ingest did."""

    version: str
    datasets: Rows
    """Of each: id, version, file, and what `steps/tabular.py` gives of it as a table."""
    checks: Sequence[CheckResult]
    process: Process


@dataclass(frozen=True)
class Planned:
    """What plan did."""

    version: str
    datasets: Rows
    """The datasets of the lock file, as it has them."""
    lock_file: Path
    process: Process


@dataclass(frozen=True)
class Loaded:
    """What load did."""

    datasets: Rows
    """Of each: id, version, file_type, destination_type, destination, rows, and columns."""
    process: Process


@dataclass(frozen=True)
class Built:
    """What build did."""

    commands: Rows
    """Of each: name, command (without secrets), seconds."""
    commit: Commit | None
    """What was checked out when the build began."""
    outputs: Rows
    """Of each file: file, bytes."""
    tables: Rows
    """Those of the files that are tabular, as `steps/tabular.py` gives them."""
    checks: Sequence[CheckResult]
    process: Process


@dataclass(frozen=True)
class Packaged:
    """What package did: nothing so far."""

    note: str = "A stub: nothing was packaged."


Outcome = Ingested | Planned | Loaded | Built | Packaged
