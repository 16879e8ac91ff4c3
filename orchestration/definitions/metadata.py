"""Materialization metadata in the form that Dagster's UI shows best."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from dagster import (
    MarkdownMetadataValue,
    MetadataValue,
    TableColumn,
    TableMetadataValue,
    TableRecord,
    TableSchema,
)

from orchestration.catalog.git import Commit
from orchestration.lifecycle.outcomes import (
    Built,
    Ingested,
    Loaded,
    Outcome,
    Packaged,
    Planned,
    Process,
    Rows,
)
from orchestration.lifecycle.results import size_of

MAX_FILES_SHOWN = 50


def metadata_of(outcome: Outcome) -> dict[str, Any]:
    """What is shown of a stage's work."""
    match outcome:
        case Ingested(version, datasets, process):
            own = {"version": version, **_ingested(datasets)}
        case Planned(version, datasets, lock_file, process):
            fields = ("id", "version", "source", "file_type", "destination")
            own = {
                "version": version,
                "datasets": table(datasets, fields),
                "lock_file": MetadataValue.path(str(lock_file)),
            }
        case Loaded(datasets, process):
            fields = ("id", "version", "file_type", "destination_type", "destination")
            own = {"datasets": table(datasets, fields)}
        case Built(commands, commit, outputs, process):
            own = {
                "commands": table(commands, ("name", "command", "seconds")),
                "outputs": table(_grouped(outputs), ("file", "bytes")),
                **_of_checkout(commit),
            }
        case Packaged(note):
            return {"stub": True, "note": note}
    return {**own, **_of_process(process)}


def _ingested(datasets: Rows) -> dict[str, Any]:
    counted = [{**dataset, "columns": len(dataset["columns"])} for dataset in datasets]
    # Dagster's own names, by which its catalogue finds them; of an asset it shows one schema.
    schema = "dagster/column_schema" if len(datasets) == 1 else "column_schema/{id}"
    return {
        "datasets": table(counted, ("id", "version", "rows", "columns", "file")),
        "dagster/row_count": sum(dataset["rows"] for dataset in datasets),
        **{
            schema.format(id=dataset["id"]): TableSchema(
                [TableColumn(column["name"], column["type"]) for column in dataset["columns"]]
            )
            for dataset in datasets
        },
    }


def table(rows: Rows, fields: Sequence[str]) -> TableMetadataValue:
    """The rows' `fields` as a table, also where there are no rows."""
    records = [TableRecord({field: _cell(row.get(field)) for field in fields}) for row in rows]
    return MetadataValue.table(records, TableSchema([TableColumn(field) for field in fields]))


def _cell(value: Any) -> int | float | str:
    return value if isinstance(value, int | float) else str(value or "")


def _grouped(outputs: Rows) -> Rows:
    """The files, with a row for the whole of each folder that holds more than anybody reads."""
    folders = Counter(str(row["file"]).partition("/")[0] for row in outputs)
    large = {name: count for name, count in folders.items() if count > MAX_FILES_SHOWN}
    rows = [row for row in outputs if str(row["file"]).partition("/")[0] not in large]
    return rows + [
        {
            "file": f"{name}/ ({count} files)",
            "bytes": sum(r["bytes"] for r in outputs if str(r["file"]).startswith(f"{name}/")),
        }
        for name, count in large.items()
    ]


def _of_checkout(commit: Commit | None) -> dict[str, Any]:
    if commit is None:
        return {}
    changes = "\n".join(commit.changes[:MAX_FILES_SHOWN]) or "none"
    return {"commit": commit.id, "uncommitted_changes": MetadataValue.md(f"```\n{changes}\n```")}


def tail_of(lines: str) -> MarkdownMetadataValue:
    """The last lines that a process has printed."""
    return MetadataValue.md(f"```\n{lines}\n```")


def _of_process(process: Process) -> dict[str, Any]:
    return {
        "path": MetadataValue.path(str(process.result)),
        "dagster/uri": process.result.as_uri(),
        "bytes": size_of(process.result.resolve()),
        "seconds": round(process.seconds, 3),
        "log_tail": tail_of(process.tail),
    }
