"""Makes the steps' calls of dcpy, in an interpreter that has it, and tells what they are and give.

`dcpy_calls.py STEPS signatures` tells dcpy's signatures, and how the steps' calls bind to them.
`dcpy_calls.py STEPS outputs CHECKOUT FOLDER` ingests every template of the checkout, plans and
loads every recipe, and leaves all of it in FOLDER.
"""

import importlib
import inspect
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

VERSION = "20260101"
OPTIONS = {"push": True, "latest": True, "output_csv": True, "overwrite_okay": True}
FUNCTIONS = {
    "ingest": ("dcpy.lifecycle.ingest.run", "ingest"),
    "versions": ("dcpy.lifecycle.ingest.plan", "resolve_definition"),
    "plan": ("dcpy.lifecycle.builds.plan", "plan"),
    "load": ("dcpy.lifecycle.builds.load", "load_source_data_from_resolved_recipe"),
}


class Step:
    """One of the steps, with the function of dcpy that it calls."""

    def __init__(self, name: str) -> None:
        self.module: ModuleType = importlib.import_module(name)
        module, self.function_name = FUNCTIONS[name]
        self.dcpy_module = module

    def function(self) -> Any:
        return getattr(importlib.import_module(self.dcpy_module), self.function_name)

    def bind(self, **parameters: Any) -> inspect.BoundArguments:
        """The call, as the step makes it."""
        bound: inspect.BoundArguments = self.module.bind(self.function(), parameters)
        return bound

    def call(self, **parameters: Any) -> Any:
        """What dcpy gives for that call."""
        bound = self.bind(**parameters)
        return self.function()(*bound.args, **bound.kwargs)


def signatures(steps: dict[str, Step]) -> dict[str, Any]:
    """Of each function: its parameters, and the types of what the step hands over."""
    options = {**OPTIONS, "mode": "large", "datasets_filter": ["own"]}
    where = {"name": "own", "folder": "f", "templates": "t", "recipe": "r", "lock": "l"}
    described = {}
    for step in steps.values():
        call = step.bind(**where, version="1", build_name="first", options=options)
        parameters = inspect.signature(step.function()).parameters.values()
        described[f"{step.dcpy_module}.{step.function_name}"] = {
            "parameters": [[p.name, p.kind.name, p.default is p.empty] for p in parameters],
            "call": {name: type(value).__name__ for name, value in call.arguments.items()},
        }
    return described


def outputs(steps: dict[str, Step], checkout: Path, folder: Path) -> None:
    """Runs the lifecycle, up to load, for all that the checkout has."""
    for template in sorted((checkout / "ingest_templates").glob("*.yml")):
        ingested = folder / "ingest" / template.stem
        datasets = steps["ingest"].call(
            name=template.stem,
            version=VERSION,
            folder=str(ingested),
            templates=str(template.parent),
            options=OPTIONS,
        )
        described = [steps["ingest"].module.describe(ingested, dataset) for dataset in datasets]
        write(ingested / "described.json", described)
    environment = dict(os.environ)
    for recipe in sorted((checkout / "products").glob("*/recipe.yml")):
        build = folder / "builds" / recipe.parent.name
        build.mkdir(parents=True)
        lock = str(build / "recipe.lock.yml")
        os.environ.update(BUILD_ENV_OUTPUT_DIR=str(build), BUILD_ENGINE_SCHEMA="contract")
        steps["plan"].call(recipe=str(recipe), version="26Q1", build_name="first", lock=lock)
        result = steps["load"].call(lock=lock)
        write(build / "described.json", steps["load"].module.describe(result))
        write(build / "load_result.json", result.model_dump(mode="json"))
        # plan and load leave variables behind.
        os.environ.clear()
        os.environ.update(environment)


def write(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data))


def main(steps_folder: str, wanted: str, *places: str) -> None:
    sys.path.insert(0, steps_folder)
    steps = {name: Step(name) for name in FUNCTIONS}
    sys.path.remove(steps_folder)
    if wanted == "signatures":
        print(json.dumps(signatures(steps)))
    else:
        outputs(steps, *map(Path, places))


if __name__ == "__main__":
    main(*sys.argv[1:])
