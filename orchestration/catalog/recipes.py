"""The inputs that a recipe names, read without dcpy."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestration import OrchestrationError
from orchestration.catalog.templated_yaml import templated_mapping

# Where ingest archives what it made, and the source that it made it of.
INGESTED = ("edm.recipes.datasets", "edm.recipes.raw_datasets")


@dataclass(frozen=True)
class RecipeInputs:
    """What a recipe takes in of what ingest archives, as dcpy reads it."""

    datasets: tuple[str, ...]
    """The ids, each once, in order: the recipe's own, then those of its base recipe."""
    warning: str | None = None
    """What somebody who wrote the recipe would not expect."""
    pinned: frozenset[tuple[str, str]] = frozenset()
    """The ids with the versions that are to be taken, where the recipe names one."""


def recipe_inputs(recipe: Path) -> RecipeInputs:
    """The ingested datasets that the recipe and its base recipe name.

    Raises OrchestrationError when one of the two cannot be read. Source: `plan_recipe` of
    dcpy/lifecycle/builds/plan.py, which reads no base recipe of the base recipe.
    """
    data = templated_mapping(recipe)
    datasets, warning = [*_datasets(recipe, data)], None
    if base := _base(recipe, data):
        base_data = templated_mapping(base)
        datasets += _datasets(base, base_data)
        further = _base(base, base_data)
        if further and further not in (recipe, base):
            warning = (
                f"{recipe} has the base recipe {base.name}, which has the base recipe "
                f"{further.name}: dcpy reads the first one only. Add to {recipe.name} what it "
                f"needs of {further.name}."
            )
    names = tuple(dict.fromkeys(name for name, _ in datasets))
    return RecipeInputs(names, warning, _pinned(datasets))


def locked_versions(lock: Path) -> frozenset[tuple[str, str]]:
    """The ids and versions of the ingested datasets that a lock file names.

    Raises OrchestrationError when it cannot be read.
    """
    return _pinned(_datasets(lock, templated_mapping(lock)))


def _pinned(datasets: Iterable[tuple[str, Any]]) -> frozenset[tuple[str, str]]:
    return frozenset((name, str(version)) for name, version in datasets if version is not None)


def _base(recipe: Path, data: Mapping[Any, Any]) -> Path | None:
    base = data.get("base_recipe")
    return Path(os.path.normpath(recipe.parent / base)) if isinstance(base, str) else None


def _datasets(recipe: Path, data: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    inputs = _mapping(data.get("inputs"))
    default = _mapping(inputs.get("dataset_defaults")).get("source")
    datasets = inputs.get("datasets")
    for dataset in datasets if isinstance(datasets, list) else []:
        name = _mapping(dataset).get("id") or _mapping(dataset).get("name")
        if not isinstance(name, str):
            raise OrchestrationError(f"{recipe}: every dataset of `inputs` must have an id")
        if (dataset.get("source") or default or INGESTED[0]) in INGESTED:
            yield name, dataset.get("version")


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, dict) else {}
