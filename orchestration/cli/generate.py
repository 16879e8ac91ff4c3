"""`generate`: writes what follows from products.yml."""

import sys
from pathlib import Path

import click

from orchestration import counted
from orchestration.catalog.checkout import checkout_root, products_file
from orchestration.cli.options import deployed, names_option

EPILOG = """\b
Examples:
  python3 -m orchestration generate
  python3 -m orchestration generate --check
  python3 -m orchestration generate --schema > products.schema.json
  python3 -m orchestration generate --kubernetes --owner team:housing
"""


@click.command("generate", short_help="Write the code locations and workspace.yaml.", epilog=EPILOG)
@click.option("--check", is_flag=True, help="Write nothing; exit 1 and show a diff if stale.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of products.yml, for editors.")
@click.option(
    "--deployment-schema", is_flag=True, help="Print the JSON Schema of deployment.yml, likewise."
)
@deployed
@click.option("--kubernetes", is_flag=True, help="Write the values for Dagster's Helm chart, too.")
@names_option(
    "--owner",
    metavar="OWNER,…",
    help="With --kubernetes: a release of their own for the products of these owners.",
)
def command(
    check: bool,
    schema: bool,
    deployment_schema: bool,
    deployment: Path | None,
    kubernetes: bool,
    owner: list[str],
) -> int:
    """Write the code locations and workspace.yaml from products.yml and deployment.yml.

    The values for a cluster, once written, are kept up to date with them.
    """
    from orchestration.catalog.deployment import deployment_schema_text, read_deployment
    from orchestration.catalog.products import json_schema_text, read_products_file
    from orchestration.code_servers.selection import Selection
    from orchestration.generator.generate import pending_changes, warnings, write

    if schema:
        print(json_schema_text(), end="")
        return 0
    if deployment_schema:
        print(deployment_schema_text(), end="")
        return 0
    root = checkout_root()
    file = read_products_file(products_file(root))
    if owner and not kubernetes:
        raise click.UsageError("--owner needs --kubernetes.")
    changes = pending_changes(
        file,
        deployment=read_deployment(root, deployment, file.products),
        kubernetes=kubernetes,
        releases=Selection([], owner).owners(file.products),
    )
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
