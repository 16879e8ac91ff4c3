"""A product list for a checkout that has none, from its recipes and its workflows."""

import os
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from orchestration import OrchestrationError
from orchestration.catalog.checkout import PRODUCTS_FILE, RECIPES
from orchestration.catalog.products import json_schema_text, read_products
from orchestration.catalog.templated_yaml import templated_mapping

SCHEMA_FILE = PRODUCTS_FILE.with_name("products.schema.json")
WORKFLOWS = Path(".github", "workflows")
LOAD = re.compile(r"lifecycle[. ]builds[. ]load")
HEADER = """\
# yaml-language-server: $schema={schema}
# The products, one code location each. Written from the checkout's recipes; yours to change.
products:
"""
# dcpy's own commands: dcpy/lifecycle/builds/build.py and export.py of the checkout.
RUN = 'python -m dcpy lifecycle builds build run -d "$BUILD_ENV_OUTPUT_DIR"'
EXPORT = "python -m dcpy lifecycle builds export export --recipe-path {lock}"


@dataclass(frozen=True)
class _Workflow:
    """What a product's workflow says of its build."""

    path: Path
    commands: list[dict[str, str]]
    """The steps after load, by their names."""
    database: str | None
    """Its BUILD_ENGINE_DB."""


def write_product_list(root: Path) -> tuple[int, list[str]]:
    """Writes the product list of the checkout, and its schema, which an editor completes it by.

    Gives how many products are in it, and a sentence for all that could not be known. Raises
    OrchestrationError where there is a list already, or are no recipes; overwrites nothing.
    """
    target = root / PRODUCTS_FILE
    if target.exists():
        raise OrchestrationError(f"{target} is there already, and stays as it is.")
    recipes, unknown = _recipes(root)
    if not recipes:
        raise OrchestrationError(f"{root} has no {RECIPES} to make a product list of.")
    entries = [_entry(root, recipe, data, unknown) for recipe, data in recipes.items()]
    text = HEADER.format(schema=SCHEMA_FILE.name) + "\n".join(entries)
    new = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        new.write_text(text, encoding="utf-8")
        count = len(read_products(new))
        if not (root / SCHEMA_FILE).exists():
            (root / SCHEMA_FILE).write_text(json_schema_text(), encoding="utf-8")
        # Unlike a rename, it fails where somebody else has written one meanwhile.
        os.link(new, target)
    finally:
        new.unlink(missing_ok=True)
    return count, unknown


def _recipes(root: Path) -> tuple[dict[Path, Mapping[str, Any]], list[str]]:
    """The recipes that stand for a product, and what cannot be read."""
    found: dict[Path, Mapping[str, Any]] = {}
    unknown = []
    for path in sorted(root.glob(RECIPES), key=lambda path: (path.parent.name, path.stem)):
        if path.name.endswith(".lock.yml"):
            continue
        try:
            found[path] = templated_mapping(path)
        except OrchestrationError as error:
            unknown.append(str(error))
            found[path] = {}
    bases = {
        path.parent / str(data["base_recipe"])
        for path, data in found.items()
        if "base_recipe" in data
    }
    # A recipe that is there for others to begin with is no product, unless it is its folder's own.
    return {p: data for p, data in found.items() if p not in bases or p.stem == "recipe"}, unknown


def _entry(root: Path, recipe: Path, data: Mapping[str, Any], unknown: list[str]) -> str:
    folder = recipe.parent.name
    product_id = folder + recipe.stem.removeprefix("recipe")
    workflow = _workflow(root, folder, unknown)
    stages = data.get("stage_config")
    stage = stages.get("builds.build") if isinstance(stages, dict) else None
    fields: dict[str, Any] = {"id": product_id}
    if product_id != folder:
        fields |= {"path": folder, "recipe": recipe.name}
    if isinstance(data.get("name"), str):
        fields["description"] = data["name"]
    if isinstance(data.get("version_strategy"), str | dict):
        fields["version_strategy"] = data["version_strategy"]
    if workflow and workflow.database:
        fields["env"] = {"BUILD_ENGINE_DB": workflow.database}
    # Also where the recipe has commands: those of some products are only a part of their build.
    comment = _comment(workflow) if workflow and workflow.commands else ""
    if isinstance(stage, dict) and stage.get("commands"):
        export = EXPORT.format(lock=f"{recipe.stem}.lock.yml")
        fields["build_command"] = (
            [{"build": RUN}, {"export": export}] if data.get("exports") else RUN
        )
    else:
        fields["build_command"] = (
            f"echo 'There is no build command yet: fill in that of {product_id} in "
            f"{PRODUCTS_FILE}.' >&2; exit 1"
        )
        unknown.append(f"{product_id}: what builds it; " + _advice(workflow))
    lines = _yaml([fields]).splitlines(keepends=True)
    command = next(n for n, line in enumerate(lines) if line.startswith("  build_command:"))
    return "".join([*lines[:command], comment, *lines[command:]])


def _advice(workflow: _Workflow | None) -> str:
    if workflow is None or not workflow.commands:
        return "no workflow says so"
    return f"what {workflow.path} runs after load stands as a comment above its build_command"


def _comment(workflow: _Workflow) -> str:
    taken_over = _yaml({"build_command": workflow.commands})
    # What a workflow uploads goes to the team's storage.
    warning = "; leave out what uploads, unless that is meant" if "upload" in taken_over else ""
    lines = [f"{workflow.path} runs this after load{warning}:", *taken_over.splitlines()]
    return "".join(f"  # {line}".rstrip() + "\n" for line in lines)


def _workflow(root: Path, folder: str, unknown: list[str]) -> _Workflow | None:
    path = WORKFLOWS / f"{folder}_build.yml"
    if not (root / path).is_file():
        return None
    try:
        data = yaml.safe_load((root / path).read_text(encoding="utf-8"))
        jobs = [job for job in data["jobs"].values() if "steps" in job]
        commands = [command for job in jobs for command in _after_load(job, f"products/{folder}")]
        variables = [data.get("env") or {}, *(job.get("env") or {} for job in jobs)]
        databases = [str(env["BUILD_ENGINE_DB"]) for env in variables if "BUILD_ENGINE_DB" in env]
    # What PyYAML lets through (ValueError, …), and what is not where a workflow has it.
    except (
        yaml.YAMLError,
        ValueError,
        ArithmeticError,
        LookupError,
        AttributeError,
        TypeError,
    ) as error:
        unknown.append(f"{path} is not a workflow that can be read ({error})")
        return None
    known = [name for name in databases if "${{" not in name]
    return _Workflow(path, commands, known[-1] if known else None)


def _after_load(job: Mapping[str, Any], folder: str) -> Iterator[dict[str, str]]:
    usual = job.get("defaults", {}).get("run", {}).get("working-directory", ".")
    is_loaded = False
    for step in job["steps"]:
        run = str(step.get("run", ""))
        if is_loaded and run:
            where = os.path.relpath(step.get("working-directory", usual), folder)
            lines = [*([] if where == "." else [f"cd {where}"]), *run.rstrip().splitlines()]
            if len(lines) > 1:
                # So GitHub runs them: the first line that fails is the end.
                lines.insert(0, "set -eo pipefail")
            yield {str(step.get("name", lines[-1])): "\n".join(lines)}
        is_loaded = is_loaded or bool(LOAD.search(run))


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as such."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # A block cannot have lines that end with a space.
    lines = "\n".join(line.rstrip() for line in text.split("\n"))
    return dumper.represent_scalar("tag:yaml.org,2002:str", lines, "|" if "\n" in lines else None)


_Dumper.add_representer(str, _represent_text)


def _yaml(value: Any) -> str:
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000))
