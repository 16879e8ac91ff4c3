"""Dagster's storage in a Postgres database, which may go away and come back.

Only imported where `DAGSTER_POSTGRES_URL` names one. Dagster's own gives up after some seconds, and
a run that is being executed would fail with the database.
"""

import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from dagster import StringSource
from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.event_log import PostgresEventLogStorage
from dagster_postgres.run_storage import PostgresRunStorage
from dagster_postgres.schedule_storage import PostgresScheduleStorage
from dagster_postgres.utils import DagsterPostgresException
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, TimeoutError
from sqlalchemy.pool import NullPool

from orchestration import OrchestrationError
from orchestration.instance.home import POSTGRES_VARIABLE

# SQLAlchemy would choose another one, which Dagster does not work with.
DRIVER = "postgresql+psycopg2"
DRIVERS = ("postgres", "postgresql", DRIVER)
# A connection whose other end says nothing any more is given up. Source: libpq, Database Connection
# Control Functions.
CONNECTION = {
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}
# The same for the server's end, which may hold what others wait for.
SESSION = (
    "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3 "
    "-c tcp_user_timeout=20000"
)
# For how long what is being done waits for a database that is away: a run that has worked for hours
# has more to lose than a page of the UI.
PATIENCE_SECONDS = 1800.0
UI_PATIENCE_SECONDS = 3.0
# Of what has just been started, and has nothing to lose yet.
OPENING_SECONDS = 5.0
STEP_SECONDS = 0.5
# That of the schedules, whose storage is the last to be made.
LAST_TABLE = "jobs"
# Of no meaning but that nobody else has it.
CREATION_LOCK = 7_237_218_946_361

_opening_seconds = OPENING_SECONDS
T = TypeVar("T")


class DatabaseAway(OrchestrationError):
    """The database cannot be reached."""


def database_url(address: str) -> URL:
    """The address, complete with the driver and what ends dead connections.

    Raises OrchestrationError where it is none; its password is not told.
    """
    try:
        url = make_url(address.strip())
        if url.drivername not in DRIVERS or not url.database:
            raise ValueError
    except (ArgumentError, ValueError):
        raise OrchestrationError(
            f"{POSTGRES_VARIABLE} is not the address of a Postgres database, such as "
            "postgresql://user:password@host:5432/database. In a password, write `@`, `/`, `:` and "
            "`%` as %40, %2F, %3A and %25."
        ) from None
    missing = {name: value for name, value in CONNECTION.items() if name not in url.query}
    if "options" not in url.query:
        missing["options"] = SESSION
    return url.set(drivername=DRIVER).update_query_dict(missing)


def place_of(url: URL) -> str:
    """Where the database is, in words."""
    host = url.host or url.query.get("host") or "this machine"
    return f"Postgres database {url.database} on {host}{f':{url.port}' if url.port else ''}"


def wait_for_database(seconds: float = float("inf")) -> None:
    """Returns once the database of `DAGSTER_POSTGRES_URL` can be used.

    From then on this process waits for it whenever it opens it. Raises DatabaseAway after that
    time, OrchestrationError where the variable holds no address.
    """
    global _opening_seconds
    _opening_seconds = PATIENCE_SECONDS
    url = database_url(os.environ[POSTGRES_VARIABLE])
    Outage(url, seconds).connection(create_engine(url, poolclass=NullPool)).close()


class Outage:
    """Waits for the database as long as that is sensible, and says so."""

    def __init__(self, url: URL, patience: float) -> None:
        self.patience = patience
        self._url = url
        self._lock = threading.Lock()
        self._told = ""

    def connection(self, engine: Engine) -> Connection:
        """A connection of the engine. Raises DatabaseAway once the patience is at its end."""
        end = time.monotonic() + self.patience
        while True:
            try:
                connection = engine.connect()
            except (DBAPIError, TimeoutError) as error:
                sentence = f"Dagster's {place_of(self._url)} cannot be used: {_reason(error)}"
                if time.monotonic() > end:
                    advice = f"Make sure that it runs, and that {POSTGRES_VARIABLE} is right."
                    raise DatabaseAway(f"{sentence}. {advice}") from None
                self._tell(f"{sentence}; waiting for it")
                time.sleep(STEP_SECONDS)
            else:
                self._tell("")
                return connection

    def _tell(self, sentence: str) -> None:
        with self._lock:
            if sentence == self._told:
                return
            said = sentence or f"Dagster's {place_of(self._url)} is back"
            self._told = sentence
        print(f"{said}.", file=sys.stderr, flush=True)


def _reason(error: DBAPIError | TimeoutError) -> str:
    if isinstance(error, TimeoutError):
        return "all connections are taken"
    lines = [line.strip() for line in str(error.orig).splitlines() if line.strip()]
    # The first is enough: of a name with several addresses, there is one for each.
    return (lines[0] if lines else type(error.orig).__name__).removesuffix(".")


def _until_not_interrupted(work: Callable[[], T]) -> T:
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return work()
        except (DBAPIError, DagsterPostgresException) as error:
            # Dagster's own is that it has tried to connect, and given up.
            was_cut = not isinstance(error, DBAPIError) or error.connection_invalidated
            if not was_cut or time.monotonic() > end:
                raise
            time.sleep(STEP_SECONDS / 10)


def _patiently(storage: type[T]) -> type[T]:
    """Has a storage do again what was interrupted by the end of its connection.

    All that Dagster asks of it is one transaction, or several of which each may be there twice.
    """

    def wrapped(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def work(*args: Any, **kwargs: Any) -> Any:
            return _until_not_interrupted(lambda: method(*args, **kwargs))

        return work

    # What Dagster's interface has any storage do.
    for name in {name for c in storage.__mro__ for name in getattr(c, "__abstractmethods__", ())}:
        if callable(method := getattr(storage, name)):
            setattr(storage, name, wrapped(method))
    return storage


class _Waiting:
    """What the three storages have in common: connections that wait for the database."""

    _engine: Engine

    def __init__(self, outage: Outage, postgres_url: str) -> None:
        self._outage = outage
        super().__init__(postgres_url)  # type: ignore[call-arg]

    @contextmanager
    def connect(self, run_id: str | None = None) -> Iterator[Connection]:
        with self._outage.connection(self._engine) as connection:
            yield connection

    _connect = connect

    def optimize_for_webserver(self, *args: Any, **kwargs: Any) -> None:
        self._outage.patience = UI_PATIENCE_SECONDS
        super().optimize_for_webserver(*args, **kwargs)  # type: ignore[misc]


@_patiently
class _Runs(_Waiting, PostgresRunStorage): ...


@_patiently
class _EventLog(_Waiting, PostgresEventLogStorage): ...


@_patiently
class _Schedules(_Waiting, PostgresScheduleStorage): ...


class PostgresStorage(DagsterPostgresStorage):
    """Dagster's own, with patience; `postgres_url` is completed.

    Raises DatabaseAway when it cannot be reached.
    """

    def __init__(self, postgres_url: str, inst_data: Any = None) -> None:
        url = database_url(postgres_url)
        self.postgres_url = url.render_as_string(hide_password=False)
        self._inst_data = inst_data
        outage = Outage(url, _opening_seconds)
        _until_not_interrupted(lambda: self._open(url, outage))
        outage.patience = PATIENCE_SECONDS
        # Not by way of Dagster's own, which makes its own three.
        super(DagsterPostgresStorage, self).__init__()  # type: ignore[no-untyped-call]

    def _open(self, url: URL, outage: Outage) -> None:
        # Before Dagster tries, which says a page about each time.
        with outage.connection(create_engine(url, poolclass=NullPool)) as connection:
            if not inspect(connection).has_table(LAST_TABLE):
                # One host at a time makes them; the lock ends with the connection.
                connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": CREATION_LOCK})
            self._run_storage = _Runs(outage, self.postgres_url)
            self._event_log_storage = _EventLog(outage, self.postgres_url)
            self._schedule_storage = _Schedules(outage, self.postgres_url)

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """What dagster.yaml can say of it."""
        return {"postgres_url": StringSource}

    @classmethod
    def from_config_value(
        cls, inst_data: Any, config_value: Mapping[str, Any]
    ) -> "PostgresStorage":
        """The storage that dagster.yaml says."""
        return cls(config_value["postgres_url"], inst_data)
