import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime

import pytest

from orchestration.catalog.names import STAGES
from orchestration.cli.client import LocationStatus
from orchestration.cli.main import main
from orchestration.cli.status import table
from tests.harness.processes import ORCHESTRATION, PATIENCE
from tests.harness.up_server import (
    Server,
    checkout_of,
    copy_project,
    free_port,
    pretend_done,
    selector,
    serving,
)

SENSOR = """
query Sensor($sensor: SensorSelector!) {
  sensorOrError(sensorSelector: $sensor) { ... on Sensor { id } }
}
"""
STOP = """
mutation Stop($id: String) {
  stopSensor(id: $id) { ... on StopSensorMutationResult { instigationState { status } } }
}
"""
START = """
mutation Start($sensor: SensorSelector!) {
  startSensor(sensorSelector: $sensor) { __typename }
}
"""
LOCATIONS = ("park_access", "capital_projects")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serves what one team names and another owns; `package` can run there, nothing else.

    A proxy would serve it below a path.
    """
    project = copy_project(tmp_path_factory.mktemp("status"))
    products = checkout_of(project) / "products" / "products.yml"
    # The last one in it is capital_projects.
    products.write_text(f"{products.read_text()}  schedule: on_new_inputs\n")
    pretend_done(project, "park_access", "build")
    selection = ("--only", "park access", "--owner", "budget")
    options = ("--no-watch", "--path-prefix", "/data-products", *selection)
    with serving(project, *options, locations=LOCATIONS) as server:
        yield server


def test_a_team_can_serve_only_what_it_names_and_what_it_owns(server: Server) -> None:
    assert set(server.locations()) == set(server.loads()) == set(LOCATIONS)


def test_it_lists_each_location_with_the_last_run_of_each_stage(server: Server) -> None:
    server.wait_for_run(server.launch("park_access", "package", partition="main"))
    server.wait_for_run(server.launch("park_access", "build", partition="main"), "FAILURE")
    result = server.status()
    assert result.returncode == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[:5] == [
        ["location", "state", "assets", "plan", "load", "build", "package"],
        ["park_access", "loaded", "5", "-", "-", "failure", "success"],
        ["capital_projects", "loaded", "5", "-", "-", "-", "-"],
        [],
        ["park_access"],
    ]
    assert lines[5][:2] == ["schedule", "first_of_the_month"]
    assert lines[6][:3] == ["last", "failed", "main,"]
    assert lines[7:] == [
        [],
        ["capital_projects"],
        ["schedule", "when", "all", "inputs", "are", "new"],
    ]
    assert result.stderr == ""


def test_for_a_program_it_says_when_and_why_a_run_failed(server: Server) -> None:
    server.wait_for_run(server.launch("park_access", "build", partition="main"), "FAILURE")
    began = datetime.now(UTC)
    said = server.command("status", "--json", *server.where).stdout
    park_access, capital_projects = json.loads(said)
    failed = park_access["last_failed"]
    assert failed["partition"] == "main"
    assert abs((datetime.fromisoformat(failed["time"]) - began).total_seconds()) < 60
    assert failed["why"].startswith("Product 'park access': partition 'main' has no load")
    assert "\n" not in failed["why"]
    assert park_access["owners"] == ["team:open-space"]
    assert set(park_access["partitions"]) >= {"main", "nightly_qa"}
    assert capital_projects["last_failed"] is capital_projects["last_good"] is None
    listed = {
        each["name"]: each
        for each in json.loads(server.command("list", "--json").stdout)["products"]
    }
    assert listed["park access"]["last_failed"]["why"] == failed["why"]
    for followed in (capital_projects, listed["capital-projects"]):
        assert followed["follows_inputs"] is True
    for other in (park_access, listed["park access"]):
        assert other["follows_inputs"] is None


def test_what_follows_its_inputs_no_more_is_said_to_be_off(server: Server) -> None:
    sensor = {**selector("capital_projects"), "sensorName": "build_capital_projects_on_new_inputs"}
    stopped = server.query(STOP, id=server.query(SENSOR, sensor=sensor)["sensorOrError"]["id"])
    assert stopped["stopSensor"]["instigationState"]["status"] == "STOPPED"
    line = "  schedule     when all inputs are new: off"
    assert line in server.status().stdout.splitlines()
    assert line in server.command("list").stdout.splitlines()
    server.query(START, sensor=sensor)
    assert line not in server.status().stdout


def test_where_the_plan_fails_the_stages_after_it_have_not(server: Server) -> None:
    # There is no dcpy here to plan with.
    job = server.launch("capital_projects", *STAGES, partition="main", job="build_capital_projects")
    server.wait_for_run(job, "FAILURE")
    [line] = [each for each in server.status().stdout.splitlines() if " loaded " in each][1:]
    assert line.split() == ["capital_projects", "loaded", "5", "failure", *["skipped"] * 3]


def test_the_ui_takes_the_partition_keys_that_the_command_line_takes(server: Server) -> None:
    for key in ("a/b", "a b", "2026.1-"):
        server.add_partition("park_access", "build_park_access", key)
        result = server.command("launch", "park_access/package", key, *server.where)
        assert f"The partition key {key!r} cannot be used" in result.stderr
    server.add_partition("park_access", "build_park_access", "2026.1-good")
    found = server.partitions("park_access")
    assert "2026.1-good" in found
    assert not found & {"a/b", "a b", "2026.1-"}


def test_a_run_that_the_server_does_not_launch_leaves_no_key(server: Server) -> None:
    config = ("--config", "resume: maybe")
    result = server.command("launch", "park_access/build", "2026.1-no", *config, *server.where)
    assert result.returncode == 1
    assert "2026.1-no" not in server.partitions("park_access")


def test_below_its_path_and_nowhere_else_there_is_the_server(server: Server) -> None:
    assert f"Dagster is at {server.url} with" in server.output
    assert server.url.endswith("/data-products")
    without = server.command("status", "--port", str(server.port))
    assert without.returncode == 1
    assert without.stderr.startswith(
        f"There is no Dagster server at http://127.0.0.1:{server.port} ("
    )


@pytest.mark.parametrize("command", ["up", "status"])
@pytest.mark.parametrize("path", ["dagster", "/dagster/", "/"])
def test_a_path_that_cannot_be_is_refused(
    command: str, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--path-prefix", path]) == 2
    assert f"{path!r} must begin with `/`, and not end with it." in capsys.readouterr().err


def test_launch_has_it_run_and_follows_the_log(server: Server) -> None:
    result = server.command("launch", "park_access/package", "main", *server.where)
    assert result.returncode == 0, result.stderr
    first, *lines = result.stdout.splitlines()
    assert server.run_status(first.split()[-1]) == "SUCCESS"
    assert lines[0] == "park_access/package …"
    assert lines[-1] == "Succeeded."


class Terminal:
    """A person's, at which something is launched."""

    def __init__(self, server: Server, *arguments: str) -> None:
        self._ours, theirs = os.openpty()
        self.process = subprocess.Popen(
            [*ORCHESTRATION, "launch", *arguments, *server.where],
            cwd=server.project,
            env={**os.environ, "DATA_ENGINEERING_ROOT": str(server.checkout), "TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        self.shown = b""

    def read(self, until: bytes | None = None) -> bytes:
        """What is shown from now on until that, or until the end."""
        begin = len(self.shown)
        # Linux says EIO where the other end is closed.
        with suppress(OSError):
            while until is None or until not in self.shown[begin:]:
                if not (part := os.read(self._ours, 65_536)):
                    break
                self.shown += part
        return self.shown[begin:]

    def type(self, keys: bytes) -> None:
        """Presses these keys."""
        os.write(self._ours, keys)

    def close(self) -> None:
        """Goes away."""
        os.close(self._ours)


def test_launch_shows_a_person_at_a_terminal_what_runs(server: Server) -> None:
    terminal = Terminal(server, "park_access/package", "main")
    shown = terminal.read()
    terminal.close()
    assert terminal.process.wait(20) == 0, shown.decode()
    assert b"0:00:0" in shown and b"Succeeded." in shown


def test_launch_ends_with_why_a_run_failed(server: Server) -> None:
    result = server.command("launch", "park access/build", "2026-1_new", *server.where, "--json")
    assert result.returncode == 1
    run = json.loads(result.stdout)
    assert run["state"] == "failed"
    assert "has no load for build to work on" in run["error"]
    assert result.stderr.splitlines()[-1].startswith("park_access/build failed. Product")
    assert "2026-1_new" in server.partitions("park_access")


def test_launch_says_what_is_not_served(server: Server) -> None:
    result = server.command("launch", "libraries", "main", *server.where)
    assert result.returncode == 1
    assert result.stderr.startswith(f"The server at {server.url} does not serve libraries/plan.")


def launching(server: Server, key: str) -> subprocess.Popen[str]:
    """Launches a build that takes long, and follows it."""
    (server.product_folder("park_access") / "build.sh").write_text("touch begun; sleep 60\n")
    pretend_done(server.project, "park_access", "load", key)
    env = {**os.environ, "DATA_ENGINEERING_ROOT": str(server.checkout)}
    return subprocess.Popen(
        [*ORCHESTRATION, "launch", "park_access/build", key, *server.where],
        cwd=server.project,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_launched_run_that_somebody_cancels_is_cancelled_and_no_failure(server: Server) -> None:
    with launching(server, "2026-2_cancelled") as process:
        assert process.stdout
        run_id = process.stdout.readline().split()[-1]
        server.wait_for_run(run_id, "STARTED")
        server.cancel(run_id)
        told, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "park_access/build was interrupted, and what it had started was ended." in told
    assert "Dagster" not in told


def test_ctrl_c_in_launch_leaves_the_run_to_the_server(server: Server) -> None:
    with launching(server, "2026-2_slow") as process:
        assert process.stdout
        run_id = process.stdout.readline().split()[-1]
        server.wait_for_run(run_id, "STARTED")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert said == f"park_access/build goes on: {server.url}/runs/{run_id}\n"
    assert server.run_status(run_id) == "STARTED"
    server.cancel(run_id)
    server.wait_for_run(run_id, "CANCELED")


def test_what_is_cancelled_while_it_is_about_to_begin_is_cancelled_all_the_same(
    server: Server,
) -> None:
    folder = server.product_folder("park_access")
    team, begin = folder / "definitions.py", folder / "begin"
    waits = "import pathlib, time\nwhile not pathlib.Path({!r}).exists(): time.sleep(0.05)\n"
    team.write_text(waits.format(str(begin)) + team.read_text())
    (folder / "build.sh").write_text("sleep 60\n")
    pretend_done(server.project, "park_access", "load", "2026-2_early")
    before = server.runs()
    terminal = Terminal(server, "park_access/build", "2026-2_early")
    terminal.read(until=b" is run ")
    [run_id] = {*server.runs()} - {*before}
    server.wait_for_run(run_id, "STARTING")
    terminal.process.send_signal(signal.SIGINT)
    terminal.read(until=b"[y/N]")
    terminal.type(b"y\n")
    terminal.read(until=b"park_access/build")
    begin.touch()
    shown = terminal.read()
    terminal.close()
    assert terminal.process.wait(PATIENCE) == 130, shown.decode()
    assert server.run_status(run_id) == "CANCELED"


def test_a_proxy_is_not_asked_for_this_machines_server(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert server.status().returncode == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "raise ValueError('no such borough\\nnor any other')",
            "not used: products/park_access/definitions.py:1: ValueError: no such borough",
        ),
        (
            "x = (\n",
            "not used: products/park_access/definitions.py:1: SyntaxError: '(' was never closed",
        ),
        (
            "import os; os._exit(3)",
            "not used: products/park_access/definitions.py: Its process ended with exit code 3 "
            "while loading",
        ),
    ],
)
def test_it_names_what_is_broken_with_the_errors_first_line(
    server: Server, text: str, reason: str
) -> None:
    told = sum("Error: " in line for line in server.output.splitlines())
    (server.product_folder("park_access") / "definitions.py").write_text(text)
    server.reload("park_access")
    told += "Error: " in reason
    server.wait_for(lambda: reason in server.status().stdout)
    result = server.status()
    assert result.returncode == 1
    _, broken, loaded, why = result.stdout.splitlines()[:4]
    assert broken.split()[:4] == ["park_access", "in", "part", "4"]
    assert loaded.split()[:3] == ["capital_projects", "loaded", "5"]
    assert why.startswith("park_access: ")
    assert reason in why
    assert "nor any other" not in result.stdout
    # The terminal has one line of it, however much Python and Dagster would say.
    assert sum("Error: " in line for line in server.output.splitlines()) == told


def test_it_says_in_a_sentence_that_there_is_no_server(
    capsys: pytest.CaptureFixture[str],
) -> None:
    port = free_port()
    assert main(["status", "--port", str(port)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"There is no Dagster server at http://127.0.0.1:{port} (")
    assert said.err.endswith("Start one with `make up`, or name another --port.\n")
    assert said.err.count("\n") == 1


def test_the_tables_columns_are_as_wide_as_what_is_in_them() -> None:
    none = dict.fromkeys(STAGES, "")
    text = table(
        [
            LocationStatus("pluto", 4, None, none | {"plan": "SUCCESS"}),
            LocationStatus("a_very_long_name", 0, "it is still loading", none),
            LocationStatus("colp", 120, "not used: definitions.py", none),
        ]
    )
    assert text == (
        "location          state    assets  plan     load  build  package\n"
        "pluto             loaded   4       success  -     -      -\n"
        "a_very_long_name  broken   0       -        -     -      -\n"
        "colp              in part  120     -        -     -      -\n"
        "a_very_long_name: it is still loading\n"
        "colp: not used: definitions.py\n"
    )
