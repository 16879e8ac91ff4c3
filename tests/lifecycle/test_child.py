import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dagster import (
    AssetExecutionContext,
    DagsterInstance,
    asset,
    materialize,
)

from orchestration.catalog.checkout import PROJECT_ROOT
from orchestration.lifecycle import child
from orchestration.lifecycle.redaction import MASK, Redactor
from tests.harness.processes import PATIENCE, is_running, wait_until

LOGGER = logging.getLogger(__name__)
LINUX = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells whose descendant a process is that went away"
)


def run(
    folder: Path, script: str, grace: float = 1.0, **env: str
) -> tuple[child.Finished, list[str]]:
    """Runs a bash script, and gives how it ended and the lines of its log."""
    variables = {"PATH": os.environ["PATH"], **env}
    log = folder / "stage.log"
    finished = child.run(
        LOGGER,
        command=["bash", "-c", script],
        cwd=folder,
        env=variables,
        log=log,
        redact=Redactor(variables),
        grace=grace,
    )
    return finished, log.read_text().splitlines()


def pid_in(file: Path) -> int:
    assert wait_until(lambda: file.is_file() and file.read_text().strip())
    return int(file.read_text())


def test_output_is_in_the_log_file_while_the_command_runs(tmp_path: Path) -> None:
    script = "echo first; until [ -e go ]; do sleep 0.05; done; echo second >&2"
    results = []
    thread = threading.Thread(target=lambda: results.append(run(tmp_path, script)))
    thread.start()
    log = tmp_path / "stage.log"
    try:
        assert wait_until(lambda: log.is_file() and log.read_text() == "first\n")
        assert thread.is_alive()
    finally:
        (tmp_path / "go").touch()
        thread.join()
    [(finished, lines)] = results
    assert finished.returncode == 0
    assert lines == ["first", "second"]


def test_output_is_an_event_of_the_run(tmp_path: Path) -> None:
    @asset
    def build(context: AssetExecutionContext) -> None:
        child.run(
            context.log,
            command=["echo", "hello from the build"],
            cwd=tmp_path,
            env=os.environ,
            log=tmp_path / "stage.log",
            redact=Redactor({}),
        )

    with DagsterInstance.ephemeral() as instance:
        result = materialize([build], instance=instance)
        events = instance.all_logs(result.run_id)
    assert "hello from the build" in [event.user_message for event in events]


def refuse(*_: object) -> None:
    raise OSError("the database is full")


def test_nothing_is_left_where_the_runs_log_takes_no_more(tmp_path: Path) -> None:
    logger: Any = SimpleNamespace(info=refuse, warning=refuse)
    with pytest.raises(OSError, match="the database is full"):
        child.run(
            logger,
            command=["bash", "-c", "echo $$ > pid; trap '' TERM; while :; do echo on; done"],
            cwd=tmp_path,
            env=os.environ,
            log=tmp_path / "stage.log",
            redact=Redactor({}),
            grace=0.5,
        )
    assert not is_running(int((tmp_path / "pid").read_text()))


def test_the_environment_is_the_one_spelled_out_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_DAGSTER", "1")
    _, lines = run(tmp_path, "env; pwd", GIVEN="yes")
    assert "GIVEN=yes" in lines
    assert not any(line.startswith("OF_DAGSTER") for line in lines)
    assert lines[-1] == str(tmp_path)


def test_a_failure_says_the_exit_code_and_the_last_lines(tmp_path: Path) -> None:
    finished, _ = run(tmp_path, "seq 100; echo the reason; exit 42")
    log = tmp_path / "failed.log"
    failure = finished.failure("Product 'a': the build command", log)
    text = str(failure)
    assert text.startswith("Product 'a': the build command ended with exit code 42.")
    assert text.endswith("\n100\nthe reason")
    assert "\n81\n" not in text, "only the last lines"
    assert failure.finished == finished and finished.returncode == 42
    assert failure.log == log


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGTERM"])
def test_a_command_that_a_signal_ended_is_no_success(tmp_path: Path, name: str) -> None:
    finished, _ = run(tmp_path, f"ulimit -c 0; echo before; kill -{name.removeprefix('SIG')} $$")
    assert finished.returncode == -signal.Signals[name]
    assert finished.outcome == f"was ended by {name}"
    assert finished.tail == "before"


def test_a_command_that_does_not_exist_says_so(tmp_path: Path) -> None:
    finished = child.run(
        LOGGER,
        command=["no-such-command"],
        cwd=tmp_path,
        env=os.environ,
        log=tmp_path / "stage.log",
        redact=Redactor({}),
    )
    assert finished.returncode == 127
    assert "no-such-command cannot be started: No such file" in finished.tail


@pytest.mark.parametrize(
    ("script", "lines"),
    [
        ("printf 'no newline'", ["no newline"]),
        ("printf 'a\\n\\nb\\n'", ["a", "", "b"]),
        ("printf 'windows\\r\\nlines\\r\\n'", ["windows", "lines"]),
        ("printf '10%%\\r50%%\\r100%%\\ndone\\n'", ["100%", "done"]),
        ("printf '\\033[0m1 of 9 \\033[1;32mOK\\033[0m\\n'", ["1 of 9 OK"]),
        ("printf 'caf\\351 \\377\\n'", ["caf\ufffd \ufffd"]),
        ("printf 'h\\303'; sleep 0.1; printf '\\251\\n'", ["hé"]),
        ("", []),
        ("exec >&- 2>&-; sleep 0.2; echo unheard", []),
    ],
)
def test_every_kind_of_output_is_logged_as_lines(
    tmp_path: Path, script: str, lines: list[str]
) -> None:
    finished, logged = run(tmp_path, script)
    assert logged == lines
    assert finished.tail == "\n".join(lines)


def test_a_command_that_closes_its_output_is_waited_for(tmp_path: Path) -> None:
    finished, _ = run(tmp_path, "exec >&- 2>&-; sleep 0.3; touch done; exit 7")
    assert (tmp_path / "done").exists()
    assert finished.returncode == 7


def test_a_command_that_asks_a_question_gets_no_answer_instead_of_waiting(tmp_path: Path) -> None:
    _, lines = run(tmp_path, "read -r answer || echo nobody there")
    assert lines == ["nobody there"]


def test_binary_output_does_not_stop_the_run(tmp_path: Path) -> None:
    finished, lines = run(tmp_path, "head -c 300000 /dev/urandom; echo; echo the end")
    assert finished.returncode == 0
    assert lines[-1] == "the end"


def test_more_output_than_a_disk_should_hold_ends_with_its_last_lines(tmp_path: Path) -> None:
    lines = 70 * 2**20 // 10_000
    script = f"yes $(printf '%9999s' '' | tr ' ' x) | head -n {lines}; echo the end; exit 3"
    finished, logged = run(tmp_path, script)
    assert finished.returncode == 3
    assert (tmp_path / "stage.log").stat().st_size < 66 * 2**20
    assert logged[-1] == "the end"
    assert any("only the last lines" in line for line in logged)


def test_secrets_are_masked_in_the_log_and_in_the_failure(tmp_path: Path) -> None:
    script = """
        echo "engine $BUILD_ENGINE"
        printf 'hunt'; sleep 0.1; printf 'er2-token\\n'
        exit 1
    """
    engine = "postgresql://dcp:hunter2-pw@db:5432/pluto"
    finished, lines = run(tmp_path, script, BUILD_ENGINE=engine, API_TOKEN="hunter2-token")
    assert lines == [f"engine postgresql://dcp:{MASK}@db:5432/pluto", MASK]
    assert "hunter2" not in str(finished.failure("It", tmp_path))


@pytest.mark.parametrize("cut", [1, 6, 20, 30])
def test_a_secret_is_masked_where_a_line_that_never_ends_is_cut(tmp_path: Path, cut: int) -> None:
    # The secrets before it shorten the text once they are masked, which moves that place.
    secret = "hunter2-hunter2-hunter2-hunter2"
    padding = "x" * (child.MAX_LINE - 45)
    (tmp_path / "first").write_text(f"{secret} " * 10 + padding + secret[:cut])
    (tmp_path / "second").write_text(secret[cut:] + "y" * 2 * child.MAX_LINE)
    _, lines = run(tmp_path, "cat first; sleep 0.1; cat second", A_TOKEN=secret)
    assert "".join(lines) == f"{MASK} " * 10 + padding + MASK + "y" * 2 * child.MAX_LINE


@LINUX
def test_nothing_that_a_command_left_running_survives_it(tmp_path: Path) -> None:
    script = """
        setsid bash -c 'echo $$ > daemon.pid; exec sleep 60' > /dev/null 2>&1 &
        sleep 60 &
        echo $! > child.pid
        until [ -s daemon.pid ]; do sleep 0.02; done
        echo started
    """
    started = time.monotonic()
    finished, lines = run(tmp_path, script)
    assert (finished.returncode, lines) == (0, ["started"])
    for name in ("daemon.pid", "child.pid"):
        assert not is_running(pid_in(tmp_path / name))
    assert time.monotonic() - started < 30


def cancelled(folder: Path, script: str) -> None:
    """Runs a bash script whose run is cancelled once it has made a file called `ready`."""

    def cancel() -> None:
        wait_until((folder / "ready").exists)
        os.kill(os.getpid(), signal.SIGTERM)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    thread = threading.Thread(target=cancel)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run(folder, script, grace=10)
    finally:
        thread.join()
        signal.signal(signal.SIGTERM, previous)


def test_a_build_gets_time_to_clean_up_when_its_run_is_cancelled(tmp_path: Path) -> None:
    cancelled(
        tmp_path,
        "trap 'sleep 0.3; echo cleaned up; exit 0' TERM; touch ready; sleep 300 & wait",
    )
    assert "cleaned up" in (tmp_path / "stage.log").read_text().splitlines()


@LINUX
def test_a_script_is_cancelled_before_the_command_that_it_waits_for(tmp_path: Path) -> None:
    script = """
        trap 'exit 0' TERM
        (touch ready; exec sleep 60) || true
        echo went on
    """
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        cancelled(folder, script)
        assert "went on" not in (folder / "stage.log").read_text()


def test_a_run_cancelled_while_its_command_is_being_started_ends_it_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CancelledMeanwhile(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            wait_until((tmp_path / "ready").exists)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", CancelledMeanwhile)
    script = """
        trap 'echo cleaned up; exit 0' TERM
        echo $$ > shell.pid
        touch ready
        sleep 300 & wait
    """
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, script, grace=10)
    assert "cleaned up" in (tmp_path / "stage.log").read_text().splitlines()
    assert not is_running(pid_in(tmp_path / "shell.pid"))


@LINUX
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_nothing_of_a_stubborn_build_survives_its_run(
    tmp_path: Path, number: signal.Signals
) -> None:
    runner = subprocess.Popen(
        [sys.executable, "-m", "tests.harness.stubborn_build", str(tmp_path)],
        cwd=PROJECT_ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with runner:
        try:
            pids = [pid_in(tmp_path / f"{name}.pid") for name in ("shell", "child", "daemon")]
            assert all(map(is_running, pids))
        finally:
            runner.send_signal(number)
        assert wait_until(lambda: not any(map(is_running, pids)))
        assert runner.wait(PATIENCE) != 0
