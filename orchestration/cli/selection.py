"""What to materialize, as it is written on the command line."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestration import OrchestrationError
from orchestration.catalog.names import (
    INGEST,
    STAGES,
    build_partition_set,
    ingest_partition_set,
)
from orchestration.catalog.products import Product


@dataclass(frozen=True)
class Selection:
    """Assets of one location, in one partition set."""

    location: str
    assets: tuple[str, ...]
    """The second parts of their keys: stages, or a template's id."""
    partition_set: str


def select(text: str, products: Sequence[Product]) -> Selection:
    """Reads `<product>`, `<product>/<stage>` or `ingest/<template id>`; a product by slug or id.

    Raises OrchestrationError where there is no such thing, and says what there is.
    """
    for product in products:
        for name in (product.id, product.slug):
            if text == name:
                return _stages(product.slug, STAGES)
            if text.startswith(f"{name}/") and text[len(name) + 1 :] in STAGES:
                return _stages(product.slug, (text[len(name) + 1 :],))
    location, _, template = text.partition("/")
    if location == INGEST and template:
        return Selection(INGEST, (template,), ingest_partition_set(template))
    raise OrchestrationError(
        f"There is nothing called {text!r}. It can be a product, one of its stages, or "
        f"ingest/<template id>. The products: {', '.join(product.slug for product in products)}."
    )


def _stages(slug: str, stages: tuple[str, ...]) -> Selection:
    return Selection(slug, stages, build_partition_set(slug))
