"""`list`: the products and ingest templates of the checkout, and what has become of them."""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import click

from orchestration import OrchestrationError
from orchestration.catalog.checkout import checkout_root, products_file, templates_folder
from orchestration.cli.moments import Moment, iso, last_lines, schedule_lines
from orchestration.cli.options import PRIVATE

if TYPE_CHECKING:
    from orchestration.catalog.ingest_groups import IngestGroup
    from orchestration.catalog.products import ProductsFile

EPILOG = """\b
Examples:
  python3 -m orchestration list
  python3 -m orchestration list --json
"""
SHOWN_PARTITIONS = 6


@dataclass
class Listed:
    """A product or an ingest template, with what is known of it."""

    name: str
    location: str | None = None
    """Of a product, what it is called in Dagster and by `status`."""
    owners: Sequence[str] = ()
    description: str | None = None
    schedules: Sequence[dict[str, Any]] = ()
    follows_inputs: bool | None = None
    """Whether it is built when all of its inputs are new; None where it is not to be."""
    partitions: Sequence[str] = ()
    last_good: Moment | None = None
    last_failed: Moment | None = None
    problem: str | None = None
    """Why it cannot be loaded, or read."""

    def described(self) -> dict[str, Any]:
        """As a program reads it, its times in ISO 8601."""
        return {
            **asdict(self),
            "schedules": [{**each, "next": iso(each["next"])} for each in self.schedules],
            "last_good": self.last_good and self.last_good.described(),
            "last_failed": self.last_failed and self.last_failed.described(),
        }


@dataclass
class Listing:
    """All there is."""

    products: list[Listed] = field(default_factory=list)
    groups: list[Listed] = field(default_factory=list)
    """The groups of ingest templates."""
    templates: list[Listed] = field(default_factory=list)
    problem: str | None = None
    """Why there are no templates, if something is wrong with that."""


@click.command("list", short_help="List products and ingest templates.", epilog=EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print all that is known as JSON.")
def command(as_json: bool) -> int:
    """List products, their owners, schedules and builds, and the ingest templates.

    Times are this machine's. No server is needed; `status` asks a running one.
    """
    from orchestration.catalog.products import read_products_file
    from orchestration.instance.home import prepare_dagster_home

    os.umask(PRIVATE)
    file = read_products_file(products_file(checkout_root()))
    prepare_dagster_home()
    listing = _listing(file)
    if as_json:
        data = {
            "products": [each.described() for each in listing.products],
            "ingest_groups": [each.described() for each in listing.groups],
            "ingest_templates": [each.described() for each in listing.templates],
        }
        print(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        print("\n".join(_text(listing)))
    if listing.problem:
        print(listing.problem, file=sys.stderr)
    return 1 if listing.problem else 0


def _listing(file: "ProductsFile") -> Listing:
    from orchestration.catalog.ingest_templates import read_templates
    from orchestration.catalog.names import (
        STAGES,
        build_partition_set,
        following_sensor,
        ingest_partition_set,
    )
    from orchestration.catalog.template_owners import owners_in
    from orchestration.cli.forks import Tell, each_in_a_fork, importing
    from orchestration.definitions.interpreter import Interpreter

    with importing():
        from dagster import AssetKey

        from orchestration.cli import definitions, history
        from orchestration.instance.home import open_instance

    slugs = [product.slug for product in file.products]
    modules = definitions.modules(file)
    root = checkout_root()
    interpreters = {product.slug: Interpreter.of(product, root) for product in file.products}

    def load(name: str, tell: Tell) -> None:
        definitions.describe(name, modules[name], tell, interpreters[name])

    told = {
        name: {key: value for message in messages for key, value in message.items()}
        for name, messages, _ in each_in_a_fork(slugs, load)
    }
    templates, problem = [], None
    try:
        templates = read_templates(templates_folder(root))
    except OrchestrationError as error:
        problem = str(error)
    owners = owners_in(file, templates, root)
    with open_instance(lambda _: None) as instance:
        built = {AssetKey([slug, STAGES[2]]): slug for slug in slugs}
        ingested = [AssetKey(["ingest", template.id]) for template in templates]
        good = history.last_good(instance, [*built, *ingested])
        failed = history.last_failed(instance)
        switched = history.switched_schedules(instance)
        for slug in slugs:
            for schedule in told[slug].get("schedules", ()):
                schedule["is_on"] = switched.get((slug, schedule["name"]), schedule["is_on"])
        return Listing(
            products=[
                Listed(
                    name=product.id,
                    location=product.slug,
                    owners=product.owners,
                    description=product.description,
                    schedules=told[product.slug].get("schedules", ()),
                    follows_inputs=switched.get(
                        (product.slug, following_sensor(product.slug)), True
                    )
                    if any(each.follows_inputs for each in product.schedule)
                    else None,
                    partitions=instance.get_dynamic_partitions(build_partition_set(product.slug)),
                    last_good=good.get(AssetKey([product.slug, STAGES[2]])),
                    last_failed=failed.get(product.slug),
                    problem=told[product.slug].get("problem"),
                )
                for product in file.products
            ],
            groups=[
                Listed(
                    name=group.name,
                    description=f"{', '.join(group.templates)}: {group.version}",
                    schedules=_schedules(group, switched),
                )
                for group in file.ingest.groups
            ],
            templates=[
                Listed(
                    name=f"ingest/{template.id}",
                    owners=owners.get(template.id, ()),
                    description=template.name,
                    partitions=instance.get_dynamic_partitions(ingest_partition_set(template.id)),
                    last_good=good.get(AssetKey(["ingest", template.id])),
                    last_failed=failed.get(f"ingest/{template.id}"),
                    problem=template.problem,
                )
                for template in templates
            ],
            problem=problem,
        )


def _schedules(
    group: "IngestGroup", switched: Mapping[tuple[str, str], bool]
) -> list[dict[str, Any]]:
    from orchestration.catalog.names import INGEST
    from orchestration.catalog.schedules import schedule_names
    from orchestration.processes.dagster_internals import next_tick

    return [
        {
            "name": name,
            "cron": schedule.cron,
            "timezone": schedule.timezone,
            "is_on": switched.get((INGEST, name), True),
            "next": next_tick(schedule.cron, schedule.timezone),
        }
        for name, schedule in schedule_names(group.job, group.schedule).items()
    ]


def _text(listing: Listing) -> Iterable[str]:
    for product in listing.products:
        yield _heading(product)
        yield from schedule_lines(product.schedules, product.follows_inputs)
        keys = product.partitions
        more = f" and {len(keys) - SHOWN_PARTITIONS} more" if len(keys) > SHOWN_PARTITIONS else ""
        yield f"  partitions   {', '.join(keys[-SHOWN_PARTITIONS:]) or 'none'}{more}"
        yield from _moments(product)
        yield ""
    for group in listing.groups:
        yield f"ingest group {group.name}  {group.description}"
        yield from schedule_lines(group.schedules)
        yield ""
    for template in listing.templates:
        yield _heading(template)
        yield from _moments(template)


def _heading(listed: Listed) -> str:
    name = listed.name
    if listed.location not in (None, name):
        name = f"{name} ({listed.location})"
    return f"{name}  {', '.join(listed.owners)}".rstrip()


def _moments(listed: Listed) -> Iterable[str]:
    if listed.problem:
        yield f"  broken       {listed.problem}"
    yield from last_lines(listed.last_good, listed.last_failed)
