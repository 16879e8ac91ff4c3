"""`generate`: writes what follows from products.yml."""

import sys
from pathlib import Path

import click

from orchestration import counted
from orchestration.catalog.checkout import checkout_root, products_file
from orchestration.cli.options import deployed

EPILOG = """\b
Examples:
  python -m orchestration generate
  python -m orchestration generate --check
  python -m orchestration generate --schema > products.schema.json
"""


@click.command("generate", short_help="Write the code locations and workspace.yaml.", epilog=EPILOG)
@click.option("--check", is_flag=True, help="Write nothing; exit 1 and show a diff if stale.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of products.yml, for editors.")
@click.option(
    "--deployment-schema", is_flag=True, help="Print the JSON Schema of deployment.yml, likewise."
)
@deployed
def command(check: bool, schema: bool, deployment_schema: bool, deployment: Path | None) -> int:
    """Write the code locations and workspace.yaml from products.yml and deployment.yml."""
    from orchestration.catalog.deployment import deployment_schema_text, read_deployment
    from orchestration.catalog.products import json_schema_text, read_products_file
    from orchestration.generator.generate import pending_changes, warnings, write

    if schema:
        print(json_schema_text(), end="")
        return 0
    if deployment_schema:
        print(deployment_schema_text(), end="")
        return 0
    root = checkout_root()
    file = read_products_file(products_file(root))
    changes = pending_changes(file, deployment=read_deployment(root, deployment, file.products))
    for warning in warnings(file, root):
        print(f"warning: {warning}", file=sys.stderr)
    if check:
        sys.stdout.writelines(change.diff for change in changes)
        return 1 if changes else 0
    write(changes)
    for change in changes:
        verb = "removed" if change.new is None else "added" if change.old is None else "changed"
        print(f"{verb} {change.path}")
    products, changed = counted(len(file.products), "product"), counted(len(changes), "file")
    print(f"{products} and ingest: {changed} changed")
    return 0
