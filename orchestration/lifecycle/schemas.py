"""The Postgres schemas of builds: which of them are this program's, and the removal of old ones.

A schema that a load has made is marked as such in a comment of its own, in the database. What is
not marked, or by another lifecycle folder, is somebody else's.
"""

import json
import logging
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestration.lifecycle.results import locked, write_whole

CONNECT_SECONDS = 5
# In the lifecycle folder: what tells its builds from those of another one in the same database.
IDENTITY = ".identity"
MARK = "orchestration"
# What libpq does not read as something else than it is meant: in what it says of that it quotes
# what it has found, which may be a part of the password.
ADDRESS = re.compile(
    r"postgresql://([^@/]*@)?(\[[^]@/]*\]|[^@/:,]*)(:\d+)?(,(\[[^]@/]*\]|[^@/:,]*)(:\d+)?)*(/[^@]*)?"
)
NO_ADDRESS = (
    "BUILD_ENGINE_SERVER and BUILD_ENGINE_DB give no address of a database, such as "
    "postgresql://user:password@host:5432/database. In a password, write `@`, `/`, `:` and `%` as "
    "%40, %2F, %3A and %25."
)
COMMENTS = """
select nspname, obj_description(oid, 'pg_namespace') from pg_namespace
where obj_description(oid, 'pg_namespace') like %s
"""
# What dbt makes beside a build's schema: BUILD_ENGINE_SCHEMA_TESTS.
TESTS = "__tests"


@dataclass(frozen=True)
class Schema:
    """A schema that a build has made, where the database is `dsn`."""

    name: str
    product: str
    """The product's slug."""
    partition: str
    dsn: str

    @property
    def place(self) -> str:
        """The database without its user and password, to be told."""
        return self.dsn.rpartition("@")[2]


def dsn_of(env: Mapping[str, str]) -> str | None:
    """The database of builds with this environment, if they have one."""
    server, database = env.get("BUILD_ENGINE_SERVER"), env.get("BUILD_ENGINE_DB")
    is_address = server and database and server.startswith("postgresql://")
    return f"{server}/{database}" if is_address else None


@contextmanager
def marked(
    env: Mapping[str, str], lifecycle: Path, product: str, partition: str, logger: logging.Logger
) -> Iterator[None]:
    """Marks the schema of the environment as the build's, if it is made anew in the block."""
    name, dsn = env.get("BUILD_ENGINE_SCHEMA", ""), dsn_of(env)
    if not dsn:
        yield
        return
    import psycopg2

    def complain(error: psycopg2.Error) -> None:
        # Whether it matters, dcpy will say: not every build has something in Postgres.
        logger.info(f"The schema {name} is not marked as this build's: {reason(error)}")

    try:
        before = _number_of(dsn, name)
    except psycopg2.Error as error:
        complain(error)
        yield
        return
    try:
        yield
    finally:
        try:
            if _number_of(dsn, name) not in (None, before):
                mark = {MARK: _identity(lifecycle), "product": product, "partition": partition}
                _execute(dsn, "comment on schema {} is %s", name, json.dumps(mark))
        except psycopg2.Error as error:
            complain(error)


def reason(error: Exception) -> str:
    """What Postgres says, in a line."""
    return str(error).strip().partition("\n")[0]


def _number_of(dsn: str, name: str) -> int | None:
    rows = _query(dsn, "select oid from pg_namespace where nspname = %s", name)
    return next((int(row[0]) for row in rows), None)


def schemas_in(dsn: str, lifecycle: Path) -> list[Schema]:
    """The schemas that builds of this lifecycle folder have made. Raises psycopg2.Error."""
    found = []
    for name, comment in _query(dsn, COMMENTS, f'%"{MARK}"%'):
        try:
            mark = json.loads(comment)
        except ValueError:
            continue
        if isinstance(mark, dict) and mark.get(MARK) == _identity(lifecycle):
            found.append(Schema(name, mark["product"], mark["partition"], dsn))
    return found


def drop(schema: Schema) -> None:
    """Removes the schema, and that of its tests. Raises psycopg2.Error."""
    _execute(schema.dsn, "drop schema if exists {} cascade", f"{schema.name}{TESTS}")
    _execute(schema.dsn, "drop schema if exists {} cascade", schema.name)


def _connect(dsn: str) -> Any:
    import psycopg2
    from psycopg2.extensions import parse_dsn

    try:
        is_address = ADDRESS.fullmatch(dsn) and parse_dsn(dsn)
    except psycopg2.ProgrammingError:
        is_address = False
    if not is_address:
        raise psycopg2.ProgrammingError(NO_ADDRESS)
    return psycopg2.connect(dsn, connect_timeout=CONNECT_SECONDS)


def _query(dsn: str, text: str, *values: str) -> list[tuple[Any, ...]]:
    with closing(_connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(text, values)
        return list(cursor.fetchall())


def _execute(dsn: str, text: str, name: str, *values: str) -> None:
    from psycopg2 import sql

    with closing(_connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(sql.SQL(text).format(sql.Identifier(name)), values)


def _identity(lifecycle: Path) -> str:
    path = lifecycle / IDENTITY
    with locked(path, waiting=lambda: None):
        if not path.exists():
            write_whole(path, uuid.uuid4().hex)
        return path.read_text()
