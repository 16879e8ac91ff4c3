"""`new`: a product to begin with, that can be built at once."""

import json
import os
import re
import secrets
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestration import OrchestrationError
from orchestration.catalog.checkout import checkout_root, product_folder, products_file

if TYPE_CHECKING:
    import yaml

    from orchestration.catalog.products import Product

# What YAML reads as text, and as the same text, without quotes.
PLAIN = re.compile(r"(?!(true|false|yes|no|on|off|null|y|n)$)[^\W\d][\w-]*( [\w-]+)*", re.I)
RECIPE = """\
# What the product is made of: add the datasets that it takes in, by their ids.
name: {name}
product: {slug}
version_strategy: first_of_month
env:
  VERSION_PREV: "{previous}"

inputs:
  missing_versions_strategy: find_latest
  dataset_defaults:
    destination: duckdb
    file_type: parquet
  datasets: []
"""
BUILD_COMMAND = "bash build.sh"
BUILD = """\
#!/usr/bin/env bash
# Makes the product; what it writes here or to $BUILD_ENV_OUTPUT_DIR is its output.
set -euo pipefail
printf 'build\\n%s\\n' "$BUILD_NAME" > "$BUILD_ENV_OUTPUT_DIR/{slug}.csv"
echo "Wrote {slug}.csv"
"""
EPILOG = """\b
Examples:
  python3 -m orchestration new housing
  python3 -m orchestration new "open space" --owner team:parks
  python3 -m orchestration materialize housing main
"""


@click.command("new", short_help="Add a product to the checkout.", epilog=EPILOG)
@click.argument("product")
@click.option("--owner", multiple=True, help="An owner: an e-mail address, or team:name.")
@click.option("--description", help="What the product is.")
def command(product: str, owner: tuple[str, ...], description: str | None) -> int:
    """Add PRODUCT to products.yml, with a folder, a recipe and a build command that runs.

    The rest of products.yml stays as it is.
    """
    from orchestration.catalog.names import slug_of
    from orchestration.catalog.products import read_products
    from orchestration.generator.generate import generate

    root = checkout_root()
    file = products_file(root)
    slug = slug_of(product)
    if not product.strip():
        raise OrchestrationError("The product has no name. Give it one, such as housing.")
    if re.search(r"[/\\]|^\.|^-", product):
        raise OrchestrationError(
            f"{product!r} is no name of a product. Give it one, such as housing."
        )
    folder = product_folder(root, slug)
    if folder.exists():
        raise OrchestrationError(f"{folder} is there already. Choose another name.")
    before = {each.id for each in read_products(file)}
    text = _with_entry(file.read_bytes().decode(), _entry(product, slug, owner, description))
    new = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        new.write_bytes(text.encode())
        os.chmod(new, file.stat().st_mode & 0o777)
        products = _read_as(file, new)
        if {each.id for each in products} != before | {product}:
            raise OrchestrationError(
                f"{file} is not a list of products below `products:` with a line for each field; "
                "add the product by hand."
            )
        folder.mkdir()
        first = date.today().replace(day=1)
        previous = (first - timedelta(days=1)).replace(day=1)
        recipe = RECIPE.format(name=_scalar(product), slug=slug, previous=previous)
        (folder / "recipe.yml").write_text(recipe, encoding="utf-8")
        (folder / "build.sh").write_text(BUILD.format(slug=slug))
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)
    generate(root)
    for path in (file, folder / "recipe.yml", folder / "build.sh"):
        print(f"{'changed' if path == file else 'added'} {path}")
    print(f"Build it: python3 -m orchestration materialize {slug} main")
    return 0


def _entry(product: str, slug: str, owners: Sequence[str], description: str | None) -> list[str]:
    fields = {"id": _scalar(product), "path": _scalar(slug) if slug != product else None}
    fields |= {"description": _scalar(description) if description else None}
    fields |= {"owners": f"[{', '.join(map(json.dumps, owners))}]" if owners else None}
    fields |= {"build_command": BUILD_COMMAND}
    lines = [f"{name}: {value}" for name, value in fields.items() if value]
    return [f"- {lines[0]}", *(f"  {line}" for line in lines[1:])]


def _scalar(text: str) -> str:
    return text if PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _with_entry(text: str, entry: Sequence[str]) -> str:
    """The text of a product list with one more entry at the end of the products."""
    import yaml

    newline = "\r\n" if "\r\n" in text else "\n"
    root = yaml.compose(text)
    [products] = [
        value
        for key, value in (root.value if isinstance(root, yaml.MappingNode) else ())
        if key.value == "products"
    ]
    start = products.start_mark
    if products.flow_style and not products.value:
        # An empty list: `[]`.
        rest = text[products.end_mark.index :]
        return text[: start.index].rstrip(" ") + newline + newline.join(entry) + rest
    if products.flow_style:
        raise OrchestrationError(
            f"The products of {products_file(checkout_root())} are in one pair of brackets. "
            "Write each below the one before, with a dash, then run this again."
        )
    end = _end(products)
    if text[:end].rpartition("\n")[2].strip():
        # What follows on the same line, such as a comment, belongs to it.
        end = text.index("\n", end) + 1 if "\n" in text[end:] else len(text)
    head, tail = text[:end], text[end:]
    if not head.endswith("\n"):
        head += newline
    gap = newline if _are_apart(text, products) else ""
    indented = newline.join(" " * start.column + line for line in entry)
    return f"{head}{gap}{indented}{newline}{tail}"


def _end(node: "yaml.Node") -> int:
    """Where the last thing in the node ends: PyYAML counts what follows to what is in blocks."""
    import yaml

    if isinstance(node, yaml.CollectionNode) and node.value and not node.flow_style:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    index: int = node.end_mark.index
    return index


def _are_apart(text: str, products: "yaml.Node") -> bool:
    """Whether there is an empty line between the last two entries."""
    if len(products.value) < 2:
        return False
    before, last = products.value[-2:]
    between = text[_end(before) : last.start_mark.index]
    return any(not line.strip() for line in between.splitlines()[1:])


def _read_as(file: Path, new: Path) -> "Sequence[Product]":
    """The products in `new`, whose errors speak of `file`, which it is to become."""
    from orchestration.catalog.products import read_products

    try:
        return read_products(new)
    except OrchestrationError as error:
        said = str(error).replace(str(new), str(file))
        raise OrchestrationError(f"{said}\nNothing was changed.") from error
