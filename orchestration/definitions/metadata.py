"""Materialization metadata in the form that Dagster's UI shows best."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dagster import (
    MetadataValue,
    TableColumn,
    TableMetadataValue,
    TableRecord,
    TableSchema,
)

from orchestration.lifecycle.child import Finished
from orchestration.lifecycle.results import size_of


def table(rows: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> TableMetadataValue:
    """The rows' `fields` as a table, also where there are no rows."""
    records = [
        TableRecord({f: v if isinstance(v := row.get(f), int) else str(v or "") for f in fields})
        for row in rows
    ]
    return MetadataValue.table(records, TableSchema([TableColumn(field) for field in fields]))


def of_process(finished: Finished, result: Path) -> dict[str, Any]:
    """What every stage shows: where its result is, its size, and how the process went."""
    return {
        "path": MetadataValue.path(str(result)),
        "bytes": size_of(result.resolve()),
        "seconds": round(finished.seconds, 3),
        "log_tail": MetadataValue.md(f"```\n{finished.tail}\n```"),
    }
