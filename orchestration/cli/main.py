"""The command line: which commands there are, their options, and exit codes."""

import argparse
import json
import os
import sys
from collections.abc import Sequence

from orchestration import OrchestrationError, explained
from orchestration.catalog.checkout import checkout_root, products_file

# What runs leave, and Dagster's database, is for the owner only.
PRIVATE = 0o077


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and gives the process's exit code."""
    options = _parser().parse_args(arguments)
    # Whatever is started from here must find the same checkout, from any working directory.
    os.environ["DATA_ENGINEERING_ROOT"] = str(checkout_root())
    try:
        return int(options.run(options))
    except OrchestrationError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(explained(error), file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orchestration",
        description="NYC data products in Dagster, one code location per product. The checkout is "
        "DATA_ENGINEERING_ROOT, else the nearest one above this folder, else the bundled sample.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    generate = commands.add_parser(
        "generate", help="write the code locations and workspace.yaml from products.yml"
    )
    generate.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 and show a diff if stale"
    )
    generate.add_argument(
        "--schema", action="store_true", help="print the JSON Schema of products.yml, for editors"
    )
    generate.set_defaults(run=_generate)

    up = commands.add_parser("up", help="serve Dagster: the web UI and the daemon")
    up.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    up.add_argument("--port", type=int, default=3000, help="port to listen on (%(default)s)")
    up.add_argument("--cold", action="store_true", help="start every server as a fresh interpreter")
    up.add_argument(
        "--only",
        type=_comma_separated,
        default=[],
        metavar="NAME,…",
        help="serve only these products; `ingest` is the ingest templates",
    )
    up.add_argument(
        "--owner",
        type=_comma_separated,
        default=[],
        metavar="OWNER,…",
        help="serve only the products of these owners",
    )
    up.add_argument(
        "--no-watch", action="store_true", help="do not follow changes of the checkout's files"
    )
    up.set_defaults(run=_up)

    status = commands.add_parser(
        "status", help="list what a running server serves; exit 1 if any of it is broken"
    )
    status.add_argument("--host", default="127.0.0.1", help="the server's address (%(default)s)")
    status.add_argument("--port", type=int, default=3000, help="the server's port (%(default)s)")
    status.set_defaults(run=_status)

    materialize = commands.add_parser(
        "materialize", help="run a product, a stage or an ingest template without a server"
    )
    materialize.add_argument(
        "selection", help="a product, PRODUCT/STAGE, or ingest/TEMPLATE (libraries/plan, …)"
    )
    materialize.add_argument(
        "partition", help="a build, as VERSION-NOTE (2026.1-1_first); a version for ingest"
    )
    materialize.set_defaults(run=_materialize)
    return parser


def _generate(options: argparse.Namespace) -> int:
    from orchestration.catalog.products import json_schema, read_products
    from orchestration.generator.generate import pending_changes, warnings, write

    if options.schema:
        print(json.dumps(json_schema(), indent=2))
        return 0
    root = checkout_root()
    products = read_products(products_file(root))
    changes = pending_changes(products)
    for warning in warnings(products, root):
        print(f"warning: {warning}", file=sys.stderr)
    if options.check:
        sys.stdout.writelines(change.diff for change in changes)
        return 1 if changes else 0
    write(changes)
    for change in changes:
        verb = "removed" if change.new is None else "added" if change.old is None else "changed"
        print(f"{verb} {change.path}")
    print(f"{len(products)} products and ingest: {len(changes)} files changed")
    return 0


def _materialize(options: argparse.Namespace) -> int:
    from orchestration.catalog.products import read_products
    from orchestration.cli.materialize import materialize, select
    from orchestration.instance.home import prepare_dagster_home

    os.umask(PRIVATE)
    selection = select(options.selection, read_products(products_file(checkout_root())))
    prepare_dagster_home()
    return 0 if materialize(selection, options.partition) else 1


def _up(options: argparse.Namespace) -> int:
    from orchestration.server.up import up

    os.umask(PRIVATE)
    return up(
        host=options.host,
        port=options.port,
        warm=not options.cold,
        watches=not options.no_watch,
        only=options.only,
        owners=options.owner,
    )


def _status(options: argparse.Namespace) -> int:
    from orchestration.cli.status import read_status, table

    locations = read_status(f"http://{options.host}:{options.port}")
    sys.stdout.write(table(locations))
    return 1 if any(location.error for location in locations) else 0


def _comma_separated(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
