"""Calls dcpy's plan: a recipe becomes a lock file."""

import inspect
import shutil
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
    if "output_path" in inspect.signature(dcpy_plan).parameters:
        dcpy_plan(
            recipe,
            parameters["version"],
            build_name=parameters["build_name"],
            output_path=lock,
        )
    else:
        # Before 2026 dcpy could only write beside the recipe, where two builds would meet.
        for file in recipe.parent.glob("*.yml"):
            shutil.copy(file, lock.parent)
        written = dcpy_plan(lock.parent / recipe.name, parameters["version"])
        for file in recipe.parent.glob("*.yml"):
            (lock.parent / file.name).unlink()
        written.rename(lock)
    return {}


if __name__ == "__main__":
    step.run(plan)
