"""Calls dcpy's ingest for one template and version."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import picture
import step
import tabular

# What these options ask for happens in the storage only.
NEED_PUSH = ("latest", "overwrite_okay")


def ingest(parameters: dict[str, Any]) -> dict[str, Any]:
    """Ingests the template; gives each dataset's id, version, file, and what is in it."""
    from dcpy.lifecycle.ingest.run import ingest as dcpy_ingest

    call = bind(dcpy_ingest, parameters)
    folder = Path(parameters["folder"])
    # dcpy makes it, and warns of one that is there.
    folder.rmdir()
    datasets = dcpy_ingest(*call.args, **call.kwargs)
    before, pictures = Path(parameters["before"]), Path(parameters["pictures"])
    described = [describe(folder, dataset) for dataset in datasets]
    with tabular.connect() as connection:
        for table in described:
            file = table["file"]
            picture.add_maps(connection, folder / file, [table], before / file, pictures)
    return {"datasets": described}


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
    file = f"{dataset.id}/{dataset.id}.parquet"
    with tabular.connect() as connection:
        [table] = tabular.describe(connection, folder, file)
    return {**table, "name": dataset.id, "id": dataset.id, "version": dataset.version, "file": file}


if __name__ == "__main__":
    step.run(ingest)
