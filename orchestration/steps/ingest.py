"""Calls dcpy's ingest for one template and version."""

from pathlib import Path
from typing import Any

import step


def ingest(parameters: dict[str, Any]) -> dict[str, Any]:
    """Ingests the template; gives each dataset's id, version, file, rows and columns."""
    from dcpy.lifecycle.ingest.run import ingest as dcpy_ingest

    folder = Path(parameters["folder"])
    datasets = dcpy_ingest(
        parameters["name"],
        parameters["version"],
        staging_dir=folder,
        definition_dir=Path(parameters["templates"]),
        **parameters["options"],
    )
    return {"datasets": [describe(folder, dataset) for dataset in datasets]}


def describe(folder: Path, dataset: Any) -> dict[str, Any]:
    """The dataset as its parquet file has it."""
    import duckdb

    path = folder / dataset.id / f"{dataset.id}.parquet"
    with duckdb.connect() as connection:
        rows = connection.execute(
            "SELECT num_rows FROM parquet_file_metadata(?)", [str(path)]
        ).fetchone()
        columns = connection.execute(
            "SELECT name, type, logical_type FROM parquet_schema(?) WHERE num_children IS NULL",
            [str(path)],
        ).fetchall()
    return {
        "id": dataset.id,
        "version": dataset.version,
        "file": str(path.relative_to(folder)),
        "rows": rows[0] if rows else 0,
        "columns": [{"name": n, "type": str(logical or kind)} for n, kind, logical in columns],
    }


if __name__ == "__main__":
    step.run(ingest)
