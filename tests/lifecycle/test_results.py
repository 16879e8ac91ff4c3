import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestration import OrchestrationError
from orchestration.catalog.checkout import PROJECT_ROOT
from orchestration.lifecycle.results import (
    failed_log,
    lifecycle_dir,
    locked,
    make_private,
    size_of,
    staged,
)


class Stopped(Exception):
    pass


def publish(result: Path, content: str) -> Path:
    """Publishes a result, and gives the folder that it lies in."""
    with staged(result, "build") as staging:
        (staging.folder / "data.csv").write_text(content)
        staging.log.write_text(f"log of {content}")
    return staging.folder


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_variable_moves_everything_that_runs_leave(tmp_path: Path) -> None:
    assert lifecycle_dir({"DCPY_LIFECYCLE_DATA_DIR": str(tmp_path)}) == tmp_path
    assert lifecycle_dir({}, project=tmp_path) == tmp_path / ".lifecycle"
    assert lifecycle_dir({"DCPY_LIFECYCLE_DATA_DIR": ""}, tmp_path) == tmp_path / ".lifecycle"


def test_what_runs_leave_is_for_its_owner_only(tmp_path: Path) -> None:
    # A build's files can hold what a database holds.
    assert make_private(tmp_path / "lifecycle").stat().st_mode & 0o077 == 0


def test_a_result_has_its_log_and_keeps_the_path_it_was_written_to(tmp_path: Path) -> None:
    result = tmp_path / "ingest" / "v1"
    folder = publish(result, "one")
    assert contents(result) == ["build.log", "data.csv"]
    # dcpy writes the paths of its files into its files
    assert result.resolve() == folder


def test_a_new_result_replaces_the_old_one_which_stays_for_its_readers_until_the_next(
    tmp_path: Path,
) -> None:
    result = tmp_path / "v1"
    publish(result, "one")
    second = publish(result, "two")
    assert (result / "data.csv").read_text() == "two"
    third = publish(result, "three")
    assert (second / "data.csv").read_text() == "two"
    assert contents(tmp_path) == sorted([second.name, third.name, "v1"])


@pytest.mark.parametrize("error", [Stopped, KeyboardInterrupt])
def test_a_failure_leaves_the_old_result_and_keeps_the_log(
    tmp_path: Path, error: type[BaseException]
) -> None:
    result = tmp_path / "v1"
    folder = publish(result, "one")
    with pytest.raises(error), staged(result, "build") as staging:
        (staging.folder / "data.csv").write_text("half")
        staging.log.write_text("why")
        raise error
    assert (result / "data.csv").read_text() == "one"
    log = failed_log(result, "build")
    assert log.read_text() == "why"
    assert contents(tmp_path) == sorted([folder.name, "v1", log.name])

    publish(result, "two")
    assert not log.exists(), "a log of a failure beside a later success misleads"


def test_a_first_failure_leaves_no_result(tmp_path: Path) -> None:
    with pytest.raises(Stopped), staged(tmp_path / "v1", "build"):
        raise Stopped
    assert not (tmp_path / "v1").exists()


def test_what_a_killed_attempt_left_is_removed_by_the_next(tmp_path: Path) -> None:
    result = tmp_path / "v1"
    publish(result, "one")
    killed = """
import os, signal, sys
from pathlib import Path
from orchestration.lifecycle.results import staged
with staged(Path(sys.argv[1]), "build") as staging:
    (staging.folder / "half").mkdir()
    staging.log.touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", killed, str(result)], cwd=PROJECT_ROOT, check=False)
    assert len(contents(tmp_path)) == 4, "the attempt left its folder and its log"
    assert (result / "data.csv").read_text() == "one"
    old = result.resolve()
    folder = publish(result, "two")
    assert contents(tmp_path) == sorted([old.name, folder.name, "v1"])


def test_who_resumes_a_killed_attempt_goes_on_with_its_log(tmp_path: Path) -> None:
    result = tmp_path / "v1"
    with pytest.raises(Stopped), staged(result, "build") as staging:
        staging.log.write_text("of one that failed before")
        raise Stopped
    killed = """
import os, signal, sys
from pathlib import Path
from orchestration.lifecycle.results import staged
with staged(Path(sys.argv[1]), "build") as staging:
    staging.work.mkdir()
    staging.log.write_text("its own")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", killed, str(result)], cwd=PROJECT_ROOT, check=False)
    with staged(result, "build", resumes=True) as staging:
        pass
    assert (result / "build.log").read_text() == "its own"


def test_a_folder_that_may_not_be_written_to_goes_with_a_later_attempt() -> None:
    program = """
import os, tempfile
from pathlib import Path
from orchestration.lifecycle.results import staged
# Root may write everywhere.
os.geteuid() or os.seteuid(65534)
with tempfile.TemporaryDirectory() as folder:
    result = Path(folder, "main", "build")
    for _ in range(3):
        with staged(result, "build") as staging:
            (staging.folder / "locked" / "inner").mkdir(parents=True)
            (staging.folder / "locked").chmod(0o500)
    print(len(list(result.parent.glob(".build.*"))))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("2\n", "")


def test_a_stage_that_replaces_its_folder_is_published_all_the_same(tmp_path: Path) -> None:
    # dcpy's ingest deletes the folder it is given, and makes it again
    result = tmp_path / "v1"
    with staged(result, "ingest") as staging:
        staging.folder.rmdir()
        staging.folder.mkdir()
        (staging.folder / "data.csv").touch()
    assert contents(result) == ["data.csv", "ingest.log"]


@pytest.mark.parametrize("other", ["v1.20260101", "v1.deadbeef", "v1.deadbeef.log", "v1.link"])
def test_versions_with_similar_names_leave_each_other_alone(tmp_path: Path, other: str) -> None:
    kept = tmp_path / other
    with locked(kept, waiting=lambda: None):
        publish(kept, "kept")
    with pytest.raises(Stopped), staged(kept, "build") as staging:
        staging.log.write_text("why")
        raise Stopped
    before = contents(tmp_path)
    publish(tmp_path / "v1", "one")
    publish(tmp_path / "v1", "two")
    assert (kept / "data.csv").read_text() == "kept"
    assert set(before) <= set(contents(tmp_path))


def test_a_folder_that_somebody_else_put_there_is_not_touched(tmp_path: Path) -> None:
    result = tmp_path / "v1"
    (result / "mine").mkdir(parents=True)
    with pytest.raises(OrchestrationError, match="not written by this program"):
        publish(result, "one")
    assert (result / "mine").is_dir()


HOLDER = """
import sys, time
from pathlib import Path
from orchestration.lifecycle.results import locked
with locked(Path(sys.argv[1]), waiting=lambda: None):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_lock_keeps_another_process_waiting_until_its_holder_is_killed(tmp_path: Path) -> None:
    target = tmp_path / "builds" / "v1"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(target)],
        cwd=PROJECT_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"locked\n"
        order = []

        def waiting() -> None:
            order.append("waiting" if holder.poll() is None else "the holder had gone already")
            holder.kill()

        with locked(target, waiting):
            order.append("locked")
        assert order == ["waiting", "locked"]
    with locked(target, waiting=lambda: order.append("waiting again")):
        pass
    assert order == ["waiting", "locked"]


def test_builds_of_different_partitions_do_not_wait_for_each_other(tmp_path: Path) -> None:
    waited: list[str] = []
    with (
        locked(tmp_path / "v1", waiting=lambda: waited.append("v1")),
        locked(tmp_path / "v1.lock", waiting=lambda: waited.append("v1.lock")),
    ):
        assert waited == []


def test_a_size_counts_what_is_there_and_not_what_a_link_leads_to(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "file").write_bytes(b"12345")
    (tmp_path / "outside").write_bytes(b"x" * 10_000)
    os.symlink(tmp_path / "outside", folder / "link")
    assert 5 <= size_of(folder) < 1000
