"""The instance's database in a real Postgres: found, shared, away, and back."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from dagster import AssetMaterialization, DagsterEventType, DagsterInstance, DagsterRunStatus
from dagster._core.test_utils import create_run_for_test
from sqlalchemy import create_engine, text

from orchestration import OrchestrationError
from orchestration.instance.database_claim import KEY
from orchestration.instance.home import POSTGRES_VARIABLE, open_instance, prepare_dagster_home
from orchestration.instance.postgres import database_url
from tests.harness.postgres import PASSWORD, Postgres
from tests.harness.processes import PATIENCE, orchestration, wait_until

MEET = """
import os, sys
from orchestration.instance.deaths import note_deaths
from orchestration.instance.home import open_instance, prepare_dagster_home
from orchestration.definitions.partitions import add_partition
from orchestration.instance.partitions import add_starter_partitions
prepare_dagster_home()
print("ready", flush=True)
sys.stdin.readline()
def prepare(instance):
    note_deaths(instance)
    add_starter_partitions(instance, [f"product_{n}" for n in range(20)])
    add_partition(instance, "ingest_x", "20260101")
with open_instance(prepare) as instance:
    print(len(instance.get_dynamic_partitions("build_product_7")))
"""

HOLDERS = "select pid from pg_locks where locktype = 'advisory'"
TERMINATE = f"select pg_terminate_backend(pid) from ({HOLDERS} and granted) as holders"
HOLD = """
import sys
from pathlib import Path
from orchestration import OrchestrationError
from orchestration.instance.database_claim import hold_database
try:
    hold_database(Path(sys.argv[1]))
except OrchestrationError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def database(cluster: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty database, which the instance is to have."""
    cluster.start()
    url = cluster.create_database(tmp_path.name)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    monkeypatch.setenv("DCPY_LIFECYCLE_DATA_DIR", str(tmp_path / "lifecycle"))
    monkeypatch.setenv(POSTGRES_VARIABLE, url)
    yield url
    cluster.start()


def test_the_instance_is_in_the_database_and_its_password_nowhere(
    database: str, tmp_path: Path
) -> None:
    prepare_dagster_home()
    with DagsterInstance.get() as instance:
        run = create_run_for_test(instance)
        shown = instance.info_str()
    assert shown and PASSWORD not in shown
    assert not list(tmp_path.rglob("*.db"))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if PASSWORD.encode() in path.read_bytes()]
    with DagsterInstance.get() as instance:
        assert [found.run_id for found in instance.get_runs()] == [run.run_id]


@pytest.mark.parametrize(
    "text",
    [
        "hunter2",
        "mysql://me:hunter2@host/db",
        "postgresql://me:hunter2@host",
        "postgresql://me:hunter2/x@host:port/db",
    ],
)
def test_what_is_no_address_is_refused_without_being_told(text: str, lifecycle: Path) -> None:
    refused = orchestration("list", env={POSTGRES_VARIABLE: text})
    assert refused.returncode == 1
    assert f"{POSTGRES_VARIABLE} is not the address of a Postgres database" in refused.stderr
    assert "hunter2" not in refused.stdout + refused.stderr


def test_without_it_nothing_of_postgres_is_imported() -> None:
    code = (
        "import sys; from orchestration.processes import dagster_internals; "
        "from orchestration.instance.home import prepare_dagster_home; "
        "from dagster import DagsterInstance; prepare_dagster_home(); dagster_internals.preload(); "
        "DagsterInstance.get(); "
        "print([m for m in sys.modules if m.startswith(('psycopg', 'dagster_postgres'))])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.long
def test_many_hosts_that_begin_at_once_meet_in_one_database(database: str, tmp_path: Path) -> None:
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", MEET],
            env={**os.environ, "DAGSTER_HOME": str(tmp_path / f"host {number}")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(4)
    ]
    for host in hosts:
        assert host.stdout and host.stdout.readline() == "ready\n"
    for host in hosts:
        assert host.stdin
        host.stdin.write("\n")
        host.stdin.flush()
    outputs = [host.communicate(timeout=PATIENCE)[0] for host in hosts]
    assert outputs == ["2\n"] * 4


@pytest.fixture
def claims(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts what claims the database as `up` does; a file of that name says that it has it."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLD, str(tmp_path / name)]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.long
def test_one_at_a_time_has_the_database_and_has_it_again_after_an_outage(
    database: str,
    cluster: Postgres,
    tmp_path: Path,
    claims: Callable[[str], subprocess.Popen[str]],
) -> None:
    def holders() -> list[str]:
        return cluster.query(tmp_path.name, HOLDERS)

    first = claims("first")
    assert wait_until((tmp_path / "first").exists)
    cluster.stop()
    cluster.start()
    assert wait_until(holders), "not claimed again"
    second = claims("second")
    said = second.communicate(timeout=PATIENCE)[1]
    assert second.returncode == 1 and not (tmp_path / "second").exists()
    assert f"Another `up` has Dagster's Postgres database {tmp_path.name} on 127.0.0.1" in said
    assert f", on {socket.gethostname()}: two would launch everything twice." in said
    assert PASSWORD not in said and first.poll() is None

    # Its end is enough for the next one.
    first.kill()
    third = claims("third")
    assert wait_until((tmp_path / "third").exists)
    # Cut off, and somebody else was quicker.
    waiting = create_engine(database_url(database))
    with waiting.connect() as connection, ThreadPoolExecutor() as pool:
        taken = pool.submit(connection.execute, text("SELECT pg_advisory_lock(:key)"), {"key": KEY})
        assert wait_until(lambda: len(holders()) == 2)
        cluster.query(tmp_path.name, TERMINATE)
        taken.result(20)
        said = third.communicate(timeout=PATIENCE)[1]
    waiting.dispose()
    assert third.returncode == 1 and "Another `up` has" in said


def test_a_database_that_is_down_is_a_sentence(
    database: str, cluster: Postgres, sample_dcpy: dict[str, str]
) -> None:
    cluster.stop()
    failed = orchestration("materialize", "ingest/bpl_libraries", "20260101", env=sample_dcpy)
    assert failed.returncode == 1
    said = failed.stdout + failed.stderr
    assert "cannot be used: connection to server at" in said
    assert f"Make sure that it runs, and that {POSTGRES_VARIABLE} is right." in said
    assert "Traceback" not in said and PASSWORD not in said


def test_what_is_being_done_goes_on_once_the_database_is_back(
    database: str, cluster: Postgres, capfd: pytest.CaptureFixture[str]
) -> None:
    prepare_dagster_home()
    with open_instance(lambda _: None) as instance:
        run = create_run_for_test(instance, status=DagsterRunStatus.STARTED)
        numbers = iter(range(1_000_000))
        is_done = threading.Event()
        written = []

        def write() -> None:
            while not is_done.is_set():
                number = next(numbers)
                instance.report_runless_asset_event(AssetMaterialization(f"asset_{number}"))
                written.append(number)

        worker = threading.Thread(target=write)
        worker.start()
        try:
            for _ in range(3):
                count = len(written)
                assert wait_until(lambda count=count: len(written) > count + 3)  # type: ignore[misc]
                # Beneath a statement, if need be.
                cluster.stop()
                cluster.start()
        finally:
            is_done.set()
            worker.join(30)
        assert not worker.is_alive()
        keys = {key.path[0] for key in instance.all_asset_keys()}
        assert keys == {f"asset_{number}" for number in written}
        instance.report_run_failed(run)
        events = instance.get_records_for_run(run.run_id, of_type=DagsterEventType.RUN_FAILURE)
        assert len(events.records) == 1
    said = capfd.readouterr().err
    assert "is back." in said and PASSWORD not in said


def test_another_clash_is_not_taken_for_an_outage(database: str) -> None:
    prepare_dagster_home()
    with pytest.raises(OrchestrationError, match="no configuration for Dagster"):
        settings = Path(os.environ["DAGSTER_HOME"], "dagster.yaml")
        settings.write_text(settings.read_text().replace("postgres_url", "url"))
        with open_instance(lambda _: None):
            pass
