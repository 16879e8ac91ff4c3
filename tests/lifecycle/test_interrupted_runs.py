"""Runs in a running `up` that are killed, or that do what no run should do."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRunStatus, job

from orchestration.instance.deaths import note_deaths
from orchestration.instance.workers import LAUNCHER_TAG, WORKER_TAG, process_identity
from tests.harness.forks import descendants
from tests.harness.processes import ORCHESTRATION, is_running, promised, wait_until
from tests.harness.up_server import (
    Server,
    checkout_of,
    copy_project,
    pretend_done,
    serving,
    write_products,
)

COMMANDS = {
    "flood": "yes 'a line of a build that says a lot' | head -c 1000000000; echo the end",
    "patient": 'echo $$ > "$DATA_ENGINEERING_ROOT/products/patient/patient.pid"; sleep 600',
}


def pid_in(file: Path) -> int:
    assert wait_until(lambda: file.is_file() and file.read_text().strip()), file
    return int(file.read_text())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose products do what no product should do."""
    project = copy_project(tmp_path_factory.mktemp("runs"))
    write_products(project, COMMANDS)
    env = {"DATA_ENGINEERING_ROOT": str(checkout_of(project))}
    command = [*ORCHESTRATION, "generate"]
    subprocess.run(command, cwd=project, env=os.environ | env, check=True, capture_output=True)
    for name in COMMANDS:
        pretend_done(project, name, "load")
    configuration = project / "orchestration" / "dagster" / "dagster.yaml"
    text = configuration.read_text()
    configuration.write_text(text.replace("poll_interval_seconds: 15", "poll_interval_seconds: 2"))
    return project


@pytest.fixture(scope="module")
def build_pid(project: Path) -> Path:
    """The file in which a patient build leaves its process id."""
    return checkout_of(project) / "products" / "patient" / "patient.pid"


@pytest.fixture(scope="module")
def killed_before(project: Path, build_pid: Path) -> str:
    """The id of a run from the command line that was killed when there was no server."""
    unset = ("DATA_ENGINEERING_ROOT", "DCPY_LIFECYCLE_DATA_DIR", "DAGSTER_HOME")
    env = {name: value for name, value in os.environ.items() if name not in unset}
    process = subprocess.Popen(
        [*ORCHESTRATION, "materialize", "patient/build", "main"],
        cwd=project,
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout
        run_id = process.stdout.readline().split()[-1]
        build = pid_in(build_pid)
        process.kill()
    assert wait_until(lambda: not is_running(build), 15)
    return run_id


@pytest.fixture(scope="module")
def server(project: Path, killed_before: str) -> Iterator[Server]:
    with serving(project, "--no-watch", locations=["ingest", *COMMANDS]) as server:
        yield server


def test_a_run_of_the_command_line_that_was_killed_is_failed_in_the_next_up(
    server: Server, killed_before: str
) -> None:
    server.wait_for_run(killed_before, "FAILURE")


def test_a_run_beyond_its_limit_is_ended_and_failed(
    server: Server, killed_before: str, build_pid: Path
) -> None:
    # The same partition as the killed run's: neither lock nor slot are held by it any more.
    build_pid.unlink()
    run = server.launch("patient", "build", partition="main", tags={"dagster/max_runtime": "1"})
    build = pid_in(build_pid)
    server.wait_for_run(run, "FAILURE")
    assert "Exceeded maximum runtime of 1 seconds" in server.events(run)
    assert wait_until(lambda: not is_running(build) and not is_running(server.run_pid(run)))
    assert server.run_status(run) == "FAILURE"


@pytest.mark.parametrize("seconds", [0.0, 0.5, 1.0])
def test_a_run_whose_process_is_killed_is_failed_at_once_however_far_it_had_come(
    server: Server, seconds: float
) -> None:
    run = server.launch("patient", "build", partition="main")
    server.wait_for_run(run, "STARTING", "STARTED")
    assert wait_until(lambda: server.run_tags(run).get(WORKER_TAG))
    pid = server.run_pid(run)
    time.sleep(seconds)
    below = descendants(pid)
    os.kill(pid, signal.SIGKILL)
    server.wait_for_run(run, "FAILURE", seconds=promised(10))
    assert wait_until(lambda: not any(map(is_running, {pid, *below})))


@pytest.mark.long
def test_a_gigabyte_of_output_fills_neither_disk_nor_memory_and_the_ui_answers(
    server: Server,
) -> None:
    run = server.launch("flood", "build", partition="main")
    server.wait_for_run(run, "STARTED")
    pid = server.run_pid(run)
    memory, answers = [0], []
    while (status := server.run_status(run)) == "STARTED":
        started = time.monotonic()
        assert server.locations()
        answers.append(time.monotonic() - started)
        memory.append(peak_kilobytes(pid))
    assert status == "SUCCESS", server.events(run)
    assert answers
    assert max(answers) < 3
    assert max(memory) < 400_000
    log = server.state / "builds" / "flood" / "main" / "build" / "build.log"
    assert log.stat().st_size < 66 * 2**20
    assert log.read_text().endswith("the end\n")
    assert len(server.events(run)) < 2 * 2**20
    assert server.process.poll() is None


def peak_kilobytes(pid: int) -> int:
    """The most memory that the process has had."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int(status.partition("VmHWM:")[2].split()[0]) if "VmHWM:" in status else 0


def test_up_listens_on_loopback_only(server: Server) -> None:
    listening = "0A"
    own = set()
    for pid in server.processes():
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                own.add(os.readlink(link))
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == listening and f"socket:[{fields[9]}]" in own:
                address, port = fields[1].split(":")
                addresses.add((bytes.fromhex(address)[::-1], int(port, 16)))
    assert addresses == {(bytes([127, 0, 0, 1]), server.port)}


@job
def nothing() -> None: ...


@pytest.mark.parametrize(
    ("before", "after"),
    [("STARTING", "FAILURE"), ("STARTED", "FAILURE"), ("CANCELING", "CANCELED")],
)
def test_however_far_a_run_was_when_everything_was_killed_the_next_up_shows_that_it_has_ended(
    tmp_path: Path, before: str, after: str
) -> None:
    gone = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    identity = process_identity(gone.pid)
    gone.communicate()
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        alive = process_identity(os.getpid())
        workers = {
            "dead": {WORKER_TAG: identity, LAUNCHER_TAG: alive},
            "not there yet": {WORKER_TAG: "", LAUNCHER_TAG: identity},
            "alive": {WORKER_TAG: alive, LAUNCHER_TAG: identity},
        }
        runs = {
            name: instance.create_run_for_job(nothing, status=DagsterRunStatus[before], tags=tags)
            for name, tags in workers.items()
        }
        note_deaths(instance)
        states = {name: instance.get_run_by_id(run.run_id) for name, run in runs.items()}
    assert {name: run and run.status.value for name, run in states.items()} == {
        "dead": after,
        "not there yet": after,
        "alive": before,
    }
