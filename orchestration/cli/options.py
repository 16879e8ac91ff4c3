"""Options that several commands have, and the types of their values."""

from typing import Any

import click


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
