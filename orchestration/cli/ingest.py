"""`ingest`: what a product takes in, or a group of templates, without a server."""

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from orchestration.catalog.checkout import checkout_root
from orchestration.cli.options import (
    PRIVATE,
    executing,
    ingest_group_list,
    names_option,
    product_list,
)

if TYPE_CHECKING:
    from orchestration.cli.runs import Run
    from orchestration.cli.selection import Catalog

EPILOG = """\b
Examples:
  python3 -m orchestration ingest --for libraries 20260101
  python3 -m orchestration ingest --for libraries --jobs 4
  python3 -m orchestration ingest --group "city libraries"
"""


@click.command("ingest", short_help="Ingest all inputs of products, or groups.", epilog=EPILOG)
@click.argument("version", required=False)
@names_option(
    "--for",
    "products",
    metavar="PRODUCT,…",
    help="All that these products take in.",
    shell_complete=product_list,
)
@names_option(
    "--group",
    "groups",
    metavar="GROUP,…",
    help="The templates of these groups of products.yml.",
    shell_complete=ingest_group_list,
)
@executing
def command(
    version: str | None,
    products: list[str],
    groups: list[str],
    jobs: int,
    verbose: bool,
    as_json: bool,
) -> int:
    """Ingest one VERSION of all inputs of products, or of all templates of a group.

    Without a VERSION it is a group's own. Where that is `source`, and for a product's inputs, each
    source is asked which version it has, and what is there already is left out.
    """
    from orchestration.cli.forks import importing

    if not products and not groups:
        raise click.UsageError("Nothing is selected. Use --for or --group.")
    os.umask(PRIVATE)
    with importing():
        from orchestration.cli.materialize import run_here
        from orchestration.cli.selection import Catalog

    catalog = Catalog(checkout_root())
    wanted = [*catalog.inputs(products), *catalog.ingest_groups(groups)]
    runs: dict[tuple[str, str], Run] = {}
    problems: list[str] = []
    for whose, templates, own_version in wanted:
        versions = _versions(whose, templates, version or own_version, problems)
        for run in _runs(catalog, versions):
            runs.setdefault((run.selection.name, run.partition), run)
    status = run_here(catalog, list(runs.values()), jobs=jobs, verbose=verbose, as_json=as_json)
    for problem in problems:
        print(problem, file=sys.stderr)
    return status or (1 if problems else 0)


def _versions(
    whose: str, templates: Sequence[str], version: str, problems: list[str]
) -> Mapping[str, str]:
    """Which version of which template is to be ingested; what is not known is added to problems."""
    from orchestration.catalog.ingest_groups import SOURCE
    from orchestration.catalog.schedules import key_at, now
    from orchestration.lifecycle.results import ingest_result, lifecycle_dir
    from orchestration.lifecycle.source_versions import source_versions

    if version != SOURCE:
        return dict.fromkeys(templates, key_at(version, now("UTC")))
    silent = logging.Logger("versions", level=logging.CRITICAL)
    asked = source_versions(whose, templates, silent)
    problems += asked.problems.values()
    new = {}
    for name, key in asked.versions.items():
        if ingest_result(lifecycle_dir(), name, key).exists():
            print(f"ingest/{name} has version {key} already", file=sys.stderr)
        else:
            new[name] = key
    return new


def _runs(catalog: "Catalog", versions: Mapping[str, str]) -> "Iterator[Run]":
    from orchestration.cli.runs import Run

    runs = {name: Run(catalog.template(name), key) for name, key in versions.items()}
    for run in runs.values():
        upstream = catalog.upstream(run.selection)
        run.after = [runs[name] for name in sorted(upstream & set(runs))]
        run.check_partition()
        yield run
