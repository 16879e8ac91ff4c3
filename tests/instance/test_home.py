import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from dagster._core.test_utils import create_run_for_test

from orchestration import OrchestrationError
from orchestration.instance import home as home_module
from orchestration.instance.home import prepare_dagster_home
from orchestration.runs.run_launcher import ForkedRunLauncher

EARLIER = """\
# The instance's configuration. It is copied to DAGSTER_HOME, unless that has one of its own.
run_launcher:
  module: orchestration.run_launcher
  class: ForkedRunLauncher
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder of the checkout, where nothing is set."""
    state = tmp_path / "state"
    monkeypatch.setattr(home_module, "state_folder", lambda: state)
    monkeypatch.setenv("DCPY_LIFECYCLE_DATA_DIR", str(state / ".lifecycle"))
    monkeypatch.setenv("DAGSTER_HOME", "")
    return state


@pytest.fixture
def chosen(tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that somebody chose."""
    folder = tmp_path / "chosen"
    folder.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    return folder


def state_of_an_earlier_version(folder: Path) -> str:
    """Fills the folder with a state, as it lay in the lifecycle folder; gives a run's id."""
    folder.mkdir(parents=True)
    (folder / "dagster.yaml").touch()
    with DagsterInstance.from_config(str(folder)) as instance:
        run_id: str = create_run_for_test(instance, status=DagsterRunStatus.SUCCESS).run_id
    return run_id


def runs_at_home() -> list[str]:
    with DagsterInstance.get() as instance:
        return [run.run_id for run in instance.get_runs(RunsFilter())]


def test_state_of_an_earlier_version_is_moved_out_of_the_results(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = own / ".lifecycle" / "dagster"
    run = state_of_an_earlier_version(old)
    assert prepare_dagster_home() == own / ".dagster"
    assert runs_at_home() == [run]
    assert not old.exists()
    assert capsys.readouterr().out == (
        f"Dagster's state was moved from {old} to {own / '.dagster'}\n"
    )


def test_state_on_another_disk_is_moved_too(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second = Path("/dev/shm")
    if not second.is_dir() or second.stat().st_dev == own.parent.stat().st_dev:
        pytest.skip("there is no second disk here")
    other = Path(tempfile.mkdtemp(dir=second))
    try:
        monkeypatch.setenv("DCPY_LIFECYCLE_DATA_DIR", str(other))
        run = state_of_an_earlier_version(other / "dagster")
        # What an interrupted move leaves is nobody's state.
        (own / ".dagster.being-moved-0123").mkdir(parents=True)
        prepare_dagster_home()
        assert runs_at_home() == [run]
        assert not (other / "dagster").exists()
        assert [path.name for path in own.iterdir()] == [".dagster"]
    finally:
        shutil.rmtree(other)


def test_copies_that_somebody_has_made_of_the_state_stay(own: Path) -> None:
    state_of_an_earlier_version(own / ".lifecycle" / "dagster")
    (own / ".dagster.bak").mkdir()
    (own / ".dagster.20260101").mkdir()
    (own / ".dagster.tar.gz").touch()
    for _ in range(2):
        prepare_dagster_home()
    kept = {".dagster", ".dagster.bak", ".dagster.20260101", ".dagster.tar.gz", ".lifecycle"}
    assert {path.name for path in own.iterdir()} == kept


def test_where_there_are_both_the_new_state_counts_and_the_old_one_is_kept(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = own / ".lifecycle" / "dagster"
    state_of_an_earlier_version(old)
    run = state_of_an_earlier_version(own / ".dagster")
    prepare_dagster_home()
    assert runs_at_home() == [run]
    assert (old / "history").is_dir()
    assert f"{old} is of an earlier version, and not used" in capsys.readouterr().out


def test_state_that_a_server_of_an_earlier_version_uses_is_left_to_it(own: Path) -> None:
    old = own / ".lifecycle" / "dagster"
    state_of_an_earlier_version(old)
    with open(old / "up.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OrchestrationError, match="of an earlier version, runs on"):
            prepare_dagster_home()
    assert (old / "history").is_dir()
    assert not (own / ".dagster").exists()


@pytest.mark.parametrize("text", [None, "", "# nothing\n", "telemetry: {enabled: true}\n", EARLIER])
def test_a_chosen_home_has_the_projects_settings_where_its_file_has_none(
    chosen: Path, text: str | None
) -> None:
    if text is not None:
        (chosen / "dagster.yaml").write_text(text)
    assert prepare_dagster_home() == chosen
    with DagsterInstance.get() as instance:
        assert isinstance(instance.run_launcher, ForkedRunLauncher)
        assert instance.run_monitoring_enabled
        assert instance.global_op_concurrency_default_limit == 1
        assert instance.telemetry_enabled == (text is not None and "true" in text)
        run = create_run_for_test(instance).run_id
    if text is not None:
        assert (chosen / "dagster.yaml").read_text() == text
        (chosen / "dagster.yaml").unlink()
    # What Dagster keeps lies where Dagster itself looks for it.
    with DagsterInstance.from_config(str(chosen)) as instance:
        assert [run.run_id for run in instance.get_runs()] == [run]


def test_a_process_that_up_started_finds_the_same_home(chosen: Path) -> None:
    prepare_dagster_home()
    first = os.environ["DAGSTER_HOME"]
    assert prepare_dagster_home() == chosen
    assert os.environ["DAGSTER_HOME"] == first


def test_what_the_users_file_decides_holds_and_is_said(
    chosen: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = chosen / "dagster.yaml"
    theirs = {
        "run_queue": {"max_concurrent_runs": 9},
        "run_monitoring": {"enabled": False},
        "storage": {"sqlite": {"base_dir": str(chosen / "elsewhere")}},
    }
    file.write_text(yaml.safe_dump(theirs))
    prepare_dagster_home()
    with DagsterInstance.get() as instance:
        assert not instance.run_monitoring_enabled
        assert instance.get_concurrency_config().run_queue_config.max_concurrent_runs == 9  # type: ignore[union-attr]
        assert isinstance(instance.run_launcher, ForkedRunLauncher)
    assert (chosen / "elsewhere" / "history").is_dir()
    assert capsys.readouterr().out == (
        f"warning: {file} decides on concurrency, run_coordinator, run_monitoring.enabled; what "
        "this project promises of it does not hold\n"
    )


@pytest.mark.parametrize(
    ("theirs", "limit", "said"),
    [
        ({"runs": {"tag_concurrency_limits": []}}, 1, "concurrency.runs.tag_concurrency_limits"),
        ({"pools": {"op_granularity_run_buffer": 0}}, 1, ""),
        ({"runs": {"max_concurrent_runs": 9}}, 1, "concurrency.runs.max_concurrent_runs"),
        ({"pools": {"default_limit": 2}}, 2, "concurrency.pools.default_limit"),
        ({"default_op_concurrency_limit": 3}, 3, "concurrency"),
    ],
)
def test_what_the_users_file_leaves_open_is_the_projects(
    chosen: Path, capsys: pytest.CaptureFixture[str], theirs: object, limit: int, said: str
) -> None:
    (chosen / "dagster.yaml").write_text(yaml.safe_dump({"concurrency": theirs}))
    prepare_dagster_home()
    with DagsterInstance.get() as instance:
        assert instance.global_op_concurrency_default_limit == limit
        assert instance.run_monitoring_enabled
    out = capsys.readouterr().out
    assert f"decides on {said};" in out if said else out == ""


@pytest.mark.parametrize(
    ("text", "what"), [("a: [", "is not valid YAML"), ("- a\n", "must be a mapping")]
)
def test_a_file_that_cannot_be_read_is_named(chosen: Path, text: str, what: str) -> None:
    (chosen / "dagster.yaml").write_text(text)
    with pytest.raises(OrchestrationError) as error:
        prepare_dagster_home()
    assert f"{chosen / 'dagster.yaml'} {what}" in str(error.value)


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Prepares the state for a checkout of that name, and gives the checkout."""

    def prepare(name: str) -> Path:
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        monkeypatch.setenv("DATA_ENGINEERING_ROOT", str(root))
        prepare_dagster_home()
        return root

    return prepare


@pytest.mark.parametrize("variable", ["DAGSTER_HOME", "DCPY_LIFECYCLE_DATA_DIR"])
def test_a_chosen_folder_that_another_checkout_has_used_is_said(
    chosen: Path,
    own: Path,
    serve: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
) -> None:
    first = serve("a checkout, größer")
    assert capsys.readouterr().out == ""
    spared = {"DAGSTER_HOME", "DCPY_LIFECYCLE_DATA_DIR"} - {variable}
    monkeypatch.setenv(spared.pop(), str(own / "another"))
    second = serve("another")
    folder = chosen if variable == "DAGSTER_HOME" else own / ".lifecycle"
    assert capsys.readouterr().out == (
        f"warning: {folder} has been used for the checkout {first}, and what belongs to {second} "
        f"is mixed up with that. Give each a folder of its own ({variable}).\n"
    )


def test_a_checkout_that_was_moved_is_not_another(
    chosen: Path, serve: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    serve("before").rmdir()
    serve("after")
    assert capsys.readouterr().out == ""


def test_a_marker_that_a_power_cut_left_empty_is_written_again(
    chosen: Path, serve: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = serve("checkout")
    (chosen / ".checkout").write_bytes(b"")
    serve("checkout")
    assert capsys.readouterr().out == ""
    assert (chosen / ".checkout").read_text() == str(root)
