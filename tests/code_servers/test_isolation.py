"""Whatever one location does while it loads, the others are served as if nothing had happened.

Two of them take the server's whole patience, and so begin with the module and are asked about last:
one hangs when `up` starts, one loops endlessly later on.
"""

import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import yaml

from orchestration import OrchestrationError
from orchestration.catalog.names import STAGES
from orchestration.definitions.team import LOAD_SECONDS
from orchestration.instance.workers import LAUNCHER_TAG, pid_of
from tests.harness.forks import command_of
from tests.harness.processes import is_running, promised, wait_until
from tests.harness.up_server import (
    Server,
    checkout_of,
    copy_project,
    pretend_done,
    started,
    write_products,
)

HEALTHY = ("alone", "faulty", "greedy", "looping")
LIMIT_MB = 300
SECRET = "hunter2-hunter2"
TELLING = "an exit that tells a secret"
# What is wrong already when `up` starts.
BAD_FROM_THE_START = {
    "hanging": "import time; time.sleep(3600)",
    "exiting": "import os; os._exit(3)",
    "crashing": "import ctypes; ctypes.string_at(0)",
}
# Each with what the UI has to say of it.
FAULTS = {
    "an exit at once": (
        r"import os; os.write(1, b'last\0words\n'); os._exit(1)",
        ("exit code 1", "words"),
    ),
    TELLING: (
        "import os; os.write(1, os.environ['A_TOKEN'].encode() + b' is it\\n'); os._exit(3)",
        ("exit code 3", "*** is it"),
    ),
    "a segmentation fault": ("import ctypes; ctypes.string_at(0)", ("SIGSEGV",)),
    "exhausted memory": (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**28, 2**28))\n"
        "hoard = [bytearray(2**24) for _ in range(1000)]",
        ("MemoryError",),
    ),
}
REPAIRED = "import dagster as dg\ndefs = dg.Definitions(assets=[dg.AssetSpec('{asset}')])\n"


@dataclass(frozen=True)
class Scene:
    """A server that came up with bad locations, and got one that loops."""

    server: Server
    normal_seconds: float
    """Until all were served when none was bad."""
    ready_seconds: float
    """Until all others were served."""
    reported_seconds: Future[float]
    """From when the UI answered until it named the one that hangs."""
    hanging: str | None
    """What the UI said then of the one that hangs."""
    looped_seconds: Future[float]
    """From the save of the endless loop until the UI named that one."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    project = copy_project(tmp_path_factory.mktemp("isolation"))
    write_products(project, dict.fromkeys((*HEALTHY, *BAD_FROM_THE_START), "sleep 2"))
    pretend_done(project, "alone", "load")
    products = checkout_of(project) / "products" / "products.yml"
    listed = yaml.safe_load(products.read_text())
    [greedy] = [product for product in listed["products"] if product["id"] == "greedy"]
    greedy["memory_limit_mb"] = LIMIT_MB
    products.write_text(yaml.safe_dump(listed))

    def seconds_until_ready(server: Server) -> float:
        start = time.monotonic()
        server.wait_for(lambda: all(server.locations()[name] is None for name in HEALTHY), 40)
        return time.monotonic() - start

    def seconds_until_given_up(name: str) -> float:
        server.wait_for(server.locations, 40)
        start = time.monotonic()
        server.wait_for_error(name, f"did not load within {LOAD_SECONDS} seconds", seconds=60)
        return time.monotonic() - start

    with started(project) as server:
        normal = seconds_until_ready(server)
        server.stop()
    for name, text in BAD_FROM_THE_START.items():
        write_definitions(server, name, text)
    with (
        started(project, env={"A_TOKEN": SECRET}) as server,
        ThreadPoolExecutor() as pool,
    ):
        reported = pool.submit(seconds_until_given_up, "hanging")
        ready = seconds_until_ready(server)
        hanging = server.locations()["hanging"]
        server.wait_for_output("Dagster is at")
        # With what the tests beside it leave of the processor.
        write_definitions(server, "looping", "import os\nos.nice(19)\nwhile True:\n    pass\n")
        looped = pool.submit(seconds_until_given_up, "looping")
        yield Scene(server, normal, ready, reported, hanging, looped)
        server.stop()


def write_definitions(server: Server, product: str, text: str) -> None:
    (server.product_folder(product) / "definitions.py").write_text(text)


def assert_answers_at_once(server: Server, location: str) -> None:
    """Asks something that only the location's own code knows, and waits for none that hangs."""
    start = time.monotonic()
    server.wake(location)
    assert time.monotonic() - start < promised(2)


def test_locations_that_hang_exit_or_crash_when_up_starts_delay_nobody(scene: Scene) -> None:
    # The one that hangs is given up a good while later.
    assert scene.ready_seconds < scene.normal_seconds + promised(3)
    assert scene.hanging == "It is still loading."
    assert_answers_at_once(scene.server, "alone")


def test_what_exits_or_crashes_when_up_starts_is_reported(scene: Scene) -> None:
    scene.server.wait_for_error("exiting", "ended with exit code 3 while loading")
    scene.server.wait_for_error("crashing", "was ended by SIGSEGV while loading")


@pytest.mark.parametrize("name", ["exiting", "crashing"])
def test_definitions_that_end_their_process_leave_the_product_its_own(
    scene: Scene, name: str
) -> None:
    assert_works_without_its_definitions(scene.server, name)


def assert_works_without_its_definitions(server: Server, name: str) -> None:
    """Has the product's build run, in a location whose own definitions are not used."""
    for stage in STAGES:
        assert server.asset(name, stage)
    pretend_done(server.project, name, "load")
    server.wait_for_run(server.launch(name, "build", partition="main"))
    assert_answers_at_once(server, name)


def test_a_run_that_begins_while_its_location_loads_again_does_without_the_same_definitions(
    scene: Scene,
) -> None:
    server, may_end = scene.server, scene.server.project / "may-end"
    server.wait_for_error("exiting", "ended with exit code")
    server.wake("exiting")
    text = f"import os, time\nwhile not os.path.exists({str(may_end)!r}): time.sleep(0.05)\n"
    write_definitions(server, "exiting", f"{text}os._exit(5)\n")
    server.wait_for_output("[exiting] reloading")
    pretend_done(server.project, "exiting", "load", "nightly_qa")
    server.wait_for_run(server.launch("exiting", "build", partition="nightly_qa"), seconds=60)
    may_end.touch()
    server.wait_for_error("exiting", "ended with exit code 5 while loading")


def test_a_product_that_is_added_while_others_hang_is_served_within_10_seconds(
    scene: Scene,
) -> None:
    write_definitions(scene.server, "greedy", "import time; time.sleep(3600)")
    scene.server.wait_for_output("[greedy] reloading")
    products = scene.server.products
    products.write_text(products.read_text() + "- {id: late, build_command: 'true'}\n")
    scene.server.wait_for(
        lambda: scene.server.locations().get("late", "not there") is None, seconds=promised(10)
    )
    assert "[greedy] It did not load" not in scene.server.output
    assert_answers_at_once(scene.server, "late")
    write_definitions(scene.server, "greedy", REPAIRED.format(asset="greedy_goes_on"))
    scene.server.wait_for(lambda: scene.server.asset("greedy_goes_on"))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_stays_in_its_location_and_is_gone_with_its_repair(
    scene: Scene, fault: str
) -> None:
    server = scene.server
    text, reasons = FAULTS[fault]
    before = server.loads()

    write_definitions(server, "faulty", text)
    server.wait_for_error("faulty", *reasons)
    assert {name: server.locations()[name] for name in ("alone", "ingest")} == {
        "alone": None,
        "ingest": None,
    }
    assert_answers_at_once(server, "alone")

    repaired = f"repaired_after_{list(FAULTS).index(fault)}"
    write_definitions(server, "faulty", REPAIRED.format(asset=repaired))
    server.wait_for(lambda: server.locations()["faulty"] is None and server.asset(repaired))
    assert_answers_at_once(server, "faulty")
    after = server.loads()
    assert {name: after[name] for name in ("alone", "ingest")} == {
        name: before[name] for name in ("alone", "ingest")
    }


def test_a_location_beyond_its_memory_limit_is_ended_and_named_so(scene: Scene) -> None:
    hoard = "hoard = [bytearray(2**24) for _ in range(100)]\n"
    write_definitions(scene.server, "greedy", hoard)
    scene.server.wait_for_error("greedy", f"It takes more than {LIMIT_MB} MB, which is its limit")
    assert_works_without_its_definitions(scene.server, "greedy")
    write_definitions(scene.server, "greedy", REPAIRED.format(asset="repaired_greedy"))
    scene.server.wait_for(lambda: scene.server.locations()["greedy"] is None)
    # What it takes when it is asked is limited, too, and enough for that.
    assert_answers_at_once(scene.server, "greedy")


def test_what_a_location_leaves_behind_is_ended_with_its_loading(scene: Scene) -> None:
    server, loads = scene.server, scene.server.loads()
    text = (
        "import subprocess, threading, time\n"
        "subprocess.Popen(['sleep', '987'], start_new_session=True)\n"
        "threading.Thread(target=time.sleep, args=(987,)).start()\n"
    )
    write_definitions(server, "faulty", text + REPAIRED.format(asset="left_behind"))
    server.wait_for(lambda: server.locations()["faulty"] is None and server.asset("left_behind"))
    assert server.loads()["faulty"] != loads["faulty"]
    assert not running(server, b"sleep\x00987")


def test_what_a_location_leaves_behind_is_ended_where_it_crashes_too(scene: Scene) -> None:
    server = scene.server
    leave = "import subprocess\nsubprocess.Popen(['sleep', '986'], start_new_session=True)\n"
    write_definitions(server, "faulty", f"{leave}import os; os._exit(4)\n")
    server.wait_for_error("faulty", "ended with exit code 4 while loading")
    assert wait_until(lambda: not running(server, b"sleep\x00986"))
    # Its code server has one as long as it is there.
    write_definitions(server, "faulty", leave + REPAIRED.format(asset="left_by_a_server"))
    server.wait_for(lambda: server.locations()["faulty"] is None)
    awake = server.wake("faulty")
    assert len(running(server, b"sleep\x00986")) == 1
    os.kill(awake, signal.SIGKILL)
    assert wait_until(lambda: not running(server, b"sleep\x00986"))


def running(server: Server, command: bytes) -> list[int]:
    """The server's processes with that command."""
    return [pid for pid in server.processes() if command in command_of(pid)]


@pytest.mark.long
def test_a_code_server_that_freezes_delays_no_reload_and_is_replaced(scene: Scene) -> None:
    server = scene.server
    frozen = server.wake("alone")
    os.kill(frozen, signal.SIGSTOP)
    start = time.monotonic()
    server.reload("alone")
    assert server.wake("alone") != frozen
    assert time.monotonic() - start < promised(5)
    again = server.wake("alone")
    os.kill(again, signal.SIGSTOP)
    # Whoever asks is told, and whoever asks next is answered.
    with pytest.raises((AssertionError, OrchestrationError)):
        server.wake("alone")
    server.wait_for_output("[alone] its code server was frozen, and is ended")
    assert server.wake("alone") != again


def test_the_broker_that_is_killed_is_back_at_once_and_nothing_is_loaded_again(
    scene: Scene,
) -> None:
    server, loads = scene.server, scene.server.loads()
    awake = server.wake("alone")
    run = server.launch("alone", "build", partition="main")
    server.wait_for_run(run, "STARTED")
    broker = server.broker()
    os.kill(broker, signal.SIGKILL)
    assert wait_until(lambda: is_answered_by_another(server, broker), seconds=promised(2))
    # Nobody else would end it.
    assert wait_until(lambda: not is_running(awake))
    assert server.wake("alone") != awake
    assert server.loads() == loads
    server.wait_for(lambda: server.locations()["alone"] is None)
    server.wait_for_run(run, "SUCCESS")


def test_what_is_tidied_away_among_temporary_files_is_made_anew(scene: Scene) -> None:
    server, broker = scene.server, scene.server.broker()
    workspace = server.workspace
    shutil.rmtree(workspace.parent)
    server.wait_for_output(f"The sockets in {workspace.parent} are gone")
    assert wait_until(workspace.exists)
    assert wait_until(lambda: is_answered_by_another(server, broker))
    assert workspace.parent.stat().st_mode & 0o077 == 0
    server.wait_for_run(server.launch("alone", "build", partition="main"))


def is_answered_by_another(server: Server, broker: int) -> bool:
    try:
        return server.broker() != broker
    except (OSError, ValueError):
        return False


def test_what_hangs_at_the_start_is_reported_within_30_seconds(scene: Scene) -> None:
    assert scene.reported_seconds.result() < LOAD_SECONDS + promised(5)
    assert "[hanging] It did not load within 25 seconds" in scene.server.output
    assert_works_without_its_definitions(scene.server, "hanging")


def test_an_endless_loop_is_reported_and_is_gone_with_its_repair(scene: Scene) -> None:
    assert scene.looped_seconds.result() < LOAD_SECONDS + promised(5)
    write_definitions(scene.server, "looping", REPAIRED.format(asset="repaired_after_loop"))
    for name in BAD_FROM_THE_START:
        write_definitions(scene.server, name, REPAIRED.format(asset=f"repaired_{name}"))
    scene.server.wait_for_locations(
        "ingest", *HEALTHY, *BAD_FROM_THE_START, "late", seconds=promised(15)
    )
    assert_answers_at_once(scene.server, "looping")


def test_a_webserver_that_is_killed_comes_back_by_itself(scene: Scene) -> None:
    server = scene.server
    before = server.loads()
    [pid] = re.findall(r"Serving dagster-webserver on .* in process (\d+)", server.output)
    # As what tidies up temporary files does.
    [workspace] = server.log.parent.glob("orchestration-*/workspace.yaml")
    workspace.unlink()
    os.kill(int(pid), signal.SIGKILL)
    server.wait_for_output("The webserver was ended by SIGKILL.")
    server.wait_for_locations("ingest", *HEALTHY, *BAD_FROM_THE_START, "late")
    assert server.loads() == before


def test_a_daemon_that_is_killed_comes_back_by_itself(scene: Scene) -> None:
    server = scene.server
    pretend_done(server.project, "alone", "build", "nightly_qa")
    run = server.launch("alone", "package", partition="nightly_qa")
    server.wait_for_run(run)
    os.kill(pid_of(server.run_tags(run)[LAUNCHER_TAG]), signal.SIGKILL)
    server.wait_for_output("The daemon was ended by SIGKILL.")
    server.wait_for_run(server.launch("alone", "package", partition="nightly_qa"))


def test_no_secret_is_in_what_up_prints(scene: Scene) -> None:
    text, (_, told) = FAULTS[TELLING]
    write_definitions(scene.server, "faulty", text)
    scene.server.wait_for_output(told)
    write_definitions(scene.server, "faulty", REPAIRED.format(asset="silent"))
    scene.server.wait_for(lambda: scene.server.locations()["faulty"] is None)
    assert SECRET not in scene.server.output
