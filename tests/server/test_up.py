import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from orchestration import OrchestrationError
from orchestration.catalog.names import STAGES, STARTER_KEYS
from orchestration.catalog.products import Product
from orchestration.cli.main import main
from orchestration.code_servers.selection import Selection
from orchestration.instance.workers import LAUNCHER_TAG, pid_of
from tests.harness.forks import command_of, descendants
from tests.harness.processes import PATIENCE, orchestration, wait_until
from tests.harness.up_server import (
    Server,
    checkout_of,
    copy_project,
    free_port,
    pretend_done,
    serving,
    started,
    write_products,
)

PRODUCTS = ("libraries", "park_access", "capital_projects")
TEMPLATES = ("bpl_libraries", "nypl_libraries", "qpl_libraries")
ENDLESS_BUILD = "products: [{id: libraries, build_command: sleep 600 & sleep 600}]\n"


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, sample_dcpy: Mapping[str, str]
) -> Iterator[Server]:
    """The sample, served as `make up` does."""
    project = copy_project(tmp_path_factory.mktemp("up"))
    with serving(project, env=sample_dcpy) as server:
        yield server


def test_there_is_one_location_per_product_and_one_for_ingest(server: Server) -> None:
    assert server.locations() == dict.fromkeys(("ingest", *PRODUCTS))
    assert server.loads().keys() == server.locations().keys()


@pytest.mark.parametrize("product", PRODUCTS)
def test_every_product_has_its_starter_partitions(server: Server, product: str) -> None:
    assert server.partitions(product) == set(STARTER_KEYS)


def test_what_up_keeps_cannot_be_read_by_others(server: Server) -> None:
    home = server.project / ".dagster"
    assert (home / "dagster.yaml").is_file()
    for folder in (server.state, home):
        assert folder.stat().st_mode & 0o077 == 0


def test_a_run_of_all_four_stages_launched_as_the_ui_does_succeeds(server: Server) -> None:
    for template in TEMPLATES:
        server.add_partition("ingest", f"ingest_{template}", "20260101")
    runs = [server.launch("ingest", name, partition="20260101") for name in TEMPLATES]
    for run in runs:
        server.wait_for_run(run)
    run = server.launch("libraries", *STAGES, partition="main", job="build_libraries")
    server.wait_for_run(run)
    for stage in STAGES:
        asset = server.asset("libraries", stage)
        assert asset
        assert asset["assetMaterializations"] == [{"partition": "main"}]
    built = server.state / "builds" / "libraries" / "main" / "build"
    assert len((built / "libraries.csv").read_text().splitlines()) > 1
    assert "branches to libraries.csv" in server.events(run)
    # Whose output it is can be told from the terminal, too.
    assert f"[run {run[:8]}] " in server.output
    # It is a file that it goes to.
    assert "\x1b" not in server.output


def test_a_second_up_on_the_same_port_is_refused_with_a_sentence(server: Server) -> None:
    result = orchestration("up", "--port", str(server.port), project=server.project)
    assert result.returncode == 1
    assert result.stderr == (
        f"Cannot listen on 127.0.0.1:{server.port}: Address already in use. Choose another --port "
        "or --host (make up PORT=… HOST=…).\n"
    )
    assert server.locations() == dict.fromkeys(("ingest", *PRODUCTS))


def test_up_ends_whose_port_is_taken_before_it_has_it(tmp_path: Path) -> None:
    with started(copy_project(tmp_path), "--only", "libraries") as server, socket.socket() as taken:
        # It has looked by now: itself, and the two that it starts.
        assert wait_until(lambda: len(server.processes()) >= 3)
        taken.bind(("127.0.0.1", server.port))
        taken.listen()
        assert server.wait_for_end() == 1
        assert f"Somebody else has taken {server.url} meanwhile." in server.output


def test_a_second_up_on_the_same_state_is_refused_with_a_sentence(server: Server) -> None:
    env = {"DAGSTER_HOME": str(server.project / ".dagster")}
    result = orchestration("up", "--port", str(free_port()), project=server.project, env=env)
    assert result.returncode == 1
    assert result.stderr == (
        f"Another `up` runs on {server.project / '.dagster'}, which is for one only. End it, or "
        "run this one in a clone of its own, with a DAGSTER_HOME of its own.\n"
    )
    assert server.locations() == dict.fromkeys(("ingest", *PRODUCTS))


@pytest.mark.parametrize(
    ("address", "begins"),
    [
        (("--port", "99999"), "Cannot listen on "),
        (("--port", "0"), "Cannot listen on "),
        (("--host", "no.such.host.invalid"), "The host no.such.host.invalid has no address"),
    ],
)
def test_an_address_that_cannot_be_is_refused_with_a_sentence(
    address: tuple[str, str], begins: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["up", *address]) == 1
    said = capsys.readouterr().err
    assert said.startswith(begins)
    assert address[1] in said
    assert said.count("\n") == 1


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[signal.Signals, Server]]:
    """For each way to end it, a server of one product whose endless build is running.

    They come up at the same time, which takes as long as one would.
    """
    servers = {}
    with ExitStack() as stack:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            project = copy_project(tmp_path_factory.mktemp(number.name))
            (checkout_of(project) / "products" / "products.yml").write_text(ENDLESS_BUILD)
            pretend_done(project, "libraries", "load")
            servers[number] = stack.enter_context(started(project, "--only", "libraries"))
        for server in servers.values():
            begin_endless_build(server)
        yield servers


def begin_endless_build(server: Server) -> None:
    server.wait_until_up("libraries")
    run = server.launch("libraries", "build", partition="main")
    server.wait_for_run(run, "STARTED")
    # `up`, its reaper, supervisor, webserver, daemon, code server, the run, and the build's.
    assert wait_until(lambda: len(server.processes()) >= 10)


def test_where_memory_runs_out_runs_and_locations_are_given_up_first(
    busy: dict[signal.Signals, Server],
) -> None:
    server = busy[signal.SIGTERM]
    [run] = server.runs()
    run_pid = server.run_pid(run)
    expendable = {*descendants(run_pid), run_pid, server.wake("libraries")}
    assert all(map(oom_score_adj, expendable))
    assert len(expendable) > 4
    daemon = pid_of(server.run_tags(run)[LAUNCHER_TAG])
    [webserver] = re.findall(r"Serving dagster-webserver on .* in process (\d+)", server.output)
    parents = {server.process.pid, daemon, int(webserver)}
    assert not any(map(oom_score_adj, parents))
    assert parents <= server.processes()


def oom_score_adj(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_end_up_leaves_no_process_behind(
    busy: dict[signal.Signals, Server], number: signal.Signals
) -> None:
    assert busy[number].stop(number) == 0
    assert "Traceback" not in busy[number].output


def test_killed_up_leaves_no_process_behind_and_can_come_up_again(
    busy: dict[signal.Signals, Server],
) -> None:
    server = busy[signal.SIGKILL]
    [run] = server.runs()
    server.delete_partition("libraries", "build_libraries", "nightly_qa")
    assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    with serving(server.project, "--only", "libraries", locations=["libraries"]) as again:
        assert again.run_status(run) == "FAILURE"
        # A starter partition that somebody deleted stays deleted.
        assert again.partitions("libraries") == {"main"}


def test_results_that_somebody_deletes_are_said_to_be_gone_and_runs_go_on(tmp_path: Path) -> None:
    project = copy_project(tmp_path)
    write_products(project, {"libraries": "echo built > output.txt"})
    (tmp_path / "disk").mkdir()
    (project / ".lifecycle").symlink_to(tmp_path / "disk")
    with serving(project, "--only", "libraries", locations=["libraries"]) as server:
        pretend_done(project, "libraries", "load")
        server.wait_for_run(server.launch("libraries", "build", partition="main"))
        # Their disk is not there any more.
        shutil.rmtree(tmp_path / "disk")
        server.wait_for_output("The folder of results cannot be used: ")
        server.state.unlink()
        server.wait_for_output(f"{server.state} is gone, with every result in it")
        assert server.state.stat().st_mode & 0o077 == 0
        # There is no load to work on any more; that is said, and is all.
        server.wait_for_run(server.launch("libraries", "build", partition="main"), "FAILURE")
        pretend_done(project, "libraries", "load")
        server.wait_for_run(server.launch("libraries", "build", partition="main"))


def test_without_its_state_up_ends_with_a_sentence(tmp_path: Path) -> None:
    with started(copy_project(tmp_path), "--only", "libraries") as server:
        server.wait_until_up("libraries")
        home = server.project / ".dagster"
        home.rename(tmp_path / "away")
        assert server.wait_for_end() == 1
        assert server.output.count(f"Dagster's state, {home}, is gone: `up` ends.") == 1


@pytest.mark.parametrize("processes", [3, 6])
def test_up_can_be_interrupted_while_it_comes_up(tmp_path: Path, processes: int) -> None:
    with started(copy_project(tmp_path)) as server:
        assert wait_until(lambda: len(server.processes()) >= processes)
        assert "Dagster is at" not in server.output
        assert server.stop(signal.SIGINT) == 0


def test_the_process_that_the_user_starts_never_imports_dagster() -> None:
    # Up to where it would start the supervisor.
    port = str(free_port())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(port)))
        result = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "orchestration", "up", "--port", port],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert "Cannot listen on" in result.stderr
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "orchestration.server.up" in imported
    assert not {name for name in imported if name.partition(".")[0].startswith("dagster")}


def test_an_address_that_others_can_reach_is_warned_of(tmp_path: Path) -> None:
    with started(copy_project(tmp_path), "--host", "0.0.0.0") as server:
        server.wait_for_output(
            "warning: 0.0.0.0 can be reached from elsewhere, and Dagster has no authentication\n"
        )
        server.stop()


def test_an_invalid_products_file_ends_up_with_its_errors(tmp_path: Path) -> None:
    project = copy_project(tmp_path)
    products = checkout_of(project) / "products" / "products.yml"
    products.write_text(
        "products:\n- id: pluto\n  build_comand: make\n- id: 311\n  build_command: make\n"
    )
    with started(project) as server:
        assert server.wait_for_end() == 1
        missing, unknown, number = server.output.splitlines()
    assert missing == f"{products}:2: product 'pluto': `build_command` is missing"
    assert unknown.startswith(f"{products}:3: product 'pluto': unknown key `build_comand`")
    assert number.startswith(f"{products}:4: product 311: `id`")


def test_a_supervisor_that_cannot_begin_leaves_no_temporary_folder(tmp_path: Path) -> None:
    where: dict[str, object] = {"host": "127.0.0.1", "port": 0, "path_prefix": "", "started": 0}
    what: dict[str, object] = {"only": [], "owners": [], "watches": True, "deployment": None}
    settings = {**where, **what, "warm": False, "host_name": "other"}
    # Short, since the name of a Unix socket is.
    with tempfile.TemporaryDirectory(prefix="up-") as temporary:
        refused = subprocess.run(
            [sys.executable, "-m", "orchestration.server", json.dumps(settings)],
            cwd=copy_project(tmp_path),
            env={**os.environ, "TMPDIR": temporary, "DAGSTER_HOME": str(tmp_path / "dagster")},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert refused.returncode == 1
        assert refused.stderr.startswith("Other hosts cannot be served so")
        assert not os.listdir(temporary)


@pytest.mark.long
def test_cold_serves_with_stock_servers(tmp_path: Path) -> None:
    project = copy_project(tmp_path)
    pretend_done(project, "park_access", "build")
    options = ("--cold", "--only", "park access")
    with serving(project, *options, locations=["park_access"]) as server:
        assert server.partitions("park_access") == set(STARTER_KEYS)
        commands = [command_of(pid).split(b"\0") for pid in server.processes()]
        served = [command for command in commands if {b"api", b"grpc"} <= set(command)]
        assert served
        assert all(b"orchestration.locations.park_access" in command for command in served)
        server.wait_for_run(server.launch("park_access", "package", partition="main"))


@pytest.fixture
def products() -> list[Product]:
    owners = {
        "pluto": ["team:housing"],
        "facilities db": ["team:housing", "someone@example.org"],
        "colp": [],
    }
    return [
        Product.model_validate({"id": name, "build_command": "make", "owners": owners[name]})
        for name in owners
    ]


@pytest.mark.parametrize(
    ("only", "owners", "expected"),
    [
        ([], [], ["ingest", "pluto", "facilities_db", "colp"]),
        (["colp", "pluto"], [], ["pluto", "colp"]),
        (["facilities db"], [], ["facilities_db"]),
        (["facilities_db", "ingest"], [], ["ingest", "facilities_db"]),
        ([], ["team:housing"], ["pluto", "facilities_db"]),
        (["colp"], ["someone@example.org"], ["facilities_db", "colp"]),
    ],
)
def test_what_a_selection_holds(
    products: list[Product], only: list[str], owners: list[str], expected: list[str]
) -> None:
    assert Selection(only, owners).locations(products) == expected


def test_an_unknown_name_is_an_error_that_lists_what_there_is(products: list[Product]) -> None:
    with pytest.raises(OrchestrationError) as error:
        Selection(["pluto", "plutto", "cpdb"], []).locations(products)
    assert str(error.value) == (
        "--only names no location: plutto, cpdb. Did you mean pluto? There are: ingest, pluto, "
        "facilities_db, colp."
    )


def test_an_unknown_owner_is_an_error_that_lists_who_there_is(products: list[Product]) -> None:
    with pytest.raises(OrchestrationError) as error:
        Selection([], ["team:hosing"]).locations(products)
    assert str(error.value) == (
        "--owner names nobody who owns a product: team:hosing. "
        "There are: someone@example.org, team:housing."
    )
