"""Calls dcpy's load: what a lock file names is brought to where the build finds it."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import step


def load(parameters: dict[str, Any]) -> dict[str, Any]:
    """Loads the lock file's datasets; gives where each went."""
    from dcpy.lifecycle.builds.load import load_source_data_from_resolved_recipe

    call = bind(load_source_data_from_resolved_recipe, parameters)
    result = load_source_data_from_resolved_recipe(*call.args, **call.kwargs)
    return {"datasets": describe(result)}


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


def bind(dcpy_load: Callable[..., Any], parameters: dict[str, Any]) -> inspect.BoundArguments:
    """The call of dcpy's load; the lock file goes by position, as its name has changed."""
    call: inspect.BoundArguments = step.bind(dcpy_load, Path(parameters["lock"]))
    return call


if __name__ == "__main__":
    step.run(load)
