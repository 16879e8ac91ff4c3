"""From the raw file to parquet, through a template's processing steps."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from duckdb import (
    ConstantExpression,
    DuckDBPyConnection,
    DuckDBPyRelation,
    Expression,
    FunctionExpression,
    SQLExpression,
)

from dcpy.configuration import logger

TYPES = ["BOOLEAN", "BIGINT", "DOUBLE", "VARCHAR"]


def to_parquet(
    connection: DuckDBPyConnection, file_format: dict[str, Any], raw_file: Path, output: Path
) -> None:
    """Write a raw CSV as parquet, typed by its values unless its dtype is str."""
    if file_format.get("type") != "csv" or file_format.get("geometry"):
        raise NotImplementedError("The sample reads CSV files without geometry only.")
    types = ["VARCHAR"] if file_format.get("dtype") == "str" else TYPES
    query = f"SELECT * FROM read_csv(?, header = true, auto_type_candidates = {types})"
    logger.info(f"Converting {raw_file.name} to {output.name}")
    connection.sql(query, params=[str(raw_file)]).write_parquet(str(output))


def choose_steps(steps: list[dict[str, Any]], mode: str | None) -> list[dict[str, Any]]:
    """Leave out the steps of other modes."""
    if mode and mode not in [step["mode"] for step in steps]:
        raise ValueError(f"No processing step of this template has mode '{mode}'")
    return [step for step in steps if step["mode"] in (None, mode)]


def process(
    relation: DuckDBPyRelation, steps: list[dict[str, Any]]
) -> tuple[DuckDBPyRelation, list[dict[str, Any]]]:
    """Run the steps in turn, and summarise each."""
    summaries = []
    for step in steps:
        logger.info(f"Running processing step '{step['name']}'")
        start, before = datetime.now(), relation
        relation = STEPS[step["name"]](relation, **step["args"])
        rows_removed = len(before) - len(relation)
        end = datetime.now()
        summaries.append(
            {
                "name": step["name"],
                "description": f"Ran {step['name']}",
                "data_modifications": {"rows_removed": rows_removed},
                "column_modifications": {
                    "added": [name for name in relation.columns if name not in before.columns],
                    "removed": [name for name in before.columns if name not in relation.columns],
                },
                "start_time": start.isoformat(),
                "end_time": end.isoformat(),
                "elapsed_seconds": (end - start).total_seconds(),
            }
        )
    return relation, summaries


def _clean_column_names(
    relation: DuckDBPyRelation,
    *,
    replace: dict[str, str] | None = None,
    lower: bool = False,
    strip: bool = False,
) -> DuckDBPyRelation:
    names = {}
    for old in relation.columns:
        new = old.strip() if strip else old
        for pattern, replacement in (replace or {}).items():
            new = new.replace(pattern, replacement)
        names[old] = new.lower() if lower else new
    return relation.select(*[_column(old).alias(new) for old, new in names.items()])


def _rename_columns(
    relation: DuckDBPyRelation, *, map: dict[str, str], drop_others: bool = False
) -> DuckDBPyRelation:
    _check(relation, list(map))
    old_names = list(map) if drop_others else relation.columns
    return relation.select(*[_column(old).alias(map.get(old, old)) for old in old_names])


def _filter_columns(
    relation: DuckDBPyRelation, columns: list[str], mode: Literal["keep", "drop"] = "keep"
) -> DuckDBPyRelation:
    _check(relation, columns)
    others = [name for name in relation.columns if name not in columns]
    return relation.select(*[_column(name) for name in (columns if mode == "keep" else others)])


def _filter_rows(
    relation: DuckDBPyRelation,
    type: Literal["equals", "contains"],
    column_name: str,
    val: str | int,
) -> DuckDBPyRelation:
    _check(relation, [column_name])
    if type == "contains":
        matches = FunctionExpression(
            "regexp_matches", _column(column_name), ConstantExpression(str(val))
        )
        return relation.filter(matches)
    return relation.filter(_column(column_name) == ConstantExpression(val))


def _column(name: str) -> Expression:
    return SQLExpression('"' + name.replace('"', '""') + '"')


def _check(relation: DuckDBPyRelation, wanted: list[str]) -> None:
    missing = [name for name in wanted if name not in relation.columns]
    if missing:
        raise KeyError(f"{missing} not found in {relation.columns}")


STEPS: dict[str, Callable[..., DuckDBPyRelation]] = {
    "clean_column_names": _clean_column_names,
    "rename_columns": _rename_columns,
    "filter_columns": _filter_columns,
    "filter_rows": _filter_rows,
}
