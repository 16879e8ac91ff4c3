"""The inputs that a recipe names, read without dcpy."""

import os
from collections.abc import Iterator
from pathlib import Path

from orchestration import OrchestrationError
from orchestration.catalog.templated_yaml import rendered_yaml


def input_datasets(recipe: Path) -> list[str]:
    """The ids of the datasets that the recipe and its base recipes take in, each once, in order.

    Raises OrchestrationError when one of them cannot be read.
    """
    return list(dict.fromkeys(_datasets(recipe, seen=[])))


def _datasets(recipe: Path, seen: list[Path]) -> Iterator[str]:
    if recipe in seen:
        raise OrchestrationError(f"{recipe}: base_recipe leads back to this recipe itself")
    data = rendered_yaml(recipe)
    if not isinstance(data, dict):
        raise OrchestrationError(f"{recipe}: a recipe must be a mapping")
    inputs = data.get("inputs")
    datasets = inputs.get("datasets") if isinstance(inputs, dict) else None
    for dataset in datasets if isinstance(datasets, list) else []:
        name = (dataset.get("id") or dataset.get("name")) if isinstance(dataset, dict) else None
        if not isinstance(name, str):
            raise OrchestrationError(f"{recipe}: every dataset of `inputs` must have an id")
        yield name
    if isinstance(base := data.get("base_recipe"), str):
        yield from _datasets(Path(os.path.normpath(recipe.parent / base)), [*seen, recipe])
