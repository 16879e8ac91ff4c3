"""`check`: everything that can be known of a checkout without running anything."""

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestration import OrchestrationError, counted
from orchestration.catalog.checkout import (
    PROJECT_ROOT,
    checkout_root,
    product_folder,
    products_file,
    templates_folder,
)

if TYPE_CHECKING:
    from orchestration.catalog.products import Product, ProductsFile
    from orchestration.cli.forks import Tell

PLACE = re.compile(r"(?P<file>/[^:\n]*)(:(?P<line>\d+))?: (?P<text>.*)", re.DOTALL)
EPILOG = f"""\b
Examples:
  python3 -m orchestration check
  python3 -m orchestration check --json
As a pre-commit hook, in the checkout's .pre-commit-config.yaml:
  {{id: orchestration, name: products, language: system, pass_filenames: false,
   entry: env DATA_ENGINEERING_ROOT=. PYTHONPATH={PROJECT_ROOT}
   python3 -m orchestration check}}
"""


@dataclass(frozen=True)
class Problem:
    """Something that is wrong; the file is relative to the checkout where it lies in it."""

    file: str
    line: int | None
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}" if self.line else f"{self.file}: {self.text}"


@click.command("check", short_help="Find all that is wrong, running nothing.", epilog=EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print the problems as a JSON list.")
def command(as_json: bool) -> int:
    """Find all that is wrong with products.yml, deployment.yml, recipes, templates and locations.

    Nothing is run or written. Exit 1 if there is a problem.
    """
    from orchestration.catalog.products import ProductsFile, read_products_file
    from orchestration.generator.generate import unmatched_patterns

    root = checkout_root()
    listed = ProductsFile(products=())
    problems: list[Problem] = []
    try:
        listed = read_products_file(products_file(root))
    except OrchestrationError as error:
        problems += _of_error(root, products_file(root), error)
    else:
        problems += _of_deployment(root, listed.products)
        name = _relative(root, str(products_file(root)))
        problems += [Problem(name, None, text) for text in unmatched_patterns(listed, root)]
        problems += [Problem(name, None, f"`notify`: {text}") for text in _of_addresses(listed)]
    problems += _of_recipes(root, listed.products)
    templates, of_templates = _of_templates(root)
    problems += of_templates
    problems += _of_locations(root, listed, with_ingest=templates is not None)
    problems = sorted(set(problems), key=_place)
    if as_json:
        print(json.dumps([asdict(problem) for problem in problems], indent=2, ensure_ascii=False))
    else:
        for problem in problems:
            print(problem)
        products = counted(len(listed.products), "product")
        found = counted(len(problems), "problem") if problems else "no problem"
        print(f"{products}, {counted(templates or 0, 'ingest template')}: {found}", file=sys.stderr)
    return 1 if problems else 0


def _place(problem: Problem) -> tuple[str, int, str]:
    return problem.file, problem.line or 0, problem.text


def _of_error(root: Path, file: Path, error: object) -> Iterator[Problem]:
    """The problems that an error tells of: one a line where each begins with a place."""
    lines = str(error).split("\n")
    texts = lines if all(PLACE.match(line) for line in lines) else ["\n".join(lines)]
    for text in texts:
        if place := PLACE.match(text):
            line = place["line"]
            name = _relative(root, place["file"])
            yield Problem(name, int(line) if line else None, place["text"])
        else:
            yield Problem(_relative(root, str(file)), None, text)


def _relative(root: Path, file: str) -> str:
    return os.path.relpath(file, root) if Path(file).is_relative_to(root) else file


def _of_deployment(root: Path, products: "Sequence[Product]") -> Iterator[Problem]:
    from orchestration.catalog.deployment import deployment_path, read_deployment

    try:
        read_deployment(root, None, products)
    except OrchestrationError as error:
        yield from _of_error(root, deployment_path(root, None), error)


def _of_addresses(listed: "ProductsFile") -> Iterator[str]:
    """Else it would show when something has broken, and nobody is told."""
    for address in listed.notify.urls if listed.notify else ():
        from orchestration.alerts.outbox import problem_with

        if problem := problem_with(address):
            yield problem


def _of_recipes(root: Path, products: "Sequence[Product]") -> Iterator[Problem]:
    from orchestration.catalog.recipes import recipe_inputs

    for product in products:
        folder = product_folder(root, product.folder)
        recipe = folder / product.recipe
        missing = folder if not folder.is_dir() else recipe
        if not missing.exists():
            name = _relative(root, str(missing))
            yield Problem(name, None, f"is missing; product {product.id!r} cannot be planned")
            continue
        try:
            inputs = recipe_inputs(recipe)
        except OrchestrationError as error:
            yield from _of_error(root, recipe, error)
        else:
            if inputs.warning:
                yield Problem(_relative(root, str(recipe)), None, inputs.warning)


def _of_templates(root: Path) -> tuple[int | None, list[Problem]]:
    """How many templates there are, and what is wrong with them."""
    from orchestration.catalog.ingest_templates import read_templates

    folder = templates_folder(root)
    try:
        templates = read_templates(folder)
    except OrchestrationError as error:
        return None, list(_of_error(root, folder, error))
    return len(templates), [
        problem
        for template in templates
        for text in (template.problem, *template.warnings)
        if text
        for problem in _of_error(root, folder / f"{template.id}.yml", text)
    ]


def _of_locations(root: Path, listed: "ProductsFile", *, with_ingest: bool) -> Iterator[Problem]:
    """Loads each location as it would be generated, in a process of its own."""
    from orchestration.catalog.names import INGEST
    from orchestration.cli.forks import PRINTED, each_in_a_fork, importing
    from orchestration.definitions.interpreter import Interpreter
    from orchestration.lifecycle.child import ending

    with importing():
        from orchestration.cli import definitions

    modules = definitions.modules(listed)
    if not with_ingest:
        del modules[INGEST]
    folders = {product.slug: product_folder(root, product.folder) for product in listed.products}
    interpreters = {product.slug: Interpreter.of(product, root) for product in listed.products}
    defined: dict[str, str] = {}

    def load(name: str, tell: "Tell") -> None:
        definitions.describe(name, modules[name], tell, interpreters.get(name))

    for name, messages, status in each_in_a_fork(sorted(modules), load):
        file = _relative(root, str(folders.get(name, templates_folder(root))))
        is_told = False
        for message in messages:
            match message:
                case {"is_without": _, "problem": text, "file": place, "line": line}:
                    yield Problem(_relative(root, place), line, text)
                case {"problem": text, "file": str(place), "line": line}:
                    is_told = True
                    yield Problem(_relative(root, place), line, f"{name} cannot be loaded: {text}")
                case {"problem": text}:
                    is_told = True
                    yield Problem(file, None, f"{name} cannot be loaded: {text}")
                case {"assets": assets}:
                    is_told = True
                    for asset in assets:
                        if (other := defined.setdefault(asset, name)) != name:
                            yield Problem(file, None, f"{name} and {other} both define {asset}")
        if not is_told:
            last = [message[PRINTED] for message in messages if PRINTED in message][-1:]
            how = f"its process {ending(status)} while loading"
            yield Problem(file, None, f"{name} cannot be loaded: {': '.join([how, *last])}")
