"""What a recipe may hold, and what load returns."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dcpy.fields import REQUIRED, fill

Recipe = dict[str, Any]

RECIPE: dict[str, Any] = {
    **dict.fromkeys(["base_recipe", "version", "version_type", "version_strategy", "branch"]),
    **dict.fromkeys(["build_name", "vars", "exports", "distribution", "custom"]),
    **dict.fromkeys(["name", "product", "inputs"], REQUIRED),
    "env": {},
    "stage_config": {},
}
INPUTS: dict[str, Any] = {"missing_versions_strategy": None, "datasets": [], "dataset_defaults": {}}
DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(["file_type", "preprocessor"]),
    "source": "edm.recipes.datasets",
    "destination": "postgres",
    "load_engine": "pandas",
}
DATASET: dict[str, Any] = {
    **dict.fromkeys([*DEFAULTS, "name", "version", "version_env_var", "import_as"]),
    **dict.fromkeys(["archive_date", "url"]),
    "id": REQUIRED,
    "custom": {},
}
STAGE: dict[str, Any] = {
    **dict.fromkeys(["destination", "destination_key"]),
    "connector_args": [],
    "env": {},
    "commands": [],
}
EXPORTS: dict[str, Any] = {"output_folder": None, "zip_name": None, "datasets": []}
EXPORT: dict[str, Any] = {"name": REQUIRED, "format": REQUIRED, "filename": None, "custom": None}


@dataclass
class ImportedDataset:
    id: str
    version: str
    file_type: str
    destination_type: str
    destination: str | Path


@dataclass
class LoadResult:
    name: str
    build_name: str
    datasets: dict[str, dict[str, ImportedDataset]]

    def model_dump(self, *, mode: str = "python") -> dict[str, Any]:
        """Give plain data; with mode "json", paths as strings."""
        dumped = asdict(self)
        for versions in dumped["datasets"].values():
            for imported in versions.values():
                if mode == "json":
                    imported["destination"] = str(imported["destination"])
        return dumped


def read_recipe(given: Any) -> Recipe:
    """Check what a recipe holds, and give every field its value."""
    recipe = fill(given, RECIPE, "recipe")
    recipe["env"] = _texts({**(recipe["vars"] or {}), **recipe["env"]})
    recipe.update(vars=None, version=_text(recipe["version"]))
    inputs = recipe["inputs"] = fill(recipe["inputs"], INPUTS, "inputs")
    defaults = fill(inputs["dataset_defaults"], DEFAULTS, "dataset_defaults")
    inputs["dataset_defaults"] = defaults
    inputs["datasets"] = [_read_dataset(each, defaults) for each in inputs["datasets"]]
    for name, stage in recipe["stage_config"].items():
        recipe["stage_config"][name] = stage = fill(stage, STAGE, name)
        stage["env"] = _texts(stage["env"])
    if recipe["exports"]:
        exports = recipe["exports"] = fill(recipe["exports"], EXPORTS, "exports")
        exports["datasets"] = [fill(each, EXPORT, "export") for each in exports["datasets"]]
    return recipe


def _read_dataset(given: Any, defaults: dict[str, Any]) -> dict[str, Any]:
    if isinstance(given, dict) and "id" not in given:
        given = {**given, "id": given.get("name")}
    dataset = fill(given, DATASET, "input dataset")
    dataset["version"] = _text(dataset["version"])
    return dataset | {name: dataset[name] or default for name, default in defaults.items()}


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _texts(values: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items()}
