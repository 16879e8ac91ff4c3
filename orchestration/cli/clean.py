"""`clean`: removes old versions, what failed attempts have left, and old runs."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestration import OrchestrationError, counted
from orchestration.cli.moments import local

if TYPE_CHECKING:
    from orchestration.catalog.retention import Retention
    from orchestration.instance.cleaning import Cleaning

EPILOG = """\b
Examples:
  python3 -m orchestration clean
  python3 -m orchestration clean --keep 3 --older-than 90d --yes

Never removed: the latest good version, the starter partitions, what a run works on or takes in, and
the versions of inputs that a recipe or the lock file of a build that stays names.
"""


@click.command("clean", short_help="Remove old versions, failed logs and runs.", epilog=EPILOG)
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    metavar="N",
    show_default=False,
    help="Keep N versions of each product and template. [default: retention in products.yml, or 5]",
)
@click.option(
    "--older-than",
    metavar="AGE",
    show_default=False,
    help="Remove only what is older, such as 90d or 12h. [default: retention, or 30d]",
)
@click.option("--yes", is_flag=True, help="Remove it. Else it is only said what would be removed.")
def command(keep: int | None, older_than: str | None, yes: bool) -> int:
    """Remove old versions, what failed attempts have left, and old runs.

    The exit code is 1 where something could not be looked at, or not be removed.
    """
    from orchestration.catalog.checkout import checkout_root, products_file
    from orchestration.catalog.products import read_products_file
    from orchestration.instance.cleaning import Cleaner
    from orchestration.instance.home import open_instance, prepare_dagster_home
    from orchestration.lifecycle.results import lifecycle_dir

    root = checkout_root()
    file = read_products_file(products_file(root))
    retention = _retention(file.retention, keep=keep, older_than=older_than)
    prepare_dagster_home()
    with open_instance(lambda _: None) as instance:
        cleaner = Cleaner(
            instance,
            retention,
            lifecycle=lifecycle_dir(),
            root=root,
            products=file.products,
            now=time.time(),
        )
        cleaning = cleaner.remove() if yes else cleaner.find()
    print("\n".join(_lines(cleaning, retention, lifecycle_dir(), is_done=yes)))
    return 1 if cleaning.problems else 0


def _retention(
    configured: "Retention | None", *, keep: int | None, older_than: str | None
) -> "Retention":
    from pydantic import ValidationError

    from orchestration.catalog.retention import Retention

    options = {"keep": keep, "older_than": older_than}
    given = {name: value for name, value in options.items() if value is not None}
    known = configured or Retention()
    try:
        parsed = Retention.model_validate(given)
    except ValidationError as error:
        [first, *_] = error.errors()
        option = str(first["loc"][0]).replace("_", "-")
        raise OrchestrationError(
            f"--{option} {first['msg'].removeprefix('Value error, ')}"
        ) from None
    return known.model_copy(update={name: getattr(parsed, name) for name in given})


def _lines(
    cleaning: "Cleaning", retention: "Retention", lifecycle: Path, *, is_done: bool
) -> Iterator[str]:
    rows = [_row(found, lifecycle) for found in cleaning.found]
    rows += [(f"schema {schema.name} in {schema.place}", "", "") for schema in cleaning.schemas]
    if cleaning.runs:
        rows.append((f"{counted(len(cleaning.runs), 'run')} and their events", "", ""))
    yield from _table(rows)
    yield from cleaning.problems
    versions = sum(found.is_whole for found in cleaning.found)
    parts = (
        counted(versions, "version"),
        counted(len(cleaning.found) - versions, "leftover"),
        counted(len(cleaning.schemas), "Postgres schema"),
        counted(len(cleaning.runs), "run"),
    )
    size = _megabytes(sum(found.bytes for found in cleaning.found))
    found = f"{', '.join(part for part in parts if not part.startswith('0 '))}; {size}"
    hours = round(retention.older_than / 3600)
    age = counted(hours // 24, "day") if hours % 24 == 0 else counted(hours, "hour")
    yield (
        f"{'Removed' if is_done else 'To be removed'}: {found if rows else 'nothing'}. Kept: "
        f"{counted(retention.keep, 'version')} of each, and all of the last {age}."
    )
    if rows and not is_done:
        yield "Nothing is removed yet: --yes does that."


def _row(found: Any, lifecycle: Path) -> tuple[str, str, str]:
    path = str(found.path.relative_to(lifecycle))
    return path, local(found.time), _megabytes(found.bytes)


def _table(rows: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(map(str.ljust, row, widths)).rstrip()


def _megabytes(number: int) -> str:
    return f"{number / 1e6:.1f} MB"
