"""`init`: a product list for a checkout that has none."""

import click

from orchestration import counted
from orchestration.catalog.checkout import PRODUCTS_FILE, checkout_root, is_checkout, products_file

EPILOG = """\b
Examples:
  python3 -m orchestration init
  DATA_ENGINEERING_ROOT=../data-engineering python3 -m orchestration init
"""


@click.command("init", short_help="Write products.yml from the recipes.", epilog=EPILOG)
def command() -> int:
    """Write products/products.yml for a checkout that has none, from its recipes.

    Where a recipe does not say how the product is built, what its workflow runs after load stands
    as a comment above the build command, ready to be taken over.
    """
    from orchestration.generator.product_list import write_product_list

    root = checkout_root()
    if not is_checkout(root):
        products_file(root)
    count, unknown = write_product_list(root)
    print(f"Wrote {root / PRODUCTS_FILE} with {counted(count, 'product')}.")
    if unknown:
        print("What could not be known:")
    for sentence in unknown:
        print(f"  {sentence}")
    return 0
