"""Plan: from a recipe to a lock file in which every version is settled."""

import csv
import os
from datetime import date
from pathlib import Path
from typing import Any

import jinja2
import yaml

from dcpy.configuration import BUILD_NAME, logger
from dcpy.connectors.edm import recipes
from dcpy.lifecycle import config
from dcpy.lifecycle.builds.models import Recipe, read_recipe

RECIPES_SOURCE = "edm.recipes.datasets"
SOURCE_DATA_VERSIONS = {
    "schema_name": "id",
    "dataset_name": "name",
    "v": "version",
    "file_type": "file_type",
    "archive_date": "archive_date",
    "url": "url",
}


def plan(
    recipe_file: Path,
    version: str | None = None,
    build_name: str | None = None,
    branch: str | None = None,
    env_vars: dict[str, str] | None = None,
    output_path: Path | None = None,
) -> Path:
    """Write a recipe's lock file, and put the recipe's `env` into this process's environment."""
    logger.info(f"Planning recipe from {recipe_file}")
    recipe = recipe_from_yaml(recipe_file)
    env, inputs = recipe["env"], recipe["inputs"]
    recipe["version"] = version or recipe["version"] or _resolve_version(recipe)
    recipe["branch"] = branch or recipe["branch"]
    recipe["build_name"] = build_name or recipe["build_name"] or BUILD_NAME
    env["VERSION"] = recipe["version"]
    if recipe["version_type"]:
        env["VERSION_TYPE"] = recipe["version_type"]
    if "VERSION_PREV" not in env:
        raise _no_releases(f"the version before {recipe['version']}")
    env.update(env_vars or {})
    os.environ.update(env)

    if recipe["base_recipe"]:
        base = recipe_from_yaml(recipe_file.parent / recipe["base_recipe"])
        names = [dataset["id"] for dataset in inputs["datasets"]]
        inputs["datasets"] += [
            each for each in base["inputs"]["datasets"] if each["id"] not in names
        ]
    for dataset in inputs["datasets"]:
        _resolve_dataset(dataset, inputs["missing_versions_strategy"])
        logger.info(f"{dataset['id']}: version {dataset['version']}")

    lock_file = _lock_path(recipe_file, recipe, output_path)
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    logger.info(f"Writing {lock_file.absolute()}")
    lock_file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return lock_file


def recipe_from_yaml(path: Path) -> Recipe:
    """Read a recipe or a lock file, with its template variables filled in."""
    prefixes = ("BUILD_ENV_", "BUILD_ENGINE_")
    variables = {name: text for name, text in os.environ.items() if name.startswith(prefixes)}
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    try:
        text = environment.from_string(path.read_text(encoding="utf-8")).render(variables)
    except jinja2.UndefinedError as error:
        raise ValueError(
            f"The recipe needs a variable that is not set in the environment: {error}"
        ) from error
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.message}") from error
    return read_recipe(yaml.safe_load(text))


def write_source_data_versions(recipe_file: Path) -> None:
    """Write source_data_versions.csv beside a lock file."""
    datasets = recipe_from_yaml(recipe_file)["inputs"]["datasets"]
    if open_ones := [each["id"] for each in datasets if each["version"] in (None, "latest")]:
        raise ValueError(f"The recipe has unresolved versions: {open_ones}")
    with (recipe_file.parent / "source_data_versions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(SOURCE_DATA_VERSIONS)
        writer.writerows(
            [each[name] for name in SOURCE_DATA_VERSIONS.values()] for each in datasets
        )


def _resolve_version(recipe: Recipe) -> str:
    match recipe["version_strategy"]:
        case None:
            raise ValueError("The recipe has neither a version nor a version_strategy")
        case "today":
            return date.today().isoformat()
        case "first_of_month":
            return date.today().replace(day=1).isoformat()
        case "bump_latest_release" | {"bump_latest_release": int()}:
            raise _no_releases("the latest release")
        case {"pin_to_source_dataset": str() as pinned}:
            return _pinned_version(pinned, recipe["inputs"])
        case other:
            raise ValueError(f"version_strategy: {other!r} is none")


def _pinned_version(pinned: str, inputs: dict[str, Any]) -> str:
    dataset = next((each for each in inputs["datasets"] if each["id"] == pinned), None)
    if dataset is None:
        raise ValueError(f"The version is pinned to '{pinned}', which is no input dataset")
    latest = inputs["missing_versions_strategy"] == "find_latest"
    if not dataset["version"] and (dataset["version_env_var"] or not latest):
        raise ValueError(f"The version is pinned to '{pinned}', which has no version")
    return str(dataset["version"] or recipes.read_config(pinned, "latest")["version"])


def _resolve_dataset(dataset: dict[str, Any], missing_versions_strategy: str | None) -> None:
    if dataset["source"] != RECIPES_SOURCE:
        raise recipes.EndpointConnectionError(
            f"Could not connect to '{dataset['source']}' for dataset '{dataset['id']}': the sample"
            f" has {RECIPES_SOURCE} only"
        )
    version, variable = dataset["version"], dataset["version_env_var"]
    if version is None and variable:
        if variable not in os.environ:
            raise ValueError(f"Dataset {dataset['id']} needs environment variable '{variable}'")
        version = os.environ[variable]
    elif version is None and missing_versions_strategy == "copy_latest_release":
        raise _no_releases("the latest release")
    found = recipes.read_config(dataset["id"], version or "latest")
    dataset["version"] = found["version"]
    dataset["file_type"] = dataset["file_type"] or "parquet"
    dataset["name"] = found["attributes"].get("name")
    dataset["url"] = found["attributes"].get("url")
    dataset["archive_date"] = found["transformation"]["run_details"]["timestamp"][:10]


def _lock_path(recipe_file: Path, recipe: Recipe, output_path: Path | None) -> Path:
    if output_path:
        return output_path.resolve()
    if "BUILD_ENV_OUTPUT_DIR" in os.environ:
        return Path(os.environ["BUILD_ENV_OUTPUT_DIR"]) / "recipe.lock.yml"
    if recipe["build_name"]:
        return config.get_plan_dir(recipe["product"], recipe["build_name"]) / "recipe.lock.yml"
    return recipe_file.parent / f"{recipe_file.stem}.lock.yml"


def _no_releases(wanted: str) -> AssertionError:
    return AssertionError(
        f"'PUBLISHING_BUCKET' must be defined to look up {wanted}, and the sample has none:"
        " give a version, and VERSION_PREV in the recipe's env"
    )
