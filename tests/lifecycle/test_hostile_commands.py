"""Build commands that do what no build command should do."""

import json
import logging
import os
import resource
import signal
import threading
import time
from pathlib import Path

import pytest
from dagster import AssetKey

from orchestration.definitions.product import product_definitions
from orchestration.lifecycle import child
from orchestration.lifecycle.redaction import MASK, Redactor
from tests.harness.forks import command_of, descendants, forked
from tests.harness.materializing import failure_of
from tests.harness.processes import is_running, wait_until

SECRET = "hunter2-hunter2"
LOG_MEGABYTES = child.MAX_LOG_BYTES // 2**20 + 1


def run(folder: Path, script: str) -> child.Finished:
    """Runs a bash script as a build, its log going to `stage.log`."""
    env = {"PATH": os.environ["PATH"], "A_TOKEN": SECRET}
    return child.run(
        logging.getLogger(__name__),
        command=["bash", "-c", script],
        cwd=folder,
        env=env,
        log=folder / "stage.log",
        redact=Redactor(env),
        grace=1.0,
    )


def measure(folder: Path, script: str) -> None:
    """Runs the script, and writes down how it ended and what memory that took."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    finished = run(folder, script)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    measured = [finished.returncode, finished.tail, kilobytes // 1024]
    (folder / "measured.json").write_text(json.dumps(measured))


@pytest.mark.long
@pytest.mark.parametrize(
    "flood",
    [
        "yes 'what a build says' | head -c 1000000000",
        "yes | tr -d '\\n' | head -c 1000000000",
        "head -c 200000000 /dev/urandom",
        f"yes 'with {SECRET}' | head -c 200000000",
    ],
    ids=["a gigabyte", "a gigabyte in a line", "binary", "secrets"],
)
def test_a_flood_takes_little_memory_and_disk_and_ends_with_its_last_lines_and_its_outcome(
    tmp_path: Path, flood: str
) -> None:
    script = f"{flood}; echo; echo the end; exit 7"
    with forked(measure, tmp_path, script, log=tmp_path / "events") as fork:
        assert fork.wait() == 0, fork.output
    code, tail, megabytes = json.loads((tmp_path / "measured.json").read_text())
    assert code == 7
    assert tail.splitlines()[-1] == "the end"
    assert megabytes < 64
    log = (tmp_path / "stage.log").read_bytes()
    assert len(log) < LOG_MEGABYTES * 2**20
    assert log.endswith(b"\nthe end\n")
    assert (tmp_path / "events").stat().st_size < 4 * 2**20
    assert SECRET.encode() not in log
    assert SECRET not in tail


def test_a_line_that_is_not_ended_for_long_is_kept_whole(tmp_path: Path) -> None:
    script = f"for part in $(seq 30); do printf 'part %s ' $part; sleep 0.05; done; printf {SECRET}"
    assert run(tmp_path, script).returncode == 0
    parts = "".join(f"part {number} " for number in range(1, 31))
    assert (tmp_path / "stage.log").read_text() == f"{parts}{MASK}\n"


def test_a_build_whose_reaper_is_killed_fails_and_leaves_nothing(tmp_path: Path) -> None:
    script = "trap '' TERM; setsid sleep 600 & sleep 601 & echo $$ > pid; wait; sleep 602"
    ended: list[child.Finished] = []
    thread = threading.Thread(target=lambda: ended.append(run(tmp_path, script)))
    before = descendants(os.getpid())
    thread.start()
    assert wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    below = descendants(os.getpid()) - before
    [reaper] = [pid for pid in below if b"reaper.py" in command_of(pid)]
    os.kill(reaper, signal.SIGKILL)
    thread.join(15)
    assert not thread.is_alive()
    assert len(below) >= 4
    assert not any(map(is_running, below))
    assert ended[0].returncode == -signal.SIGKILL


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def be_cancelled(folder: Path) -> None:
    """Runs a stubborn build until a signal comes, and writes down whether it is still there."""
    signal.signal(signal.SIGTERM, interrupt)
    try:
        run(folder, "trap '' TERM; echo $$ > pid; while :; do sleep 0.1; done")
    except KeyboardInterrupt:
        pid = int((folder / "pid").read_text())
        (folder / "left").write_text(str(is_running(pid)))


def test_a_run_that_is_cancelled_twice_does_not_end_before_its_stubborn_build(
    tmp_path: Path,
) -> None:
    with forked(be_cancelled, tmp_path, log=tmp_path / "events") as fork:
        assert wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        for _ in range(2):
            os.kill(fork.pid, signal.SIGTERM)
            time.sleep(0.2)
        assert fork.wait(20) == 0, fork.output
    assert (tmp_path / "left").read_text() == "False"


def test_a_build_that_goes_elsewhere_and_removes_where_it_was_leaves_its_result_in_its_place(
    lifecycle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "checkout"
    folder = root / "products" / "nomad"
    folder.mkdir(parents=True)
    monkeypatch.setenv("DATA_ENGINEERING_ROOT", str(root))
    load = lifecycle / "builds" / "nomad" / "main" / "load"
    load.mkdir(parents=True)
    (load / "recipe.lock.yml").write_text("version: '1'\n")
    command = 'rm -r "$PWD"; cd /; echo done > "$BUILD_ENV_OUTPUT_DIR/out"; pwd'
    definitions = product_definitions(id="nomad", build_command=command, path="nomad")
    asset = definitions.get_assets_def(AssetKey(["nomad", "build"]))
    assert failure_of([asset], "main") is None
    build = lifecycle / "builds" / "nomad" / "main" / "build"
    assert (build / "out").read_text() == "done\n"
    assert (build / "build.log").read_text() == "/\n"
    # It was its own copy; a product without a folder says so, and leaves the result.
    folder.rmdir()
    said = failure_of([asset], "main")
    assert said
    assert f"there is no folder {folder}" in said
    assert (build / "out").read_text() == "done\n"
