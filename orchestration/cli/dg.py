"""All locations as one, for Dagster's own command line, `dg`; nothing else loads them so."""

import importlib

from dagster import Definitions

from orchestration.catalog.checkout import checkout_root, products_file
from orchestration.catalog.names import location_names
from orchestration.catalog.products import read_products

defs = Definitions.merge(
    *(
        importlib.import_module(f"orchestration.locations.{name}").defs
        for name in location_names(
            [product.slug for product in read_products(products_file(checkout_root()))]
        )
    )
)
