"""`materialize`: runs without a server what the UI's Materialize button runs with one."""

import os

import click

from orchestration.catalog.checkout import checkout_root, products_file
from orchestration.cli.options import PRIVATE


@click.command(
    "materialize", short_help="Run a product, a stage or an ingest template without a server."
)
@click.argument("selection")
@click.argument("partition")
def command(selection: str, partition: str) -> int:
    """Run a product, a stage or an ingest template without a server.

    SELECTION is a product, PRODUCT/STAGE, or ingest/TEMPLATE (libraries/plan, …). PARTITION is a
    build, as VERSION-NOTE (2026.1-1_first); a version for ingest.
    """
    from orchestration.catalog.products import read_products
    from orchestration.cli.local_runs import materialize
    from orchestration.cli.selection import select
    from orchestration.instance.home import prepare_dagster_home

    os.umask(PRIVATE)
    selected = select(selection, read_products(products_file(checkout_root())))
    prepare_dagster_home()
    return 0 if materialize(selected, partition) else 1
