"""The private names of Dagster that its processes need, and nothing else.

They make start-up fast and runs cheap; nothing depends on them. Where a release of Dagster has
moved one, `up` serves with stock code servers or Dagster's own run launcher, and says so.
"""

import asyncio
import importlib
import logging
import os
import re
import signal
import sqlite3
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from email.utils import formatdate
from functools import cache, wraps
from typing import Any

from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    Definitions,
    RunsFilter,
    deserialize_value,
    serialize_value,
)
from dagster._core.launcher import CheckRunHealthResult as CheckRunHealthResult
from dagster._core.launcher import LaunchRunContext as LaunchRunContext
from dagster._core.launcher import WorkerStatus as WorkerStatus
from dagster_shared.error import SerializableErrorInfo
from sqlalchemy.engine import make_url

from orchestration import OrchestrationError
from orchestration.catalog.checkout import checkout_root
from orchestration.instance.home import has_postgres

# What a code server, a run's process, the webserver and the daemon import before they do anything.
# What only the webserver does it imports itself: each fork would take longer for it.
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
    "dagster._utils.test.definitions",
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
# What they import besides where the instance's database is a Postgres.
PRELOADED_FOR_POSTGRES = (
    "orchestration.instance.postgres",
    "psycopg2",
    "sqlalchemy.dialects.postgresql.psycopg2",
)

# Of the databases that are asked all the time.
STORAGES = (
    "dagster._core.storage.runs.sqlite.sqlite_run_storage",
    "dagster._core.storage.schedules.sqlite.sqlite_schedule_storage",
)

# The methods of a code server that are answered without it.
LIST_REPOSITORIES = "ListRepositories"
EXTERNAL_REPOSITORY = "ExternalRepository"
GET_CURRENT_IMAGE = "GetCurrentImage"
GET_SERVER_ID = "GetServerId"
RELOAD_CODE = "ReloadCode"
SERVICE = "api.DagsterApi"
# How Python names a place in a traceback.
PLACE = re.compile(r'File "(/[^"]+)", line (\d+)')
PING = f"/{SERVICE}/Ping"
# Longer than `up` runs.
NEVER = 1e12
# The times of files are no finer than that.
TICK_SECONDS = 0.05


def preload() -> None:
    """Imports what Dagster's processes need.

    Raises ImportError when this release of Dagster lacks something that a warm start needs.
    """
    for name in (*PRELOADED, *(PRELOADED_FOR_POSTGRES if has_postgres() else ())):
        importlib.import_module(name)
    streamed_methods()
    _watch_target()
    _keep_engines()
    _look_for_queued_runs_where_there_may_be_some()
    _wait_for_the_next_round_at_once()


def _keep_engines() -> None:
    """Has a process make what it asks a database with once, and not for each question anew.

    That is half of what a question takes, and the daemon asks some each second.
    """
    for storage in map(importlib.import_module, STORAGES):
        if not hasattr(storage.create_engine, "cache_info"):
            setattr(storage, "create_engine", cache(storage.create_engine))  # noqa: B010


def keep_databases_open() -> None:
    """Has this process hold a connection to each SQLite database that it asks again and again.

    Each question makes, and removes, the files beside it where no other connection is open. Not for
    a process that forks. Source: sqlite.org/wal.html.
    """
    held: dict[str, sqlite3.Connection] = {}

    def keeping(create: Callable[..., Any]) -> Callable[..., Any]:
        def create_engine(*args: Any, **names: Any) -> Any:
            engine = create(*args, **names)
            path = engine.url.database
            if path not in held:
                connection = held[path] = sqlite3.connect(path, check_same_thread=False)
                connection.execute("PRAGMA schema_version")
            return engine

        return create_engine

    for storage in map(importlib.import_module, STORAGES):
        setattr(storage, "create_engine", keeping(storage.create_engine))  # noqa: B010


def _look_for_queued_runs_where_there_may_be_some() -> None:
    """Has the daemon, which looks each second, do so only where a SQLite database has changed."""
    from dagster._core.storage.runs import SqliteRunStorage
    from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import (
        QueuedRunCoordinatorDaemon,
    )

    daemon: Any = QueuedRunCoordinatorDaemon
    look = daemon.run_iteration
    without: dict[str, object] = {}

    @wraps(look)
    def look_where_changed(self: Any, context: Any, *args: Any, **names: Any) -> Iterator[Any]:
        instance: DagsterInstance = context.instance
        storage: Any = instance.run_storage
        if not isinstance(storage, SqliteRunStorage):
            yield from look(self, context, *args, **names)
            return
        database = make_url(storage._conn_string).database or ""
        state = _state_of_database(database)
        if state is not None and without.get(database) == state:
            return
        yield from look(self, context, *args, **names)
        waits = instance.get_runs_count(RunsFilter(statuses=[DagsterRunStatus.QUEUED]))
        without[database] = None if waits else state

    if not hasattr(look, "__wrapped__"):
        daemon.run_iteration = look_where_changed


def _wait_for_the_next_round_at_once() -> None:
    """Has the daemon's threads sleep from one round to the next, and not wake each half second."""
    from dagster._daemon.daemon import IntervalDaemon

    daemon: Any = IntervalDaemon
    loop = daemon.core_loop

    class Wait:
        def __init__(self, event: threading.Event, seconds: float) -> None:
            self._event, self._seconds = event, seconds

        def wait(self, _: float) -> bool:
            return self._event.wait(self._seconds)

    @wraps(loop)
    def core_loop(self: Any, context: Any, shutdown_event: threading.Event) -> Any:
        return loop(self, context, Wait(shutdown_event, self.interval_seconds))

    if not hasattr(loop, "__wrapped__"):
        daemon.core_loop = core_loop


def prepare_webserver() -> None:
    """Imports what only a webserver needs, and has it wake when there is something to do.

    Its server wakes ten times a second to see whether it is to end, and to write down the date; it
    still does where another release of uvicorn has moved these names.
    """
    importlib.import_module("dagster_webserver.cli")
    server: Any = importlib.import_module("uvicorn.server")

    async def main_loop(self: Any) -> None:
        loop, has_come = asyncio.get_running_loop(), asyncio.Event()

        def exit_for(number: int) -> None:
            self.handle_exit(number, None)
            has_come.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, exit_for, number)
        while not await self.on_tick(0):
            await has_come.wait()

    def keep(self: Any, headers: list[tuple[bytes, bytes]]) -> None:
        self.headers = headers

    def with_date(self: Any) -> list[tuple[bytes, bytes]]:
        now = formatdate(usegmt=True).encode()
        return [(name, now if name == b"date" else value) for name, value in self.headers]

    methods = ("main_loop", "on_tick", "handle_exit")
    if hasattr(server, "ServerState") and all(hasattr(server.Server, name) for name in methods):
        server.Server.main_loop = main_loop
        server.ServerState.default_headers = property(with_date, keep)


def _state_of_database(path: str) -> object:
    """Another one for each change; None where the last is too fresh to know the next from it."""
    found = []
    for name in (path, f"{path}-wal"):
        with suppress(FileNotFoundError):
            found.append(os.stat(name))
    if max((file.st_mtime for file in found), default=time.time()) > time.time() - TICK_SECONDS:
        return None
    return [(file.st_ino, file.st_size, file.st_mtime_ns) for file in found]


def rehearse(definitions: Definitions) -> None:
    """Does what every code server and its clients do first, without a server.

    Dagster makes much of what it needs at its first use, the checks of its records above all. What
    is there before a fork is shared, and not made again by each.
    """
    from dagster._core.code_pointer import CodePointer
    from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteRepositoryOrigin
    from dagster._core.remote_representation.external_data import JobDataSnap, RepositorySnap
    from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
    from dagster._grpc.types import (
        GetCurrentImageResult,
        ListRepositoriesResponse,
        LoadableRepositorySymbol,
    )
    from dagster._utils.log import configure_loggers

    configure_loggers(log_level="WARNING")
    LoadableTargetOrigin(module_name="any")
    repository = definitions.get_repository_def()
    repository.load_all_definitions()
    server = GrpcServerCodeLocationOrigin("localhost", socket="socket")
    exchanged: list[Any] = [
        RemoteRepositoryOrigin(server, repository.name),
        RepositorySnap.from_def(repository, defer_snapshots=True),
        ListRepositoriesResponse(
            [LoadableRepositorySymbol(repository_name=repository.name, attribute="defs")],
            repository_code_pointer_dict={
                repository.name: CodePointer.from_module("any", "defs", None)
            },
        ),
        GetCurrentImageResult(current_image=None, serializable_error_info=None),
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


def streamed_methods() -> set[str]:
    """The names of a code server's methods that answer in several parts."""
    from dagster._grpc.__generated__ import dagster_api_pb2

    [service] = dagster_api_pb2.DESCRIPTOR.services_by_name.values()
    return {method.name for method in service.methods if method.server_streaming}


Ask = Callable[[str, Any], bytes]
"""Asks a code server: the method, and the request; gives the reply."""


def code_server_here(*, name: str, module: str, folder: str) -> Ask:
    """A code server in this process, which loads the location when it is first asked."""
    from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
    from dagster._core.utils import FuturesAwareThreadPoolExecutor
    from dagster._grpc.server import DagsterApiServer

    # Configured by now, with the standard output of then.
    for handler in logging.getLogger("dagster").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stdout)
    # It would print pages about a location that cannot be loaded.
    silent = logging.Logger("dagster.code_server", logging.CRITICAL + 1)
    server = DagsterApiServer(
        server_termination_event=threading.Event(),
        logger=silent,
        server_threadpool_executor=FuturesAwareThreadPoolExecutor(),
        loadable_target_origin=LoadableTargetOrigin(
            executable_path=sys.executable, module_name=module, working_directory=folder
        ),
        lazy_load_user_code=True,
        location_name=name,
    )

    def ask(method: str, request: Any) -> bytes:
        reply: bytes = getattr(server, method)(request, None).SerializeToString()
        return reply

    return ask


def code_server_at(channel: Any) -> Ask:
    """A code server at the other end of a channel of gRPC."""

    def ask(method: str, request: Any) -> bytes:
        call = channel.unary_unary(f"/{SERVICE}/{method}")
        reply: bytes = call(request.SerializeToString())
        return reply

    return ask


def answers_of(name: str, ask: Ask) -> tuple[dict[str, bytes], str | None]:
    """What the code server of a location answers, and why the location is broken, if so.

    The answers are by method, with `/` and the repository's name where they are about one.
    """
    from dagster._grpc.__generated__ import dagster_api_pb2 as api

    answers = {
        LIST_REPOSITORIES: ask(LIST_REPOSITORIES, api.ListRepositoriesRequest()),
        GET_CURRENT_IMAGE: ask(GET_CURRENT_IMAGE, api.Empty()),
    }
    listed = api.ListRepositoriesReply.FromString(answers[LIST_REPOSITORIES])
    found: Any = deserialize_value(listed.serialized_list_repositories_response_or_error)
    if isinstance(found, SerializableErrorInfo):
        print(f"cannot be loaded: {_in_a_line(found)}", flush=True)
        return answers, found.to_string()
    for symbol in found.repository_symbols:
        # With all that the client would ask for next.
        request = _repository_request(name, "unix:any", symbol.repository_name, defers=False)
        reply = ask(EXTERNAL_REPOSITORY, request)
        answers[f"{EXTERNAL_REPOSITORY}/{symbol.repository_name}"] = reply
    return answers, None


def _in_a_line(error: SerializableErrorInfo) -> str:
    while error.cause:
        error = error.cause
    lines = error.message.strip().splitlines() or [str(error.cls_name)]
    if error.cls_name == OrchestrationError.__name__:
        return " ".join(lines).partition(": ")[2]
    places = [
        place.groups()
        for text in (*error.stack, *lines)
        if (place := PLACE.search(text)) and "site-packages" not in place[1]
    ]
    # Python begins a syntax error with the place, and ends it with what is wrong.
    what = lines[-1] if PLACE.search(lines[0]) else lines[0]
    where = ":".join(places[-1]).removeprefix(f"{checkout_root()}/") if places else ""
    return f"{what}, {where}" if where else what


def check_understood(answers: Mapping[str, bytes]) -> None:
    """Raises what the webserver would where these are another Dagster's, and say nothing to it."""
    from dagster._core.remote_representation.external_data import RepositorySnap
    from dagster._grpc.__generated__ import dagster_api_pb2

    for name, answer in answers.items():
        if name.startswith(f"{EXTERNAL_REPOSITORY}/"):
            reply = dagster_api_pb2.ExternalRepositoryReply.FromString(answer)
            deserialize_value(reply.serialized_external_repository_data, RepositorySnap)


def broken_answers(reason: str) -> dict[str, bytes]:
    """What a code server answers that could not load its location."""
    from dagster._grpc.__generated__ import dagster_api_pb2

    error = SerializableErrorInfo(message=reason, stack=[], cls_name="OrchestrationError")
    reply = dagster_api_pb2.ListRepositoriesReply(
        serialized_list_repositories_response_or_error=serialize_value(error)
    )
    return {LIST_REPOSITORIES: reply.SerializeToString()}


def server_id_answer(server_id: str) -> bytes:
    """What a code server of that id answers when it is asked for it."""
    from dagster._grpc.__generated__ import dagster_api_pb2

    reply: bytes = dagster_api_pb2.GetServerIdReply(server_id=server_id).SerializeToString()
    return reply


def reload_answer() -> bytes:
    """What a code server answers that has reloaded its location."""
    from dagster._grpc.__generated__ import dagster_api_pb2

    reply: bytes = dagster_api_pb2.ReloadCodeReply().SerializeToString()
    return reply


def repository_request(name: str, place: str, repository: str) -> bytes:
    """What a client asks the location's server about a repository.

    `place` is where the client asks it: `unix:` and a socket, or `host:port`.
    """
    request: bytes = _repository_request(name, place, repository, defers=True).SerializeToString()
    return request


def _repository_request(name: str, place: str, repository: str, *, defers: bool) -> Any:
    from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteRepositoryOrigin
    from dagster._grpc.__generated__ import dagster_api_pb2

    host, _, rest = place.rpartition(":")
    location = (
        GrpcServerCodeLocationOrigin("localhost", socket=rest, location_name=name)
        if host == "unix"
        else GrpcServerCodeLocationOrigin(host, port=int(rest), location_name=name)
    )
    return dagster_api_pb2.ExternalRepositoryRequest(
        serialized_repository_python_origin=serialize_value(
            RemoteRepositoryOrigin(location, repository)
        ),
        defer_snapshots=defers,
    )


class Workspace:
    """What a webserver or daemon has of the locations."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._on_updated: dict[str, Callable[[str, str], None]] = {}

    def add(self, name: str, on_updated: Callable[[str, str], None]) -> None:
        """Takes note of whom to tell that a location has changed."""
        self._on_updated[name] = on_updated

    @property
    def ids(self) -> dict[str, str | None]:
        """The id under which each was loaded; None for one that is broken."""
        entries = self._context.get_current_workspace().code_location_entries
        return {
            name: entry.code_location.server_id if entry.code_location else None
            for name, entry in entries.items()
        }

    def load(self, name: str, server_id: str) -> None:
        """Loads a location that is served under that id now."""
        self._on_updated[name](name, server_id)

    def load_all(self) -> None:
        """Reads the workspace file again, and loads all that is in it."""
        self._context.refresh_workspace()


class _NoThread:
    """Stands in for a thread that has nothing to do."""

    def start(self) -> None: ...

    def join(self) -> None: ...


def replace_watching(watch: Callable[[Workspace], None]) -> None:
    """Has `watch`, in a thread, keep the locations of this process up to date, instead of Dagster.

    Dagster has a thread for each, which asks for its id every second over a connection of its own,
    and the daemon loads all of them every minute: with 200 of them, half a core for nothing.
    """
    watcher, controller = _watch_target()
    workspaces: dict[int, Workspace] = {}

    def create_grpc_watch_thread(
        location_name: str,
        _client: Any,
        *,
        refresh_code_location: Any,
        on_updated: Callable[[str, str], None],
        **_: Any,
    ) -> tuple[threading.Event, _NoThread]:
        context = refresh_code_location.__self__
        if id(context) not in workspaces:
            workspace = workspaces[id(context)] = Workspace(context)
            threading.Thread(target=watch, args=(workspace,), daemon=True).start()
        workspaces[id(context)].add(location_name, on_updated)
        return threading.Event(), _NoThread()

    # What is wrong with one has been printed, in a line, by the process that loaded it.
    warnings.filterwarnings("ignore", "Error loading repository location")
    watcher.create_grpc_watch_thread = create_grpc_watch_thread
    controller.RELOAD_WORKSPACE_INTERVAL = NEVER


def refuse_keys(check: Callable[[str, str], None]) -> None:
    """Has this process add no partition key of a set, its name and the key, for which it raises."""
    add = DagsterInstance.add_dynamic_partitions

    @wraps(add)
    def add_checked(self: DagsterInstance, partitions_def_name: str, partition_keys: Any) -> None:
        for key in partition_keys:
            check(partitions_def_name, key)
        add(self, partitions_def_name, partition_keys)

    setattr(DagsterInstance, add.__name__, add_checked)


def _watch_target() -> tuple[Any, Any]:
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._daemon import controller
    from dagster._grpc import server_watcher

    for owner, name in (
        (server_watcher, "create_grpc_watch_thread"),
        (controller, "RELOAD_WORKSPACE_INTERVAL"),
        (WorkspaceProcessContext, "get_current_workspace"),
        (WorkspaceProcessContext, "refresh_code_location"),
        (WorkspaceProcessContext, "refresh_workspace"),
    ):
        if not hasattr(owner, name):
            raise ImportError(f"{owner.__name__} has no {name}")
    return server_watcher, controller


def next_tick(cron: str | Sequence[str], timezone: str | None) -> float:
    """When a schedule is due next, in seconds since the epoch."""
    from dagster._utils.schedules import schedule_execution_time_iterator

    return next(schedule_execution_time_iterator(time.time(), cron, timezone)).timestamp()
