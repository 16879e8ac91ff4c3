"""Fails, naming what is gone, where a release of Dagster has moved a private name."""

import ast
import importlib
import inspect
import pickle
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from email.utils import parsedate_to_datetime
from importlib.metadata import entry_points
from pathlib import Path
from types import MethodType, SimpleNamespace
from typing import Any, cast

import pytest
from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultRunLauncher,
    deserialize_value,
)
from dagster_shared.error import SerializableErrorInfo

from orchestration.catalog import names
from orchestration.catalog.checkout import PROJECT_ROOT
from orchestration.cli import run_process
from orchestration.definitions import schedules
from orchestration.processes import dagster_internals
from orchestration.processes.dagster_internals import PRELOADED
from orchestration.processes.forkserver import SCRIPTS, Forkserver
from orchestration.server.supervisor import any_location
from tests.harness.processes import PATIENCE, promised, wait_until
from tests.harness.up_server import copy_project, free_port, pretend_done, serving

# What a fork takes over: whether it can be warm, and the threads, of which a fork has only one.
THREADS = """
import os
from orchestration.processes.forkserver import Forkserver
from orchestration.server.supervisor import any_location
print(Forkserver(True, any_location).warm, len(os.listdir("/proc/self/task")))
"""
ANSWERS = """
import pickle, sys
from orchestration.processes.dagster_internals import answers_of, code_server_here
server = code_server_here(name="some", module="some_location", folder=sys.argv[1])
answers = answers_of("some", server)
open(sys.argv[1] + "/answers", "wb").write(pickle.dumps(answers))
"""
LOCATION = """
import dagster as dg

@dg.asset(kinds={"python"})
def some() -> None: ...

defs = dg.Definitions(
    assets=[some],
    jobs=[dg.define_asset_job("some_job", [some])],
    schedules=[dg.ScheduleDefinition(name="every_day", target=[some], cron_schedule="0 6 * * *")],
)
"""
# Says how often it has woken for nothing.
WEBSERVER = """
import sys
from orchestration.processes.dagster_internals import prepare_webserver
import uvicorn

ticks = []

class Server(uvicorn.Server):
    async def on_tick(self, counter):
        ticks.append(counter)
        return await super().on_tick(counter)

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"{len(ticks)}".encode()})

prepare_webserver()
port = int(sys.argv[1])
Server(uvicorn.Config(app, port=port, log_level="warning", lifespan="off")).run()
"""


@pytest.mark.parametrize("name", PRELOADED)
def test_what_is_imported_before_the_fork_is_there(name: str) -> None:
    importlib.import_module(name)


def test_the_commands_that_are_forked_are_there() -> None:
    scripts = {script.name: script for script in entry_points(group="console_scripts")}
    assert scripts.keys() >= set(SCRIPTS)
    for name in SCRIPTS:
        assert callable(scripts[name].load())


def test_what_is_rehearsed_before_the_fork_is_there() -> None:
    dagster_internals.rehearse(any_location())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_that_forks_has_one_thread() -> None:
    result = subprocess.run(
        [sys.executable, "-c", THREADS], capture_output=True, text=True, timeout=PATIENCE
    )
    assert result.stdout == "True 1\n", result.stderr


def load_answers(tmp_path: Path, text: str) -> tuple[dict[str, bytes], str | None]:
    """What a code server would answer for a module of this text."""
    (tmp_path / "some_location.py").write_text(text)
    subprocess.run(
        [sys.executable, "-c", ANSWERS, str(tmp_path)],
        capture_output=True,
        timeout=PATIENCE,
        check=True,
    )
    pickled = (tmp_path / "answers").read_bytes()
    answers: tuple[dict[str, bytes], str | None] = pickle.loads(pickled)
    return answers


@pytest.mark.long
def test_answers_are_byte_by_byte_those_of_a_stock_code_server(tmp_path: Path) -> None:
    from dagster._api.list_repositories import sync_list_repositories_grpc
    from dagster._grpc.__generated__ import dagster_api_pb2
    from dagster._grpc.client import DagsterGrpcClient

    answers, problem = load_answers(tmp_path, LOCATION)
    assert problem is None
    path = tmp_path / "some.sock"
    stock = subprocess.Popen(
        [
            *(sys.executable, "-m", "dagster", "api", "grpc", "--socket", path),
            *("--module-name", "some_location", "--working-directory", tmp_path),
            *("--location-name", "some"),
        ]
    )
    try:
        assert wait_until(path.exists)
        client = DagsterGrpcClient(socket=str(path))
        [symbol] = sync_list_repositories_grpc(client).repository_symbols
        request = dagster_api_pb2.ExternalRepositoryRequest.FromString(
            dagster_internals.repository_request("some", "unix:socket", symbol.repository_name)
        )
        assert request.defer_snapshots
        request.defer_snapshots = False
        asked = {
            "ListRepositories": dagster_api_pb2.ListRepositoriesRequest(),
            "GetCurrentImage": dagster_api_pb2.Empty(),
            f"ExternalRepository/{symbol.repository_name}": request,
        }
        assert answers.keys() == asked.keys()
        for name, message in asked.items():
            reply = client._get_response(name.partition("/")[0], message)
            assert answers[name] == reply.SerializeToString()
    finally:
        stock.kill()
        stock.wait()


def test_a_broken_location_is_answered_with_dagsters_own_error(tmp_path: Path) -> None:
    from dagster._grpc.__generated__ import dagster_api_pb2

    answers, problem = load_answers(tmp_path, "raise ValueError('no such borough')")
    assert problem and "ValueError: no such borough" in problem
    told = dagster_internals.broken_answers("It hangs.")
    for replies, text in ((answers, "no such borough"), (told, "It hangs.")):
        reply = dagster_api_pb2.ListRepositoriesReply.FromString(replies["ListRepositories"])
        error = deserialize_value(
            reply.serialized_list_repositories_response_or_error, SerializableErrorInfo
        )
        assert text in error.to_string()


def test_what_a_client_asks_about_a_repository_is_known_byte_by_byte(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dagster._core.remote_origin import RemoteRepositoryOrigin
    from dagster._core.workspace.load import location_origins_from_config
    from dagster._grpc.client import DagsterGrpcClient

    asked = []

    def get_response(_: object, method: str, request: Any, timeout: int = 0) -> Any:
        asked.append((method, request.SerializeToString()))
        return SimpleNamespace(serialized_external_repository_data="")

    monkeypatch.setattr(DagsterGrpcClient, "_get_response", get_response)
    entry = {"grpc_server": {"location_name": "some location", "socket": "/tmp/some.sock"}}
    [origin] = location_origins_from_config({"load_from": [entry]}, ".").values()
    client: Any = origin
    client.create_client().external_repository(
        RemoteRepositoryOrigin(origin, "__repository__"), defer_snapshots=True
    )
    request = dagster_internals.repository_request(
        "some location", "unix:/tmp/some.sock", "__repository__"
    )
    assert asked == [("ExternalRepository", request)]


def test_small_answers_are_dagsters() -> None:
    from dagster._grpc.__generated__ import dagster_api_pb2

    reply = dagster_api_pb2.GetServerIdReply.FromString(dagster_internals.server_id_answer("some"))
    assert reply.server_id == "some"
    assert (
        dagster_internals.reload_answer() == dagster_api_pb2.ReloadCodeReply().SerializeToString()
    )
    dagster_api_pb2.PingRequest.FromString(b"")
    [service] = dagster_api_pb2.DESCRIPTOR.services_by_name.values()
    assert f"/{service.full_name}/Ping" == dagster_internals.PING
    names = {method.name for method in service.methods}
    assert names >= {
        dagster_internals.LIST_REPOSITORIES,
        dagster_internals.EXTERNAL_REPOSITORY,
        dagster_internals.GET_CURRENT_IMAGE,
        dagster_internals.GET_SERVER_ID,
        dagster_internals.RELOAD_CODE,
    }
    assert "ExternalSensorExecution" in dagster_internals.streamed_methods()
    assert "SyncExternalSensorExecution" not in dagster_internals.streamed_methods()


def test_watching_is_where_it_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._daemon import controller
    from dagster._grpc import server_watcher

    own = inspect.signature(server_watcher.create_grpc_watch_thread)
    assert {"location_name", "client", "refresh_code_location", "on_updated"} <= set(own.parameters)
    starting = inspect.getsource(WorkspaceProcessContext._start_watch_thread)
    assert "from dagster._grpc.server_watcher import create_grpc_watch_thread" in starting
    assert "refresh_code_location=self.refresh_code_location" in starting
    assert "RELOAD_WORKSPACE_INTERVAL" in inspect.getsource(
        controller.DagsterDaemonController.check_workspace_freshness
    )
    monkeypatch.setattr(server_watcher, "create_grpc_watch_thread", None)
    monkeypatch.setattr(controller, "RELOAD_WORKSPACE_INTERVAL", 60)
    watched: queue.Queue[Any] = queue.Queue()
    dagster_internals.replace_watching(watched.put)
    context = SimpleNamespace(get_current_workspace=lambda: None)
    create: Any = server_watcher.create_grpc_watch_thread
    for name in ("one", "other"):
        event, thread = create(
            name,
            None,
            get_location_entry=None,
            refresh_code_location=MethodType(lambda self, name: None, context),
            on_disconnect=None,
            on_reconnected=None,
            on_updated=None,
            on_error=None,
        )
        thread.start()
        event.set()
        thread.join()
    # One thread for all of a process's locations.
    assert isinstance(watched.get(timeout=PATIENCE), dagster_internals.Workspace)
    assert watched.empty()


def test_a_question_to_the_database_makes_no_engine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import sqlalchemy

    dagster_internals.preload()
    made: list[object] = []
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        instance.get_runs()
        instance.all_instigator_state()
        monkeypatch.setattr(sqlalchemy.engine.Engine, "__init__", lambda *_, **__: made.append(1))
        instance.get_runs()
        instance.all_instigator_state()
    assert not made


def test_a_question_to_the_database_makes_no_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for storage in map(importlib.import_module, dagster_internals.STORAGES):
        monkeypatch.setattr(storage, "create_engine", vars(storage)["create_engine"])
    with DagsterInstance.local_temp(str(tmp_path)):
        pass

    def files() -> dict[str, int]:
        names = ("runs.db-wal", "schedules.db-wal")
        return {name: path.stat().st_ino for name in names for path in tmp_path.rglob(name)}

    dagster_internals.keep_databases_open()
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        instance.get_runs()
        instance.all_instigator_state()
        before = files()
        instance.get_runs()
        instance.all_instigator_state()
        assert len(before) == 2
        assert files() == before


def test_a_queue_is_looked_at_where_something_has_changed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from dagster._core.remote_origin import (
        GrpcServerCodeLocationOrigin,
        RemoteJobOrigin,
        RemoteRepositoryOrigin,
    )
    from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import (
        QueuedRunCoordinatorDaemon,
    )

    dagster_internals.preload()
    daemon = QueuedRunCoordinatorDaemon(interval_seconds=1)
    asked: list[object] = []
    look = daemon._get_in_progress_run_records

    def ask(instance: DagsterInstance) -> Any:
        asked.append(instance)
        return look(instance)

    monkeypatch.setattr(daemon, "_get_in_progress_run_records", ask)
    dequeued: list[str] = []

    def leave(
        _instance: object, _context: object, run: DagsterRun, *_: object, **__: object
    ) -> None:
        dequeued.append(run.run_id)

    monkeypatch.setattr(daemon, "_dequeue_run", leave)
    coordinator = {"module": "dagster", "class": "QueuedRunCoordinator"}
    overrides = {"run_coordinator": coordinator}
    with DagsterInstance.local_temp(str(tmp_path), overrides=overrides) as instance:
        context: Any = SimpleNamespace(instance=instance, create_request_context=lambda: None)

        def queued() -> list[str]:
            dequeued.clear()
            for _ in daemon.run_iteration(context):
                pass
            return list(dequeued)

        def is_quiet() -> bool:
            asked.clear()
            assert queued() == []
            return not asked

        assert wait_until(is_quiet)
        server = GrpcServerCodeLocationOrigin("localhost", socket="socket")
        origin = RemoteJobOrigin(RemoteRepositoryOrigin(server, "some"), "some")
        run = DagsterRun("some", status=DagsterRunStatus.QUEUED, remote_job_origin=origin)
        instance.add_run(run)
        # One that is left in the queue is looked at again and again, whatever it waits for.
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            assert queued() == [run.run_id]
        instance.delete_run(run.run_id)
        assert queued() == []
        assert wait_until(is_quiet)


def test_a_thread_of_the_daemon_sleeps_from_one_round_to_the_next() -> None:
    from dagster._daemon.daemon import IntervalDaemon, SpanMarker

    class Daemon(IntervalDaemon[Any]):
        @classmethod
        def daemon_type(cls) -> str:
            return "ANY"

        def run_iteration(self, _: Any) -> Any:
            return iter(())

    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waited.append(timeout)
            return super().wait(0.01)

    dagster_internals.preload()
    waited: list[float | None] = []
    loop = Daemon(0.7).core_loop(cast("Any", None), Event())
    assert [next(loop), next(loop), next(loop)] == [
        SpanMarker.START_SPAN,
        SpanMarker.END_SPAN,
        None,
    ]
    loop.close()
    assert waited == [0.7]


def test_a_webserver_wakes_for_what_there_is_to_do_and_ends_at_once() -> None:
    port = free_port()
    command = [sys.executable, "-c", WEBSERVER, str(port)]
    with subprocess.Popen(command, cwd=PROJECT_ROOT) as server:

        def ticks_and_time() -> tuple[int, float]:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE) as reply:
                date = parsedate_to_datetime(reply.headers["date"])
                return int(reply.read()), date.timestamp()

        def is_up() -> bool:
            with suppress(OSError):
                return bool(ticks_and_time())
            return False

        try:
            assert wait_until(is_up)
            ticks, since = ticks_and_time()
            assert abs(time.time() - since) < promised(2.0)
            assert wait_until(lambda: ticks_and_time()[1] >= since + 2)
            assert ticks_and_time()[0] == ticks == 1
            begun = time.monotonic()
            server.terminate()
            assert server.wait(timeout=PATIENCE) == -signal.SIGTERM
            assert time.monotonic() - begun < promised(0.8)
        finally:
            server.kill()


def test_a_run_can_be_executed_by_a_command(tmp_path: Path) -> None:
    from dagster._cli.api import api_cli
    from dagster._core.code_pointer import ModuleCodePointer
    from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
    from dagster._grpc.types import ExecuteRunArgs
    from dagster._serdes import deserialize_value

    pointer = ModuleCodePointer("orchestration.locations.ingest", "defs", str(tmp_path))
    origin = JobPythonOrigin("__ASSET_JOB", RepositoryPythonOrigin(sys.executable, pointer))
    run = DagsterRun(job_name="__ASSET_JOB", job_code_origin=origin)
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        group, command, argument = dagster_internals.run_command(run, instance)
    assert group == "api"
    assert command in api_cli.commands
    assert deserialize_value(argument, ExecuteRunArgs).run_id == run.run_id


@pytest.mark.parametrize(
    "name",
    ["launch_run", "terminate", "supports_check_run_worker_health", "check_run_worker_health"],
)
def test_a_launcher_has_what_the_forking_one_overrides(name: str) -> None:
    from orchestration.runs.run_launcher import ForkedRunLauncher

    def shape(launcher: type) -> list[str]:
        member = inspect.getattr_static(launcher, name)
        function: Any = member.fget if isinstance(member, property) else member
        return list(inspect.signature(function).parameters)

    assert shape(ForkedRunLauncher) == shape(DefaultRunLauncher)


def test_a_launcher_knows_its_instance() -> None:
    assert hasattr(DefaultRunLauncher, "_instance")


def test_health_is_told_in_dagsters_words() -> None:
    status = dagster_internals.WorkerStatus
    assert {"RUNNING", "FAILED"} <= set(status.__members__)
    result = dagster_internals.CheckRunHealthResult(status.FAILED, "why")
    assert (result.status, result.msg) == (status.FAILED, "why")
    assert "dagster_run" in dagster_internals.LaunchRunContext._fields


def test_without_a_name_servers_start_as_dagster_starts_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dagster_internals, "PRELOADED", ("dagster", "dagster._moved_away"))
    assert not Forkserver(True, any_location).warm
    assert capsys.readouterr().out == (
        "warning: starting stock servers, which is slow: ModuleNotFoundError: No module named "
        "'dagster._moved_away'\n"
    )


def test_without_watching_servers_start_as_dagster_starts_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dagster._grpc import server_watcher

    monkeypatch.delattr(server_watcher, "create_grpc_watch_thread")
    assert not Forkserver(True, any_location).warm
    assert "server_watcher has no create_grpc_watch_thread" in capsys.readouterr().out


def test_where_the_rehearsal_has_changed_servers_start_as_dagster_starts_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dagster._core.remote_representation.external_data import RepositorySnap

    monkeypatch.setattr(RepositorySnap, "from_def", lambda repository: repository)
    assert not Forkserver(True, any_location).warm
    said = capsys.readouterr().out
    assert said.startswith("warning: starting stock servers, which is slow: TypeError: ")


@pytest.mark.long
def test_where_dagster_has_moved_its_names_up_serves_and_runs_without_them(tmp_path: Path) -> None:
    project = copy_project(tmp_path)
    pretend_done(project, "libraries", "build")
    internals = project / "orchestration" / "processes" / "dagster_internals.py"
    text = internals.read_text()
    assert "from dagster._core.launcher import" in text
    internals.write_text(text.replace("dagster._core.launcher", "dagster._core.moved_away"))
    with serving(project, "--only", "libraries", locations=["libraries"]) as server:
        missing = "ModuleNotFoundError: No module named 'dagster._core.moved_away'"
        for what in (
            "starting stock servers, which is slow",
            "runs start with Dagster's own launcher, which is slow",
        ):
            assert f"warning: {what}: {missing}\n" in server.output
        server.wait_for_run(server.launch("libraries", "package", partition="main"))


# Steps' output and failures are shown as Dagster does without theirs; `clean` alone needs its own.
PRIVATE = {
    "processes/dagster_internals.py",
    "runs/run_protocol.py",
    "definitions/failure.py",
    "definitions/schedules.py",
    "instance/database.py",
    "instance/step_logs.py",
}


def test_private_names_are_in_few_files() -> None:
    found = set()
    project = PROJECT_ROOT / "orchestration"
    for path in (*project.glob("*.py"), *project.glob("*/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=names):
                    modules = [alias.name for alias in names]
                case ast.ImportFrom(module=str(module), names=names):
                    modules = [f"{module}.{alias.name}" for alias in names]
                case _:
                    continue
            if any(re.match(r"dagster\w*\..*\b_", f"{module}.") for module in modules):
                found.add(str(path.relative_to(project)))
    assert found == PRIVATE


def test_the_names_that_are_only_words_are_dagsters() -> None:
    from dagster._core.definitions.assets.job.asset_job import IMPLICIT_ASSET_JOB_NAME
    from dagster._core.storage.tags import (
        PARTITION_NAME_TAG,
        POOL_TAG_PREFIX,
        REPOSITORY_LABEL_TAG,
        SCHEDULE_NAME_TAG,
        SCHEDULED_EXECUTION_TIME_TAG,
    )

    assert (
        names.ASSET_JOB,
        names.REPOSITORY_TAG,
        run_process.POOL_TAG,
        names.PARTITION_TAG,
        schedules.SCHEDULE_TAG,
        schedules.DUE_TAG,
    ) == (
        IMPLICIT_ASSET_JOB_NAME,
        REPOSITORY_LABEL_TAG,
        POOL_TAG_PREFIX,
        PARTITION_NAME_TAG,
        SCHEDULE_NAME_TAG,
        SCHEDULED_EXECUTION_TIME_TAG,
    )
