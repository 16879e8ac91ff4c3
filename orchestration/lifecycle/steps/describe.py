"""Tells what is in the tabular files that a build made."""

import sys
from pathlib import Path
from typing import Any

import step
import tabular


def describe(parameters: dict[str, Any]) -> dict[str, Any]:
    """The tables of all `files`."""
    try:
        connection = tabular.connect()
    except ImportError:
        raise step.StepProblem(f"{sys.executable} has no duckdb.") from None
    folder = Path(parameters["folder"])
    with connection:
        tables = [
            table
            for file in parameters["files"]
            for table in tabular.describe(connection, folder, file)
        ]
    return {"tables": tables}


if __name__ == "__main__":
    step.run(describe, needs_dcpy=False)
