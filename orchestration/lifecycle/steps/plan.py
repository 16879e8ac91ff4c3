"""Calls dcpy's plan: a recipe becomes a lock file."""

import inspect
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import step


def plan(parameters: dict[str, Any]) -> dict[str, Any]:
    """Writes the lock file to `lock`."""
    from dcpy.lifecycle.builds.plan import plan as dcpy_plan

    recipe, lock = Path(parameters["recipe"]), Path(parameters["lock"])
    if not recipe.is_file():
        raise step.StepProblem(
            f"There is no recipe at {recipe}. Add it, or name it under `path` and `recipe` in "
            "products.yml."
        )
    if step.takes(dcpy_plan, "output_path"):
        call = bind(dcpy_plan, parameters)
        dcpy_plan(*call.args, **call.kwargs)
    else:
        # dcpy of 2025 can only write beside the recipe, where two builds would meet.
        with tempfile.TemporaryDirectory(dir=lock.parent) as folder:
            for file in recipe.parent.glob("*.yml"):
                shutil.copy(file, folder)
            call = bind(dcpy_plan, parameters | {"recipe": str(Path(folder, recipe.name))})
            dcpy_plan(*call.args, **call.kwargs).replace(lock)
    return {}


def bind(dcpy_plan: Callable[..., Any], parameters: dict[str, Any]) -> inspect.BoundArguments:
    """The call of dcpy's plan."""
    options = (
        {"build_name": parameters["build_name"], "output_path": Path(parameters["lock"])}
        if step.takes(dcpy_plan, "output_path")
        else {}
    )
    call: inspect.BoundArguments = step.bind(
        dcpy_plan, Path(parameters["recipe"]), parameters["version"], **options
    )
    return call


if __name__ == "__main__":
    step.run(plan)
