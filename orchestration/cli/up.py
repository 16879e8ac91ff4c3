"""`up`: serves Dagster."""

import os
from pathlib import Path

import click

from orchestration.cli.options import (
    PRIVATE,
    deployed,
    location_list,
    names_option,
    owner_list,
    path_prefix_option,
)

EPILOG = """\b
Examples:
  python3 -m orchestration up
  python3 -m orchestration up --port 8080 --only pluto,ingest
  python3 -m orchestration up --owner team:housing
  python3 -m orchestration up --host-name build1.internal
"""


@click.command("up", short_help="Serve Dagster: the web UI and the daemon.", epilog=EPILOG)
@click.option("--host", default="127.0.0.1", help="Address to listen on.")
@click.option("--port", type=int, default=3000, help="Port to listen on.")
@path_prefix_option
@click.option("--cold", is_flag=True, help="Start every server as a fresh interpreter.")
@names_option(
    "--only",
    metavar="NAME,…",
    help="Serve only these products; `ingest` is the ingest templates.",
    shell_complete=location_list,
)
@names_option(
    "--owner",
    metavar="OWNER,…",
    help="Serve only the products of these owners.",
    shell_complete=owner_list,
)
@click.option("--no-watch", is_flag=True, help="Do not follow changes of the checkout's files.")
@click.option(
    "--host-name",
    metavar="HOST",
    help="Serve what deployment.yml says of this host to the others, without the web UI.",
)
@deployed
def command(
    host: str,
    port: int,
    path_prefix: str,
    cold: bool,
    only: list[str],
    owner: list[str],
    no_watch: bool,
    host_name: str | None,
    deployment: Path | None,
) -> int:
    """Serve Dagster: the web UI and the daemon. Ctrl-C ends it, and all that it started."""
    from orchestration.server.up import up

    if host_name and cold:
        raise click.UsageError("--cold is for one machine: it cannot be used with --host-name.")
    os.umask(PRIVATE)
    return up(
        host=host,
        port=port,
        path_prefix=path_prefix,
        warm=not cold,
        watches=not no_watch,
        only=only,
        owners=owner,
        deployment=deployment,
        host_name=host_name,
    )
