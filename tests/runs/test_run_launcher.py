"""Runs of a running `up`: cancelled, killed, and through reloads and crashes of their location."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, job

from orchestration.instance.deaths import note_deaths
from orchestration.instance.home import POSTGRES_VARIABLE
from orchestration.instance.workers import (
    WORKER_TAG,
    has_ended,
    is_elsewhere,
    mark_host,
    process_identity,
)
from orchestration.processes.dagster_internals import WorkerStatus
from orchestration.runs.run_launcher import ForkedRunLauncher
from tests.harness.forks import forked
from tests.harness.processes import is_running, wait_until
from tests.harness.up_server import Server, copy_project, pretend_done, serving, write_products

# A shell, its child, one in a session of its own, and one that tells nothing of where it is from.
TREE = """
bash -c 'echo $$ > child.pid; sleep 600; true' &
setsid bash -c 'echo $$ > daemon.pid; sleep 600; true' &
env -i bash -c 'echo $$ > stranger.pid; sleep 600; true' &
echo $$ > shell.pid
wait
"""
# Goes on until a file appears in the product's folder in the checkout.
PATIENT = "echo $$ > shell.pid; until [ -e go ]; do sleep 0.1; done"
COMMANDS = {
    name: f'cd "$DATA_ENGINEERING_ROOT/products/{name}"\n{command}'
    for name, command in {
        "bystander": "true",
        "cancelled": TREE,
        "killed": PATIENT,
        "patient": PATIENT,
    }.items()
}


@job
def empty() -> None: ...


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    project = copy_project(tmp_path_factory.mktemp("runs"))
    write_products(project, COMMANDS)
    for slug in COMMANDS:
        pretend_done(project, slug, "load")
    options = ("--no-watch", "--only", ",".join(COMMANDS))
    with serving(project, *options, locations=list(COMMANDS)) as server:
        yield server


def pid_in(server: Server, product: str, name: str) -> int:
    file = server.product_folder(product) / f"{name}.pid"
    assert wait_until(lambda: file.is_file() and file.read_text().strip())
    return int(file.read_text())


def test_cancelling_a_run_ends_all_that_its_build_command_started(server: Server) -> None:
    run = server.launch("cancelled", "build", partition="main")
    names = ("shell", "child", "daemon", "stranger")
    tree = [pid_in(server, "cancelled", name) for name in names]
    assert all(map(is_running, tree))
    server.cancel(run)
    server.wait_for_run(run, "CANCELED")
    assert wait_until(lambda: not any(map(is_running, tree)))


def test_a_run_survives_the_reload_of_its_location_and_the_end_of_anothers_server(
    server: Server,
) -> None:
    run = server.launch("patient", "build", partition="main")
    build = pid_in(server, "patient", "shell")
    process = server.run_pid(run)
    before = {name: server.wake(name) for name in ("patient", "bystander")}
    server.reload("patient")
    os.kill(before["bystander"], signal.SIGKILL)
    # The old servers are gone for good before the run goes on.
    assert wait_until(lambda: not any(map(is_running, before.values())))
    assert is_running(process)
    assert is_running(build)
    (server.product_folder("patient") / "go").touch()
    server.wait_for_run(run)


def test_a_location_whose_server_is_killed_is_served_all_the_same(server: Server) -> None:
    before = server.loads()
    old = {name: server.wake(name) for name in ("bystander", "cancelled")}
    os.kill(old["bystander"], signal.SIGKILL)
    server.wait_for_output("[bystander] its code server was ended by SIGKILL")
    assert server.wake("bystander") != old["bystander"]
    assert server.wake("cancelled") == old["cancelled"]
    assert server.loads() == before
    server.wait_for_locations(*COMMANDS)
    server.wait_for_run(server.launch("bystander", "build", partition="main"))


def test_a_run_whose_process_is_killed_is_shown_as_failed_and_can_be_run_again(
    server: Server,
) -> None:
    run = server.launch("killed", "build", partition="main")
    build = pid_in(server, "killed", "shell")
    os.kill(server.run_pid(run), signal.SIGKILL)
    server.wait_for_run(run, "FAILURE")
    # By `up`, or by Dagster's run monitoring where that happens to look first.
    found = ("The run's process was ended by SIGKILL.", "has died without saying why")
    assert any(reason in server.events(run) for reason in found)
    assert wait_until(lambda: not is_running(build))
    (server.product_folder("killed") / "go").touch()
    server.wait_for_run(server.launch("killed", "build", partition="main"))


@pytest.fixture
def ended() -> str:
    """The identity of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = process_identity(process.pid)
    process.communicate()
    return identity


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[ForkedRunLauncher]:
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        launcher = ForkedRunLauncher()
        launcher.register_instance(instance)
        yield launcher


def test_run_monitoring_finds_a_run_whose_process_has_died(
    launcher: ForkedRunLauncher, ended: str
) -> None:
    def health(**tags: str) -> WorkerStatus:
        return launcher.check_run_worker_health(DagsterRun(job_name="job", tags=tags)).status

    assert launcher.supports_check_run_worker_health
    assert health(**{WORKER_TAG: ended}) is WorkerStatus.FAILED
    assert health(**{WORKER_TAG: process_identity(os.getpid())}) is WorkerStatus.RUNNING
    # What somebody else launched is taken to be well.
    assert health() is WorkerStatus.RUNNING


def test_a_run_whose_process_has_died_can_be_cancelled(
    launcher: ForkedRunLauncher, ended: str
) -> None:
    instance = launcher._instance
    run = instance.create_run_for_job(
        empty, status=DagsterRunStatus.STARTED, tags={WORKER_TAG: ended}
    )
    assert not launcher.terminate(run.run_id)
    after = instance.get_run_by_id(run.run_id)
    assert after
    assert after.status is DagsterRunStatus.CANCELED
    # There is nothing to cancel any more.
    assert not launcher.terminate(run.run_id)


def test_a_process_of_another_host_is_never_taken_for_a_dead_one_of_this(
    launcher: ForkedRunLauncher, ended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(POSTGRES_VARIABLE, "postgresql://many@hosts/have-it")
    instance = launcher._instance
    elsewhere = ended.partition("@")[0] + "@no.such.host"
    run = instance.create_run_for_job(
        empty, status=DagsterRunStatus.STARTED, tags={WORKER_TAG: elsewhere}
    )
    assert launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
    note_deaths(instance)
    assert not launcher.terminate(run.run_id)
    said = [event.message for event in instance.all_logs(run.run_id)]
    assert "is on no.such.host, outside of any `up`: cancel it there." in said[-1]
    after = instance.get_run_by_id(run.run_id)
    assert after
    assert after.status is DagsterRunStatus.STARTED


def test_a_run_that_has_died_is_seen_when_the_host_has_another_name_by_then(
    launcher: ForkedRunLauncher, ended: str
) -> None:
    instance = launcher._instance
    alive = process_identity(os.getpid())
    dead, living = (
        instance.create_run_for_job(
            empty,
            status=DagsterRunStatus.STARTED,
            tags={WORKER_TAG: identity.partition("@")[0] + "@an.earlier.name"},
        )
        for identity in (ended, alive)
    )
    assert launcher.check_run_worker_health(dead).status is WorkerStatus.FAILED
    assert launcher.check_run_worker_health(living).status is WorkerStatus.RUNNING
    note_deaths(instance)
    after = [instance.get_run_by_id(run.run_id) for run in (dead, living)]
    assert [run and run.status.value for run in after] == ["FAILURE", "STARTED"]


def work_as(name: str, ready: Path) -> None:
    socket.gethostname = lambda: name
    with mark_host():
        ready.touch()
        signal.pause()


@pytest.mark.parametrize("database", ["", "postgresql://many@hosts/have-it"])
def test_a_run_in_a_container_beside_this_one_goes_on_as_long_as_that_is_there(
    ended: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: str
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv(POSTGRES_VARIABLE, database)
    # Of its processes nothing is to be seen here.
    identity = ended.partition("@")[0] + "@8f2c"
    with forked(work_as, "8f2c", tmp_path / "ready", log=tmp_path / "log") as beside:
        assert wait_until((tmp_path / "ready").exists), beside.output
        assert not has_ended(identity)
        assert is_elsewhere(identity)
        beside.kill()
        assert wait_until(lambda: has_ended(identity))


def test_a_process_that_runs_is_told_from_those_that_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = process_identity(process.pid)
    assert not has_ended(identity)
    assert process_identity(process.pid) == identity
    # A later process with the same id.
    assert has_ended(identity.replace("@", "1@"))
    assert process.stdin
    process.stdin.close()
    # Ended, yet not waited for: a zombie.
    assert wait_until(lambda: has_ended(identity))
    assert Path(f"/proc/{process.pid}").exists()
    with pytest.raises(ProcessLookupError):
        process_identity(process.pid)
    process.wait()
    assert has_ended(identity)
    # As identities were before they named their host: it may be of another one's process.
    monkeypatch.setenv(POSTGRES_VARIABLE, "postgresql://many@hosts/have-it")
    assert not has_ended(identity.partition("@")[0])
