"""Who owns an ingest template."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from orchestration import OrchestrationError
from orchestration.catalog.checkout import product_folder
from orchestration.catalog.ingest_groups import IngestGroup
from orchestration.catalog.ingest_templates import IngestTemplate
from orchestration.catalog.products import Product, ProductsFile
from orchestration.catalog.recipes import recipe_inputs


def owned_recipes(products: Iterable[Product]) -> dict[str, list[str]]:
    """The recipes of products that have owners, by their paths below products/, with these."""
    found: dict[str, list[str]] = {}
    for product in products:
        if product.owners:
            found.setdefault(f"{product.folder}/{product.recipe}", []).extend(product.owners)
    return found


def owners_in(
    file: ProductsFile, templates: Sequence[IngestTemplate], root: Path
) -> dict[str, tuple[str, ...]]:
    """The owners of each template of the checkout at `root` that has some, by its id."""
    owned = owned_recipes(file.products)
    recipes = {product_folder(root, path): owners for path, owners in owned.items()}
    return template_owners(templates, file.ingest.groups, recipes)


def template_owners(
    templates: Sequence[IngestTemplate],
    groups: Iterable[IngestGroup],
    recipes: Mapping[Path, Sequence[str]],
) -> dict[str, tuple[str, ...]]:
    """The owners of each template that has some, by its id.

    They are those that the template names, else those of the first of its groups that has some,
    else those of the recipes that take it in, which are given with the owners of their products.
    """
    found: dict[str, tuple[str, ...]] = {t.id: t.owners for t in templates if t.owners}
    for group in groups:
        for name in group.members(t.id for t in templates) if group.owners else ():
            found.setdefault(name, group.owners)
    users: dict[str, list[str]] = {}
    giver = _givers(templates)
    for recipe, owners in recipes.items():
        # Its product says what is wrong with it.
        with suppress(OrchestrationError):
            for name in recipe_inputs(recipe).datasets:
                users.setdefault(giver.get(name, ""), []).extend(owners)
    own = {name: tuple(dict.fromkeys(owners)) for name, owners in users.items() if name}
    return own | found


def _givers(templates: Iterable[IngestTemplate]) -> dict[str, str]:
    """The id of the template that gives a dataset, or a raw source: one of its name, if it does."""
    by_others = {name: each.id for each in reversed([*templates]) for name in each.gives}
    return by_others | {each.id: each.id for each in templates if each.id in each.gives}
