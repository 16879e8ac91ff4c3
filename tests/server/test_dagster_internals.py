"""Fails, naming what is gone, where a release of Dagster has moved a private name."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
import threading
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRun, DefaultRunLauncher

from orchestration.catalog.checkout import PROJECT_ROOT
from orchestration.cli import local_runs
from orchestration.server import dagster_internals
from orchestration.server.dagster_internals import PRELOADED, TERMINATION_EVENT
from orchestration.server.forkserver import SCRIPTS, Forkserver
from orchestration.server.supervisor import any_location
from tests.harness.up_server import copy_project, pretend_done, serving

# What a fork takes over: whether it can be warm, and the threads, of which a fork has only one.
THREADS = """
import os
from orchestration.server.forkserver import Forkserver
from orchestration.server.supervisor import any_location
print(Forkserver(True, any_location).warm, len(os.listdir("/proc/self/task")))
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
        [sys.executable, "-c", THREADS], capture_output=True, text=True, timeout=60
    )
    assert result.stdout == "True 1\n", result.stderr


@pytest.fixture
def api_server(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Dagster's servicer of a code server; what a test does to the class is undone."""
    from dagster._grpc.server import DagsterApiServer

    monkeypatch.setattr(DagsterApiServer, "ReloadCode", DagsterApiServer.ReloadCode)
    return DagsterApiServer


def test_a_code_servers_reload_can_be_replaced(api_server: Any) -> None:
    from dagster._grpc.__generated__ import dagster_api_pb2

    own = inspect.signature(api_server.ReloadCode)
    replaced = iter([False, True])
    dagster_internals.replace_reload(lambda: next(replaced))
    assert len(inspect.signature(api_server.ReloadCode).parameters) == len(own.parameters)
    told_to_stop = threading.Event()
    server = SimpleNamespace(**{TERMINATION_EVENT: told_to_stop})
    for is_replaced in (False, True):
        answer = api_server.ReloadCode(server, dagster_api_pb2.ReloadCodeRequest(), None)
        assert isinstance(answer, dagster_api_pb2.ReloadCodeReply)
        assert told_to_stop.is_set() == is_replaced


def test_a_code_server_can_be_told_to_stop(api_server: Any) -> None:
    assert f"self.{TERMINATION_EVENT} = " in inspect.getsource(api_server.__init__)


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
    from orchestration.server.run_launcher import ForkedRunLauncher

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


def test_without_reload_servers_start_as_dagster_starts_them(
    api_server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(api_server, "ReloadCode")
    monkeypatch.delattr(api_server.__mro__[1], "ReloadCode")
    assert not Forkserver(True, any_location).warm
    assert "DagsterApiServer has no ReloadCode" in capsys.readouterr().out


def test_where_the_rehearsal_has_changed_servers_start_as_dagster_starts_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dagster._core.remote_representation.external_data import RepositorySnap

    monkeypatch.setattr(RepositorySnap, "from_def", lambda repository: repository)
    assert not Forkserver(True, any_location).warm
    said = capsys.readouterr().out
    assert said.startswith("warning: starting stock servers, which is slow: TypeError: ")


def test_where_dagster_has_moved_its_names_up_serves_and_runs_without_them(tmp_path: Path) -> None:
    project = copy_project(tmp_path)
    pretend_done(project, "libraries", "build")
    internals = project / "orchestration" / "server" / "dagster_internals.py"
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


def test_private_names_are_in_one_file() -> None:
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
                found.add(path.name)
    assert found == {"dagster_internals.py"}


def test_the_names_that_are_only_words_are_dagsters() -> None:
    from dagster._core.definitions.assets.job.asset_job import IMPLICIT_ASSET_JOB_NAME
    from dagster._core.storage.tags import (
        PARTITION_NAME_TAG,
        POOL_TAG_PREFIX,
        REPOSITORY_LABEL_TAG,
    )

    assert (
        local_runs.ASSET_JOB,
        local_runs.REPOSITORY_TAG,
        local_runs.POOL_TAG,
        local_runs.PARTITION_TAG,
    ) == (
        IMPLICIT_ASSET_JOB_NAME,
        REPOSITORY_LABEL_TAG,
        POOL_TAG_PREFIX,
        PARTITION_NAME_TAG,
    )
