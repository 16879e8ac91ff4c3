"""Room in Dagster's database: what it keeps of runs that are deleted, and the space of that."""

import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from dagster import DagsterInstance
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.runs.schema import RunsTable, RunTagsTable
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage
from sqlalchemy import select

# A smaller part of a file that is free is used again soon.
FREE_PART = 0.25
BUSY_SECONDS = 5.0


def delete_runs(instance: DagsterInstance, run_ids: Iterable[str]) -> None:
    """Deletes the runs with all that there is of them, each run itself last.

    Where this is ended before that, the run is still there, to be deleted again.
    """
    for run_id in run_ids:
        instance.compute_log_manager.delete_logs(prefix=[run_id])
        _delete_events(instance, run_id)
        instance.run_storage.delete_run(run_id)
    storage = instance.run_storage
    if isinstance(storage, SqlRunStorage):
        # SQLite does not follow the reference of a tag to its run.
        runs = select(RunsTable.c.run_id)
        with storage.connect() as connection:
            connection.execute(RunTagsTable.delete().where(RunTagsTable.c.run_id.notin_(runs)))


def _delete_events(instance: DagsterInstance, run_id: str) -> None:
    storage = instance.event_log_storage
    with storage.index_connection() as connection:  # type: ignore[attr-defined]
        connection.execute(
            AssetCheckExecutionsTable.delete().where(AssetCheckExecutionsTable.c.run_id == run_id)
        )
    if not isinstance(storage, SqliteEventLogStorage):
        storage.delete_events(run_id)
        return
    with storage.index_connection() as connection:
        storage.delete_events_for_run(connection, run_id)
    storage.free_concurrency_slots_for_run(run_id)
    shard = storage.path_for_shard(run_id)
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{shard}{suffix}").unlink(missing_ok=True)


def compact(instance: DagsterInstance) -> None:
    """Gives the disk back what is free in SQLite's files; not while somebody is writing in them."""
    storages = (instance.event_log_storage, instance.run_storage, instance.schedule_storage)
    for storage in storages:
        if type(storage).__name__.startswith("Sqlite"):
            connect = getattr(storage, "index_connection", None) or storage.connect  # type: ignore[union-attr]
            with connect() as connection:
                file = connection.engine.url.database
            _compact(file)


def _compact(file: str) -> None:
    connection = sqlite3.connect(file, timeout=BUSY_SECONDS)
    try:
        [free] = connection.execute("PRAGMA freelist_count").fetchone()
        [pages] = connection.execute("PRAGMA page_count").fetchone()
        if free > FREE_PART * pages:
            # Nothing is lost: what is free now is used again.
            with suppress(sqlite3.OperationalError):
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()
