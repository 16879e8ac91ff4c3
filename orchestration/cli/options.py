"""Options that several commands have, and the types of their values."""

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestration import OrchestrationError
from orchestration.catalog.names import location_names, url_of

if TYPE_CHECKING:
    from orchestration.cli.selection import Catalog


class CommaSeparated(click.ParamType[list[str]]):
    """Names with commas between them, as a list."""

    name = "names"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[str]:
        if isinstance(value, list):
            return value
        return [part.strip() for part in str(value).split(",") if part.strip()]


class PathPrefix(click.ParamType[str]):
    """The path below which a proxy serves Dagster; empty, or `/` and more."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value and (not value.startswith("/") or value.endswith("/")):
            self.fail(f"{value!r} must begin with `/`, and not end with it.", param, ctx)
        return str(value)


PORT = click.IntRange(1, 65535)
PRIVATE = 0o077
"""The umask of what leaves something: what runs leave, and Dagster's database, is its owner's."""


class Config(click.ParamType[dict[str, Any]]):
    """A mapping in YAML or JSON, or a file that holds one."""

    name = "config"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, Any]:
        import yaml

        if isinstance(value, dict):
            return value
        text, place = str(value), "the config"
        try:
            if len(text) < 1000 and Path(text).is_file():
                text, place = Path(text).read_text(encoding="utf-8"), text
            data = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, OSError) as error:
            self.fail(f"{place} cannot be read: {error}", param, ctx)
        if isinstance(data, str) and place != text:
            self.fail(f"{text!r} is neither a file nor a mapping, such as 'push: true'", param, ctx)
        if not isinstance(data, dict) or not all(isinstance(name, str) for name in data):
            self.fail(f"{place} must be a mapping, such as 'push: true'", param, ctx)
        return data


Command = Callable[..., int]


Completing = Callable[[click.Context, click.Parameter, str], list[str]]


def names_option(
    *declarations: str, metavar: str, help: str, shell_complete: Completing | None = None
) -> Callable[[Command], Command]:
    """An option that takes names with commas between them; none is an empty list."""
    return click.option(
        *declarations,
        type=CommaSeparated(),
        default="",
        metavar=metavar,
        show_default=False,
        help=help,
        shell_complete=shell_complete,
    )


def _catalog() -> "Catalog | None":
    from orchestration.catalog.checkout import checkout_root
    from orchestration.cli.selection import Catalog

    try:
        return Catalog(checkout_root())
    except OrchestrationError:
        return None


def _list_of(names: "Callable[[Catalog], Iterable[str]]") -> Completing:
    """How a list of such names with commas between them goes on."""

    def complete(_: click.Context, __: click.Parameter, begun: str) -> list[str]:
        before, comma, last = begun.rpartition(",")
        known = names(catalog) if (catalog := _catalog()) else ()
        return [f"{before}{comma}{name}" for name in known if name.startswith(last)]

    return complete


product_list = _list_of(lambda catalog: (product.slug for product in catalog.products))
location_list = _list_of(
    lambda catalog: location_names([product.slug for product in catalog.products])
)
owner_list = _list_of(lambda catalog: catalog.owners)
group_list = _list_of(
    lambda catalog: [
        *location_names([product.slug for product in catalog.products]),
        *catalog.group_slugs,
    ]
)
ingest_group_list = _list_of(lambda catalog: catalog.group_slugs)


def partitions(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """How the key of a partition goes on, of what is selected before it."""
    # The last word is taken for the partition as long as that has not been written.
    chosen = [context.params.get("selection"), context.params.get("partition")]
    names = [name for each in chosen for name in ([each] if isinstance(each, str) else each or ())]
    keys = catalog.partitions(names) if (catalog := _catalog()) else []
    return [key for key in keys if key.startswith(begun)]


def selections(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    """How what can be selected goes on: products first, then what is below one, or `ingest`.

    Or its partition, where something is selected already.
    """
    from orchestration.catalog.names import INGEST, STAGES

    if not (catalog := _catalog()):
        return []
    location, slash, _rest = begun.partition("/")
    below = catalog.template_ids if location == INGEST else STAGES
    slugs = [product.slug for product in catalog.products]
    names = [f"{location}/{name}" for name in below] if slash else [*slugs, f"{INGEST}/"]
    found = [name for name in names if name.startswith(begun)]
    return [*found, *partitions(context, parameter, begun)]


path_prefix_option = click.option(
    "--path-prefix",
    type=PathPrefix(),
    default="",
    metavar="/PATH",
    show_default=False,
    help="Path below which a proxy serves it, such as /dagster.",
)


def selecting(command: Command) -> Command:
    """Gives a command the arguments and options by which assets are selected and configured."""
    for decorate in reversed(
        (
            click.argument("selection", nargs=-1, shell_complete=selections),
            click.argument("partition"),
            click.option("--all", "everything", is_flag=True, help="All products."),
            names_option(
                "--owner",
                metavar="OWNER,…",
                help="The products of these owners.",
                shell_complete=owner_list,
            ),
            names_option(
                "--group",
                metavar="GROUP,…",
                help="All assets of these groups of the UI; `ingest` is the ingest templates.",
                shell_complete=group_list,
            ),
            click.option(
                "--config",
                type=Config(),
                help="Options of the assets, as YAML or JSON or a file of it: 'output_csv: true'.",
            ),
            click.option(
                "--push", is_flag=True, help="Archive what is ingested in the team's storage."
            ),
            click.option(
                "--latest", is_flag=True, help="With --push: as the latest version there."
            ),
        )
    ):
        command = decorate(command)
    return command


def executing(command: Command) -> Command:
    """Gives a command the options of how runs are executed here, and shown."""
    for decorate in reversed(
        (
            click.option(
                "--jobs", type=click.IntRange(min=1), default=1, help="So many runs at a time."
            ),
            click.option(
                "--verbose", is_flag=True, help="Show tracebacks, which are in the logs otherwise."
            ),
            click.option(
                "--json", "as_json", is_flag=True, help="Print a line of JSON per run at the end."
            ),
        )
    ):
        command = decorate(command)
    return command


def with_storage(config: Mapping[str, Any], *, push: bool, latest: bool) -> dict[str, Any]:
    """The config with what --push and --latest say. Raises click.UsageError where they clash."""
    found = {**config, **({"push": True} if push else {}), **({"latest": True} if latest else {})}
    if found.get("latest") and not found.get("push"):
        raise click.UsageError("--latest needs --push: there is no latest version but in storage.")
    return found


def deployed(command: Command) -> Command:
    """Gives a command the option that names the file which says where what is served."""
    return click.option(
        "--deployment",
        type=click.Path(dir_okay=False, resolve_path=True, path_type=Path),
        metavar="FILE",
        help="Which host serves what. Default: products/deployment.yml, if the checkout has it.",
    )(command)


def serving(command: Command) -> Command:
    """Gives a command the options that say where the server is, as its `url`."""

    @functools.wraps(command)
    def with_url(*, host: str, port: int, path_prefix: str, **others: Any) -> int:
        return command(url=url_of(host, port, path_prefix), **others)

    for decorate in reversed(
        (
            click.option("--host", default="127.0.0.1", help="The server's address."),
            click.option("--port", type=PORT, default=3000, help="The server's port."),
            path_prefix_option,
        )
    ):
        with_url = decorate(with_url)
    return with_url
