"""Tells what is in the tabular files that a build made."""

import sys
from pathlib import Path
from typing import Any

import picture
import step
import tabular


def describe(parameters: dict[str, Any]) -> dict[str, Any]:
    """The tables of all `files`, and maps of them over those in the folder `before`."""
    try:
        connection = tabular.connect()
    except ImportError:
        raise step.StepProblem(f"{sys.executable} has no duckdb.") from None
    folder, before = Path(parameters["folder"]), Path(parameters["before"])
    tables = []
    with connection:
        for file in parameters["files"]:
            found = tabular.describe(connection, folder, file)
            pictures = Path(parameters["pictures"])
            picture.add_maps(connection, folder / file, found, before / file, pictures)
            tables += found
    return {"tables": tables}


if __name__ == "__main__":
    step.run(describe, needs_dcpy=False)
