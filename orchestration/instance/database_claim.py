"""The claim of one `up` on a Postgres database: an advisory lock, which ends with its connection.

Two daemons on one database would each launch what is due and what is queued.
"""

import os
import select
import socket
import time
import uuid
from pathlib import Path
from typing import NoReturn

from sqlalchemy import create_engine, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from orchestration import OrchestrationError
from orchestration.instance.home import POSTGRES_VARIABLE
from orchestration.instance.postgres import STEP_SECONDS, Outage, database_url, place_of

# Of no meaning but that nobody else has it.
KEY = 7_237_218_946_362
# Until the database has seen the end of an `up` that has just been stopped.
PATIENCE_SECONDS = 3.0
HOLDER = text(
    "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid) "
    "WHERE locktype = 'advisory' AND granted AND datname = current_database() "
    "AND (classid::bigint << 32) + objid::bigint = :key"
)


def hold_database(held: Path) -> NoReturn:
    """Claims the database of `DAGSTER_POSTGRES_URL`, and never returns; claims it anew after it was
    away. Once it is claimed for the first time, the file `held` exists.

    Raises OrchestrationError where another `up` has it, also where that took it meanwhile.
    """
    url = database_url(os.environ[POSTGRES_VARIABLE])
    # By it others know who has it, and this one its own connection that the database still has.
    own_name = f"up {uuid.uuid4().hex[:8]} on {socket.gethostname()}"
    outage = Outage(url, float("inf"))
    engine = create_engine(
        url.update_query_dict({"application_name": own_name}),
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
    )
    while True:
        try:
            with outage.connection(engine) as connection:
                if other := _holder_instead(connection, own_name):
                    raise OrchestrationError(
                        f"Another `up` has Dagster's {place_of(url)}, {other}: two would launch "
                        "everything twice. End that one, or serve what is to be served here by "
                        f"`up --host-name`, or give this one another {POSTGRES_VARIABLE}."
                    )
                held.touch()
                _wait_until_lost(connection)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise


def _holder_instead(connection: Connection, own_name: str) -> str | None:
    """Takes the lock; where somebody else has it, gives in words where that is."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": KEY}):
        holders = connection.scalars(HOLDER, {"key": KEY}).all()
        is_other = any(not name or name[:12] != own_name[:12] for name in holders)
        if is_other and time.monotonic() > end:
            [name, *_] = holders
            return f"on {name.partition(' on ')[2]}" if name else "of another user of it"
        time.sleep(STEP_SECONDS)
    return None


def _wait_until_lost(connection: Connection) -> NoReturn:
    """Raises DBAPIError when the connection has ended."""
    file = connection.connection.driver_connection
    assert file
    while True:
        # Whatever the database says unasked, its end among it.
        select.select([file], [], [])
        connection.execute(text("SELECT 1"))
