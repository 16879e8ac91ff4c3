"""Calls dcpy's ingest for one template and version."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import step

# What these options ask for happens in the storage only.
NEED_PUSH = ("latest", "overwrite_okay")


def ingest(parameters: dict[str, Any]) -> dict[str, Any]:
    """Ingests the template; gives each dataset's id, version, file, rows and columns."""
    from dcpy.lifecycle.ingest.run import ingest as dcpy_ingest

    call = bind(dcpy_ingest, parameters)
    folder = Path(parameters["folder"])
    # dcpy makes it, and warns of one that is there.
    folder.rmdir()
    datasets = dcpy_ingest(*call.args, **call.kwargs)
    return {"datasets": [describe(folder, dataset) for dataset in datasets]}


def bind(dcpy_ingest: Callable[..., Any], parameters: dict[str, Any]) -> inspect.BoundArguments:
    """The call of dcpy's ingest; of the options only those that ask for something."""
    options = {name: value for name, value in parameters["options"].items() if value}
    for name in NEED_PUSH:
        if name in options and "push" not in options:
            raise step.StepProblem(
                f"`{name}: true` does nothing without `push: true`. Add that to the run's config, "
                f"or leave `{name}` out."
            )
    for name in options:
        if not step.takes(dcpy_ingest, name):
            raise step.StepProblem(
                f"The checkout's dcpy has no option `{name}` for ingest. Leave it out of the run's "
                "config, or use a newer checkout."
            )
    call: inspect.BoundArguments = step.bind(
        dcpy_ingest,
        parameters["name"],
        parameters["version"],
        staging_dir=Path(parameters["folder"]),
        definition_dir=Path(parameters["templates"]),
        **options,
    )
    return call


def describe(folder: Path, dataset: Any) -> dict[str, Any]:
    """The dataset as its parquet file has it."""
    import duckdb

    path = folder / dataset.id / f"{dataset.id}.parquet"
    with duckdb.connect() as connection:
        [(rows,)] = connection.execute(
            "SELECT num_rows FROM parquet_file_metadata(?)", [str(path)]
        ).fetchall()
        columns = connection.execute(
            "DESCRIBE SELECT * FROM read_parquet(?)", [str(path)]
        ).fetchall()
    return {
        "id": dataset.id,
        "version": dataset.version,
        "file": str(path.relative_to(folder)),
        "rows": rows,
        "columns": [{"name": name, "type": _type(kind)} for name, kind, *_ in columns],
    }


def _type(kind: str) -> str:
    # A geometry's type spells out its whole coordinate system.
    return "GEOMETRY" if kind.startswith("GEOMETRY") else kind


if __name__ == "__main__":
    step.run(ingest)
