"""Every private name of Dagster that this project uses, and nothing else.

They make start-up fast and runs cheap; nothing depends on them. Where a release of Dagster has
moved one, `up` serves with stock code servers or Dagster's own run launcher, and says so.
"""

import importlib
import time
from collections.abc import Callable
from typing import Any

from dagster import DagsterRun, Definitions, deserialize_value, serialize_value
from dagster._core.launcher import CheckRunHealthResult as CheckRunHealthResult
from dagster._core.launcher import LaunchRunContext as LaunchRunContext
from dagster._core.launcher import WorkerStatus as WorkerStatus

# What a code server, a run's process, the webserver and the daemon import before they do anything.
PRELOADED = (
    "dagster._cli",
    "dagster._cli.api",
    "dagster._api.snapshot_repository",
    "dagster._core.definitions.external_asset",
    "dagster._core.definitions.repository_definition.repository_data_builder",
    "dagster._core.execution.api",
    "dagster._core.instance.factory",
    "dagster._core.storage.runs.sqlite.sqlite_run_storage",
    "dagster._core.storage.event_log.sqlite.sqlite_event_log",
    "dagster._core.storage.schedules.sqlite.sqlite_schedule_storage",
    "dagster._core.storage.local_compute_log_manager",
    "dagster._core.storage.root",
    "dagster._core.storage.sqlite_storage",
    "dagster._core.run_coordinator.queued_run_coordinator",
    "dagster._daemon.cli",
    "dagster._daemon.controller",
    "dagster._daemon.run_coordinator.queued_run_coordinator_daemon",
    "dagster._daemon.asset_daemon",
    "dagster._grpc.client",
    "dagster._grpc.server",
    "dagster._grpc.server_watcher",
    "dagster._utils.log",
    "dagster._utils.test",
    "dagster_graphql.schema",
    "dagster_webserver.cli",
    "dagster_webserver.webserver",
    "alembic.command",
    "alembic.runtime.migration",
    "fsspec.implementations.local",
    "grpc._server",
    "jinja2.sandbox",
    "sqlalchemy.dialects.sqlite",
    "structlog",
    "rich.traceback",
    "upath.implementations.local",
)

TERMINATION_EVENT = "_server_termination_event"
# More than a server takes from being told to stop until it refuses requests.
STOPPING_SECONDS = 0.05


def preload() -> None:
    """Imports what Dagster's processes need.

    Raises ImportError when this release of Dagster lacks something that a warm start needs.
    """
    for name in PRELOADED:
        importlib.import_module(name)
    _reload_target()


def rehearse(definitions: Definitions) -> None:
    """Does what every code server and its clients do first, without a server.

    Dagster makes much of what it needs at its first use, the checks of its records above all. What
    is there before a fork is shared, and not made again by each.
    """
    from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteRepositoryOrigin
    from dagster._core.remote_representation.external_data import JobDataSnap, RepositorySnap

    repository = definitions.get_repository_def()
    repository.load_all_definitions()
    server = GrpcServerCodeLocationOrigin("localhost", socket="socket")
    exchanged: list[Any] = [
        RemoteRepositoryOrigin(server, repository.name),
        RepositorySnap.from_def(repository, defer_snapshots=True),
    ]
    for job in repository.get_all_jobs():
        exchanged.append(JobDataSnap.from_job_def(job, include_parent_snapshot=True))
    for value in exchanged:
        deserialize_value(serialize_value(value), type(value))


def run_command(run: DagsterRun, instance: Any) -> list[str]:
    """The arguments of `dagster` that execute a run in a process of its own.

    Raises ImportError when this release of Dagster executes runs in another way.
    """
    from dagster._grpc.types import ExecuteRunArgs

    assert run.job_code_origin
    arguments = ExecuteRunArgs(
        job_origin=run.job_code_origin, run_id=run.run_id, instance_ref=instance.get_ref()
    ).get_command_args()
    if "api" not in arguments:
        raise ImportError(f"dagster executes a run with {arguments[:-1]}")
    # Up to here it names an interpreter or a script.
    return list(arguments[arguments.index("api") :])


def replace_reload(reload: Callable[[], bool]) -> None:
    """Lets the code server of this process answer the UI's Reload by calling `reload`.

    Stock code servers of this kind cannot reload. `reload` says whether another server has taken
    this one's place.
    """
    server, reply = _reload_target()

    def reload_code(self: Any, request: Any, context: Any) -> Any:
        # The webserver loads the location as soon as it has the answer, over a connection that it
        # may have open to this server. Told to stop, this one takes no more requests on it.
        if reload() and (event := getattr(self, TERMINATION_EVENT, None)):
            event.set()
            time.sleep(STOPPING_SECONDS)
        return reply()

    server.ReloadCode = reload_code


def _reload_target() -> tuple[Any, Any]:
    from dagster._grpc.__generated__ import dagster_api_pb2
    from dagster._grpc.server import DagsterApiServer

    if not hasattr(DagsterApiServer, "ReloadCode"):
        raise ImportError("dagster._grpc.server.DagsterApiServer has no ReloadCode")
    return DagsterApiServer, dagster_api_pb2.ReloadCodeReply
