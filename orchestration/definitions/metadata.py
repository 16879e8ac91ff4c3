"""Materialization metadata in the form that Dagster's UI shows best."""

import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
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
    CheckResult,
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
MAX_TABLES_SHOWN = 40
MAX_PREVIEWS = 10
# What a column of the UI takes without cutting off what stands in other rows.
TAIL_WIDTH = 60
MAX_PREVIEW_WIDTH = 66  # characters, in a window of 1500 pixels


def metadata_of(outcome: Outcome) -> dict[str, Any]:
    """What is shown of a stage's work."""
    match outcome:
        case Ingested(version, datasets, _, process):
            counted = [{**each, "columns": len(each.get("columns", ()))} for each in datasets]
            own = {
                "version": version,
                "datasets": table(counted, ("id", "version", "rows", "columns", "file")),
                **_of_tables(datasets),
            }
        case Planned(version, datasets, lock_file, process):
            fields = ("id", "version", "source", "file_type", "destination")
            own = {
                "version": version,
                "datasets": table(datasets, fields),
                "lock_file": MetadataValue.path(str(lock_file)),
            }
        case Loaded(datasets, process):
            shown = ("id", "version", "file_type", "destination_type", "destination", "rows")
            own = {"datasets": table(datasets, shown), **_of_tables(datasets)}
        case Built(commands, commit, outputs, tables, _, process):
            own = {
                "commands": table(commands, ("name", "command", "seconds")),
                "outputs": table(_grouped(outputs), ("file", "bytes")),
                **_of_tables(tables),
                **_of_checkout(commit),
            }
        case Packaged(note):
            return {"stub": True, "note": note}
    return {**own, **_of_process(process)}


def metadata_of_check(result: CheckResult, partition: str) -> dict[str, Any]:
    """What is shown of a check: its numbers, of which Dagster draws a plot each, and its tables."""
    shown: dict[str, Any] = {"partition": partition, **result.numbers}
    if result.tables:
        shown["by_table"] = table(result.tables, list(result.tables[0]))
    return shown


def _of_tables(tables: Rows) -> dict[str, Any]:
    """Rows and columns under Dagster's own names, by which its catalogue finds them."""
    readable = [each for each in tables if "columns" in each]
    if not readable:
        return {}
    shown = readable[:MAX_TABLES_SHOWN]
    is_single = len(readable) == 1
    # Dagster shows one schema of an asset: where there are several tables, it has those of all.
    columns = [
        TableColumn(("" if is_single else f"{each['name']}: ") + column["name"], column["type"])
        for each in shown
        for column in each["columns"]
    ]
    return {
        "dagster/row_count": sum(each["rows"] for each in readable),
        "dagster/column_schema": TableSchema(columns),
        **({} if is_single else {f"rows/{each['name']}": each["rows"] for each in shown}),
        **{
            "preview" if is_single else f"preview/{each['name']}": _preview(each)
            for each in shown[:MAX_PREVIEWS]
            if each.get("preview")
        },
        **{
            "map" if is_single else f"map/{each['name']}": _map(each["map"])
            for each in readable
            if "map" in each
        },
    }


def _map(picture: str) -> MarkdownMetadataValue:
    note = "Blue: what is there now. Red: what was there before, and is not."
    return MetadataValue.md(f"![map](data:image/png;base64,{picture})\n\n{note}")


def _preview(found: Mapping[str, Any]) -> TableMetadataValue | MarkdownMetadataValue:
    rows = found["preview"]
    names = [column["name"] for column in found["columns"][: len(rows[0])]]
    widths = [max(map(len, cells)) + 2 for cells in zip(names, *rows, strict=True)]
    if sum(widths) <= MAX_PREVIEW_WIDTH:
        return table([dict(zip(names, row, strict=True)) for row in rows], names)
    # The UI shows a long text on demand, where there is room; a table would widen the page.
    lines = [names, ["---"] * len(names), *rows]
    return MetadataValue.md("\n".join(f"| {' | '.join(map(_inline, line))} |" for line in lines))


def _inline(cell: str) -> str:
    return re.sub(r"([\\|`*_<\[])", r"\\\1", " ".join(cell.split()))


def table(rows: Rows, fields: Sequence[str]) -> TableMetadataValue:
    """The rows' `fields` as a table, also where there are no rows."""
    records = [TableRecord({field: _cell(row.get(field)) for field in fields}) for row in rows]
    return MetadataValue.table(records, TableSchema([TableColumn(field) for field in fields]))


def _cell(value: Any) -> int | float | str:
    return value if isinstance(value, int | float) else str("" if value is None else value)


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
    """The last lines that a process has printed, broken where they are too long for the UI."""
    wrapped = (part for line in lines.split("\n") for part in _wrapped(line))
    return MetadataValue.md("```\n" + "\n".join(wrapped) + "\n```")


def _wrapped(line: str) -> Sequence[str]:
    return textwrap.wrap(line, TAIL_WIDTH, drop_whitespace=False, replace_whitespace=False) or [""]


def _of_process(process: Process) -> dict[str, Any]:
    return {
        "path": MetadataValue.path(str(process.result)),
        "dagster/uri": process.result.as_uri(),
        "bytes": size_of(process.result.resolve()),
        "seconds": round(process.seconds, 3),
        "log_tail": tail_of(process.tail),
    }
