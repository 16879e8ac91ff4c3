"""Calls dcpy's load: what a lock file names is brought to where the build finds it."""

import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import step
import tabular


def load(parameters: dict[str, Any]) -> dict[str, Any]:
    """Loads the lock file's datasets; gives where each went, and what is there now."""
    from dcpy.lifecycle.builds.load import load_source_data_from_resolved_recipe

    call = bind(load_source_data_from_resolved_recipe, parameters)
    result = load_source_data_from_resolved_recipe(*call.args, **call.kwargs)
    found = contents(Path(parameters["lock"]).parent)
    return {
        "datasets": [{**each, **found(each), "name": each["id"]} for each in describe(result)],
    }


def describe(result: Any) -> list[dict[str, str]]:
    """The loaded datasets: what each is, and where it went."""
    return [
        {
            "id": dataset.id,
            "version": dataset.version,
            "file_type": str(dataset.file_type),
            "destination_type": str(dataset.destination_type),
            "destination": str(dataset.destination)
            if isinstance(dataset.destination, str | Path)
            else type(dataset.destination).__name__,
        }
        for versions in result.datasets.values()
        for dataset in versions.values()
    ]


def contents(output: Path) -> Callable[[dict[str, str]], dict[str, Any]]:
    """What tells the rows and columns of a dataset, where it went to a table or tabular file.

    `output` is the folder of the DuckDB database, if there is one. An interpreter without DuckDB
    tells nothing, and a line in the log says so.
    """
    try:
        connection = tabular.connect()
    except ImportError as error:
        print(f"What was loaded is not counted: {sys.executable} has no {error.name}.")
        return lambda dataset: {}
    tables: dict[tuple[str, str], dict[str, Any]] = {
        ("duckdb", table["name"].rpartition(": ")[2].rpartition(".")[2]): table
        for file in output.glob("*.duckdb")
        for table in tabular.describe(connection, output, file.name)
    }

    def of(dataset: dict[str, str]) -> dict[str, Any]:
        kind, destination = dataset["destination_type"], dataset["destination"]
        if kind == "postgres" and not any(where == "postgres" for where, _ in tables):
            tables.update({("postgres", key): table for key, table in in_postgres().items()})
        if kind == "file" and destination.endswith((".parquet", ".csv")):
            path = Path(destination)
            [table] = tabular.describe(connection, path.parent, path.name)
        else:
            # dcpy tells a table's name as the recipe has it; gdal writes it in small letters.
            own = destination.rpartition(".")[2]
            names = (own, own.lower())
            table = next((tables[kind, name] for name in names if (kind, name) in tables), {})
        return {name: table[name] for name in ("rows", "columns") if name in table}

    return of


def in_postgres() -> dict[str, dict[str, Any]]:
    """The tables of the build's schema; none, and a line in the log, where they cannot be seen."""
    import psycopg2

    try:
        return counted(psycopg2, os.environ["BUILD_ENGINE_SCHEMA"])
    except psycopg2.Error as error:
        print(f"What Postgres holds now cannot be told: {error}", file=sys.stderr)
        return {}


def counted(psycopg2: Any, schema: str) -> dict[str, dict[str, Any]]:
    """The rows and columns of the schema's tables."""
    from psycopg2 import sql

    tables: dict[str, dict[str, Any]] = {}
    with psycopg2.connect(os.environ["BUILD_ENGINE"]) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_class c "
            "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
            "WHERE c.relnamespace = %s::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') "
            "ORDER BY c.relname, a.attnum",
            [f'"{schema}"'],
        )
        for table, column, kind in cursor.fetchall():
            columns = tables.setdefault(table, {"columns": []})["columns"]
            columns.append({"name": column, "type": tabular.kind_of(kind)})
        for table, found in tables.items():
            cursor.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, table)))
            [found["rows"]] = cursor.fetchone()
    return tables


def bind(dcpy_load: Callable[..., Any], parameters: dict[str, Any]) -> inspect.BoundArguments:
    """The call of dcpy's load; the lock file goes by position, as its name has changed."""
    call: inspect.BoundArguments = step.bind(dcpy_load, Path(parameters["lock"]))
    return call


if __name__ == "__main__":
    step.run(load)
