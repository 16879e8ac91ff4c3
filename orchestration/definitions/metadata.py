"""Materialization metadata in the form that Dagster's UI shows best."""

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

from orchestration.lifecycle.child import Finished
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
        case Built(command, outputs, process):
            own = {
                "command": MetadataValue.text(command),
                "outputs": table(outputs, ("file", "bytes")),
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
    records = [
        TableRecord({f: v if isinstance(v := row.get(f), int) else str(v or "") for f in fields})
        for row in rows
    ]
    return MetadataValue.table(records, TableSchema([TableColumn(field) for field in fields]))


def tail_of(finished: Finished) -> MarkdownMetadataValue:
    """The last lines that a process has printed."""
    return MetadataValue.md(f"```\n{finished.tail}\n```")


def _of_process(process: Process) -> dict[str, Any]:
    return {
        "path": MetadataValue.path(str(process.result)),
        "dagster/uri": process.result.as_uri(),
        "bytes": size_of(process.result.resolve()),
        "seconds": round(process.finished.seconds, 3),
        "log_tail": tail_of(process.finished),
    }
