"""All locations as one, for Dagster's own command line, `dg`; nothing else loads them so.

Those that have an interpreter of their own are not among them: it has another.
"""

import importlib

from dagster import AssetSpec, Definitions, get_dagster_logger

from orchestration.catalog.checkout import checkout_root, products_file
from orchestration.catalog.names import location_names
from orchestration.catalog.products import read_products
from orchestration.definitions.product import STUB


def _without_stubs(definitions: Definitions) -> Definitions:
    """The location's definitions, without what stands in for the inputs that another has."""
    return Definitions(
        assets=[
            each
            for each in definitions.assets or ()
            if not (isinstance(each, AssetSpec) and STUB in each.metadata)
        ],
        asset_checks=definitions.asset_checks,
        jobs=definitions.jobs,
        schedules=definitions.schedules,
        sensors=definitions.sensors,
        resources=definitions.resources,
        executor=definitions.executor,
        loggers=definitions.loggers,
    )


products = read_products(products_file(checkout_root()))
elsewhere = [product.id for product in products if product.definitions_python]
if elsewhere:
    get_dagster_logger().warning(f"Left out, for their definitions_python: {', '.join(elsewhere)}")
defs = Definitions.merge(
    *(
        _without_stubs(importlib.import_module(f"orchestration.locations.{name}").defs)
        for name in location_names(
            [product.slug for product in products if not product.definitions_python]
        )
    )
)
