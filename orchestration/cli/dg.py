"""All locations as one, for Dagster's own command line, `dg`; nothing else loads them so.

Those that have an interpreter of their own are not among them: it has another.
"""

import importlib

from dagster import Definitions, get_dagster_logger

from orchestration.catalog.checkout import checkout_root, products_file
from orchestration.catalog.names import location_names
from orchestration.catalog.products import read_products

products = read_products(products_file(checkout_root()))
elsewhere = [product.id for product in products if product.definitions_python]
if elsewhere:
    get_dagster_logger().warning(f"Left out, for their definitions_python: {', '.join(elsewhere)}")
defs = Definitions.merge(
    *(
        importlib.import_module(f"orchestration.locations.{name}").defs
        for name in location_names(
            [product.slug for product in products if not product.definitions_python]
        )
    )
)
