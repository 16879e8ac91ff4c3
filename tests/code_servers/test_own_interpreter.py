"""Products whose location is loaded, asked, and run in an interpreter of its own."""

import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from orchestration.definitions.team import LOAD_SECONDS
from tests.harness.forks import command_of
from tests.harness.processes import is_running, orchestration, wait_until
from tests.harness.up_server import (
    Server,
    checkout_of,
    copy_project,
    pretend_done,
    selector,
    started,
    write_products,
)

SECRET = "hunter2-hunter2"
OLDER = "1.12.3"
# What only one of the environments has, and what that one is told.
DEFINITIONS = """
import os, sys
import dagster as dg
import only_there

print(f"told {os.environ['OWNS_TOKEN']}")
assert "OF_PLAIN" not in os.environ and "PLAINS_TOKEN" not in os.environ

@dg.asset(key=["own", "report"], description=getattr(only_there, "ABOUT", None))
def report(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    context.log.info(f"{only_there.NAME} and {os.environ['OF_OWN']}")
    context.log.info(f"executed by {sys.executable}")
    return dg.MaterializeResult()

@dg.asset(key=["own", "endless"])
def endless() -> None:
    import subprocess, time
    subprocess.Popen(["sleep", "985"], start_new_session=True)
    time.sleep(3600)

job = dg.define_asset_job("reporting", [report])

@dg.sensor(job=job)
def watching() -> dg.SkipReason:
    return dg.SkipReason(f"{only_there.NAME} has looked")

defs = dg.Definitions(assets=[report, endless], jobs=[job], sensors=[watching])
"""
# As another release's answers would look that has renamed what they hold.
UNHEARD_OF = """
import dagster as dg
import dagster._grpc.server as server

serialized = server.serialize_value
server.serialize_value = lambda value: serialized(value).replace(
    '"ExternalRepositoryData"', '"RepositoryOfTomorrow"'
)
defs = dg.Definitions()
"""
SENSOR_TEST = """
mutation Test($selector: SensorSelector!) {
  sensorDryRun(selectorData: $selector, cursor: "") {
    ... on DryRunInstigationTick { evaluationResult { skipReason error { message } } }
    ... on PythonError { message }
  }
}
"""


def environment(folder: Path, *, dagster: str | None = None, modules: str = "") -> Path:
    """A virtual environment that has all that this one has, and a module of its own.

    `dagster` is the release that it says to have.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    [packages] = (folder / "lib").glob("python*/site-packages")
    (packages / "these.pth").write_text(modules or sysconfig.get_path("purelib"))
    (packages / "only_there.py").write_text(f"NAME = {folder.name!r}\n")
    if dagster:
        about = packages / f"dagster-{dagster}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Name: dagster\nVersion: {dagster}\n")
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("interpreters")


@pytest.fixture(scope="module")
def project(folder: Path) -> Path:
    project = copy_project(folder)
    checkout = checkout_of(project)
    pythons = {
        "own": os.path.relpath(environment(folder / "own's"), checkout),
        "older": str(environment(folder / "older", dagster=OLDER)),
        "unheard": str(environment(folder / "unheard", dagster=OLDER)),
        "ancient": str(environment(folder / "ancient", dagster="1.9.13")),
        "lacking": str(environment(folder / "lacking", modules="/nowhere")),
        "later": str(folder / "later" / "bin" / "python"),
    }
    write_products(project, dict.fromkeys(("plain", *pythons), "echo built"))
    listed = yaml.safe_load((checkout / "products" / "products.yml").read_text())
    products = {product["id"]: product for product in listed["products"]}
    for name, python in pythons.items():
        products[name]["definitions_python"] = python
    for name in ("plain", "own"):
        (checkout / f"{name}.env").write_text(f"{name.upper()}S_TOKEN={name}-{SECRET}\n")
        products[name] |= {"env": {f"OF_{name.upper()}": "its own"}, "env_file": f"{name}.env"}
    (checkout / "products" / "products.yml").write_text(yaml.safe_dump(listed))
    (checkout / "products" / "own" / "definitions.py").write_text(DEFINITIONS)
    (checkout / "products" / "unheard" / "definitions.py").write_text(UNHEARD_OF)
    pretend_done(project, "own", "plan")
    pretend_done(project, "own", "load")
    return project


@pytest.fixture(scope="module")
def server(project: Path) -> Iterator[Server]:
    with started(project) as server:
        server.wait_for_output("Dagster is at")
        server.wait_for(lambda: server.locations()["own"] is None)
        yield server
        server.stop()


def test_it_is_loaded_by_its_interpreter_with_its_variables_and_sleeps(server: Server) -> None:
    report = server.asset("own", "report")
    assert report
    assert server.awake() == {}
    server.wake("own")
    assert f"{server.project.parent}/own's/bin/python".encode() in command_of(server.awake()["own"])


@pytest.mark.long
def test_it_is_loaded_when_it_is_woken_only_where_it_answers_otherwise(server: Server) -> None:
    def wake_again() -> None:
        os.kill(server.awake()["own"], signal.SIGKILL)
        server.wait_for(lambda: "own" not in server.awake())
        server.wake("own")

    server.wake("own")
    loaded = server.loads()["own"]
    wake_again()
    assert server.loads()["own"] == loaded
    # An import of its definitions, which nobody watches.
    [module] = server.project.parent.glob("own's/lib/*/site-packages/only_there.py")
    module.write_text(f"{module.read_text()}ABOUT = 'all that is reported'\n")
    began = time.monotonic()
    wake_again()
    assert time.monotonic() - began < LOAD_SECONDS
    assert server.loads()["own"] != loaded


def test_a_run_is_executed_by_its_interpreter(server: Server) -> None:
    run = server.launch("own", "report", partition="any")
    server.wait_for_run(run, "SUCCESS")
    events = server.events(run)
    assert "own's and its own" in events
    assert f"executed by {server.project.parent}/own's/bin/python" in events


def test_a_build_is_what_it_is_elsewhere(server: Server) -> None:
    run = server.launch("own", "build", partition="main")
    server.wait_for_run(run, "SUCCESS")
    assert "built" in server.events(run)


def test_a_run_can_be_cancelled_and_one_that_is_killed_fails_at_once(server: Server) -> None:
    cancelled = server.launch("own", "endless", partition="any")
    server.wait_for_run(cancelled, "STARTED")
    pid = server.run_pid(cancelled)
    server.cancel(cancelled)
    server.wait_for_run(cancelled, "CANCELED")
    assert wait_until(lambda: not is_running(pid) and not left_behind(server))
    killed = server.launch("own", "endless", partition="any")
    server.wait_for_run(killed, "STARTED")
    assert wait_until(lambda: left_behind(server))
    os.kill(server.run_pid(killed), 9)
    server.wait_for_run(killed, "FAILURE")
    assert "The run's process was ended by SIGKILL" in server.events(killed)
    assert wait_until(lambda: not left_behind(server))


def left_behind(server: Server) -> list[int]:
    """What the endless run has started."""
    return [pid for pid in server.processes() if b"sleep\x00985" in command_of(pid)]


def test_what_its_code_prints_is_shown_without_secrets(server: Server) -> None:
    server.wait_for_output("[own] told ***")
    assert SECRET not in server.output


def test_its_sensor_is_asked_there(server: Server) -> None:
    asked = {**selector("own"), "sensorName": "watching"}
    tick = server.query(SENSOR_TEST, selector=asked)["sensorDryRun"]
    assert tick["evaluationResult"] == {"skipReason": "own's has looked", "error": None}


def test_a_change_is_loaded_there_and_a_crash_is_told(server: Server) -> None:
    file = server.product_folder("own") / "definitions.py"
    file.write_text("import ctypes; ctypes.string_at(0)\n")
    server.wait_for_error("own", "was ended by SIGSEGV while loading")
    file.write_text("import no_such_module\n")
    server.wait_for_output("No module named 'no_such_module'; own is without")
    file.write_text(DEFINITIONS)
    server.wait_for(lambda: server.asset("own", "report"))


def test_another_dagster_is_a_warning_where_it_can_talk(server: Server) -> None:
    server.wait_for(lambda: server.locations()["older"] is None)
    assert f"[older] warning: Its interpreter {server.project.parent}/older/" in server.output
    assert f"has Dagster {OLDER}, and `up` 1." in server.output


@pytest.mark.parametrize("name", ["unheard", "ancient"])
def test_another_dagster_is_a_broken_location_where_it_cannot(server: Server, name: str) -> None:
    theirs = {"unheard": f"Dagster {OLDER}", "ancient": "dagster 1.9.13"}[name]
    python = server.project.parent / name / "bin" / "python"
    server.wait_for_error(
        name, f"Its interpreter {python}", theirs, "`up` ", f"{python} -m pip install dagster==1."
    )


def test_what_is_missing_there_is_named_with_the_command_that_installs_it(server: Server) -> None:
    python = server.project.parent / "lacking" / "bin" / "python"
    server.wait_for_error(
        "lacking",
        "no croniter, no dagster, ",
        f"`{python} -m pip install 'croniter>=2' dagster==1.",
    )


def test_an_interpreter_that_is_missing_is_used_once_it_is_made(server: Server) -> None:
    folder = server.project.parent / "later"
    server.wait_for_error("later", f"{folder}/bin/python", "does not exist", f"-m venv {folder} &&")
    assert "warning: product 'later': there is no " in server.output
    environment(folder)
    server.wait_for(lambda: server.locations()["later"] is None)


@pytest.mark.long
def test_commands_without_a_server_use_it_too(server: Server) -> None:
    where = {"DCPY_LIFECYCLE_DATA_DIR": str(server.state), "DAGSTER_HOME": ""}
    where["DATA_ENGINEERING_ROOT"] = str(server.checkout)
    done = orchestration("materialize", "own/build", "main", env=where, project=server.project)
    assert done.returncode == 0, done.stdout
    listed = server.command("list")
    assert listed.returncode == 0, listed.stderr
    assert "No module named" not in listed.stdout
    said = server.command("check").stdout
    assert "own cannot be loaded" not in said
    assert "lacking cannot be loaded: Its interpreter" in said


def test_the_workspace_names_it_as_it_is_found_from_there(server: Server) -> None:
    workspace = yaml.safe_load((server.project / "workspace.yaml").read_text())
    entries = {entry["python_module"]["location_name"]: entry for entry in workspace["load_from"]}
    named = entries["own"]["python_module"]["executable_path"]
    assert not os.path.isabs(named)
    assert (server.project / named).samefile(server.project.parent / "own's" / "bin" / "python")
    assert "executable_path" not in entries["plain"]["python_module"]
