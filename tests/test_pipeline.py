"""The sample for real: from the command line to the files and events that a person finds after."""

import csv
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import AssetKey, DagsterEventType, DagsterInstance, DagsterRunStatus, RunsFilter

from orchestration.catalog.checkout import SAMPLE_ROOT
from orchestration.cli.main import main
from tests.harness.processes import (
    ORCHESTRATION,
    PATIENCE,
    is_running,
    orchestration,
    tree,
    wait_until,
)

BUILD = "2026.1-1_first"
TEMPLATES = ("bpl_libraries", "nypl_libraries", "qpl_libraries")


@dataclass(frozen=True)
class Workplace:
    """A lifecycle folder in which the libraries were built from the command line."""

    env: dict[str, str]
    lifecycle: Path
    outputs: dict[str, str]

    @property
    def libraries(self) -> Path:
        return self.lifecycle / "builds" / "libraries" / BUILD


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, sample_dcpy: dict[str, str]) -> Workplace:
    lifecycle = tmp_path_factory.mktemp("built") / "lifecycle"
    env = {
        "DCPY_LIFECYCLE_DATA_DIR": str(lifecycle),
        "DAGSTER_HOME": str(lifecycle.with_name("dagster")),
        **sample_dcpy,
    }
    outputs = {}
    runs = [(f"ingest/{name}", "20260101") for name in TEMPLATES] + [("libraries", BUILD)]
    for selection, partition in runs:
        result = orchestration("materialize", selection, partition, env=env)
        assert result.returncode == 0, result.stdout + result.stderr
        outputs[selection] = result.stdout
    return Workplace(env, lifecycle, outputs)


@pytest.fixture
def workplace(built: Workplace, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """The same, with this process's environment set to it."""
    for name, value in built.env.items():
        monkeypatch.setenv(name, value)
    return built


@pytest.fixture
def instance(workplace: Workplace) -> Iterator[DagsterInstance]:
    with DagsterInstance.get() as instance:
        yield instance


def metadata(instance: DagsterInstance, *key: str) -> dict[str, Any]:
    """The metadata of the asset's last materialization, as plain values."""
    event = instance.get_latest_materialization_event(AssetKey(key))
    assert event
    assert event.asset_materialization
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def rows(table: Any) -> list[dict[str, Any]]:
    return [dict(record.data) for record in table]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_person_at_the_terminal_sees_stages_and_their_output(built: Workplace) -> None:
    lines = [line.strip() for line in built.outputs["libraries"].splitlines()]
    shown = [
        "libraries/plan …",
        "libraries/load …",
        "libraries/build …",
        "bpl: 8 branches",
        "Wrote 24 branches to libraries.csv",
        "libraries/package …",
        "Succeeded.",
    ]
    assert [line for line in lines if line in shown] == shown


def test_the_product_holds_every_branch_of_the_three_systems(built: Workplace) -> None:
    branches = read_csv(built.libraries / "build" / "libraries.csv")
    assert Counter(branch["system"] for branch in branches) == {"nypl": 10, "bpl": 8, "qpl": 6}
    assert {branch["data_library_version"] for branch in branches} == {"20260101"}
    assert all(branch["name"] and branch["borough"] for branch in branches)


def test_the_build_has_the_version_of_its_key_and_its_files_lie_where_the_readme_says(
    built: Workplace,
) -> None:
    lock = yaml.safe_load((built.libraries / "recipe.lock.yml").read_text())
    assert lock["version"] == "2026.1"
    versions = {dataset["id"]: dataset["version"] for dataset in lock["inputs"]["datasets"]}
    assert versions == dict.fromkeys(TEMPLATES, "20260101")
    for stage in ("plan", "load", "build"):
        assert (built.libraries / stage / f"{stage}.log").stat().st_size > 0
    assert (built.libraries / "load" / "source_data_versions.csv").is_file()
    for name in TEMPLATES:
        version = built.lifecycle / "ingest" / name / "20260101"
        assert (version / name / f"{name}.parquet").is_file()
        assert (version / "ingest.log").is_file()


def test_the_metadata_of_an_ingest_tells_rows_and_columns(instance: DagsterInstance) -> None:
    found = metadata(instance, "ingest", "bpl_libraries")
    [dataset] = rows(found["datasets"].records)
    assert (dataset["id"], dataset["version"], dataset["rows"]) == ("bpl_libraries", "20260101", 8)
    assert found["dagster/row_count"] == 8
    columns = {column.name for column in found["dagster/column_schema"].columns}
    assert {"name", "address", "borough", "zipcode"} <= columns
    assert dataset["columns"] == len(columns)
    assert found["bytes"] > 0
    assert (Path(found["path"]) / "bpl_libraries" / "bpl_libraries.parquet").is_file()


def test_the_metadata_of_a_build_tells_versions_outputs_and_the_logs_end(
    instance: DagsterInstance, workplace: Workplace
) -> None:
    plan = metadata(instance, "libraries", "plan")
    assert plan["version"] == "2026.1"
    versions = {row["id"]: row["version"] for row in rows(plan["datasets"].records)}
    assert versions == dict.fromkeys(TEMPLATES, "20260101")
    assert Path(plan["lock_file"]) == workplace.libraries / "recipe.lock.yml"

    load = metadata(instance, "libraries", "load")
    loaded = {row["id"]: row["rows"] for row in rows(load["datasets"].records)}
    assert loaded == {"bpl_libraries": 8, "nypl_libraries": 10, "qpl_libraries": 6}
    assert load["dagster/row_count"] == 24
    assert "bpl_libraries: name" in {
        column.name for column in load["dagster/column_schema"].columns
    }

    build = metadata(instance, "libraries", "build")
    outputs = {row["file"]: row["bytes"] for row in rows(build["outputs"].records)}
    csv_file = workplace.libraries / "build" / "libraries.csv"
    assert outputs == {"libraries.csv": csv_file.stat().st_size}
    assert "Wrote 24 branches" in build["log_tail"]
    assert list(build)[-1] == "log_tail"
    assert build["dagster/row_count"] == 24
    assert "borough" in {column.name for column in build["dagster/column_schema"].columns}
    assert build["seconds"] > 0

    assert metadata(instance, "libraries", "package")["stub"] is True


def test_runs_from_the_command_line_are_in_the_ui_later(instance: DagsterInstance) -> None:
    [run] = instance.get_runs(RunsFilter(job_name="build_libraries"))
    assert run.status == DagsterRunStatus.SUCCESS
    assert run.tags["dagster/partition"] == BUILD
    assert run.tags[".dagster/repository"] == "__repository__@libraries"
    assert instance.has_dynamic_partition("build_libraries", BUILD)


def test_a_run_shows_no_tags_that_only_the_machine_needs(instance: DagsterInstance) -> None:
    from dagster._core.storage.tags import HIDDEN_TAG_PREFIX

    for run in instance.get_runs():
        shown = {name for name in run.tags if not name.startswith(HIDDEN_TAG_PREFIX)}
        assert shown <= {"dagster/partition", "dagster/partition_set", "product"}


def test_what_a_stage_prints_is_in_the_uis_tab_of_standard_output_and_once_in_the_terminal(
    instance: DagsterInstance, built: Workplace
) -> None:
    [run] = instance.get_runs(RunsFilter(job_name="build_libraries"))
    [captured] = instance.get_records_for_run(
        run.run_id, of_type=DagsterEventType.LOGS_CAPTURED
    ).records
    event = captured.event_log_entry.get_dagster_event()
    key = [run.run_id, "compute_logs", event.logs_captured_data.file_key]
    manager = instance.compute_log_manager
    logs = manager.get_log_data(key)
    assert logs.stdout and b"Wrote 24 branches" in logs.stdout
    assert manager.is_capture_complete(key)
    assert built.outputs["libraries"].count("Wrote 24 branches") == 1


@pytest.mark.long
def test_the_other_products_of_the_sample_are_built(workplace: Workplace) -> None:
    for arguments in (
        ("ingest/dpr_parks", "20260101"),
        ("ingest/dpr_sites", "20260101"),
        ("park access", "main"),
        ("ingest/dcp_capital_projects", "20260401"),
        ("ingest/library_systems", "20260101"),
        ("capital-projects", "26-adopted-1_draft"),
    ):
        assert main(["materialize", *arguments]) == 0, arguments
    builds = workplace.lifecycle / "builds"
    access = read_csv(builds / "park_access" / "main" / "build" / "park_access.csv")
    assert [row["borough"] for row in access] == sorted(row["borough"] for row in access)
    assert all(int(row["parks"]) > 0 for row in access)
    spending = builds / "capital_projects" / "26-adopted-1_draft" / "build"
    assert read_csv(spending / "spending_by_borough.csv")
    assert read_csv(spending / "spending_by_system.csv")


def test_one_stage_can_be_done_again(workplace: Workplace) -> None:
    before = (workplace.libraries / "load").resolve()
    assert main(["materialize", "libraries/load", BUILD]) == 0
    after = (workplace.libraries / "load").resolve()
    assert after != before
    assert (after / "libraries_2026.1.duckdb").is_file()


@pytest.fixture
def with_build_command(project: Path, checkout: Path) -> Callable[[str], dict[str, str]]:
    """Changes the build command of the libraries, in copies of project and checkout."""

    def change(command: str) -> dict[str, str]:
        file = checkout / "products" / "products.yml"
        content = yaml.safe_load(file.read_text())
        content["products"][0]["build_command"] = command
        file.write_text(yaml.safe_dump(content))
        env = {"DATA_ENGINEERING_ROOT": str(checkout)}
        assert orchestration("generate", env=env, project=project).returncode == 0
        return env

    return change


def test_a_failing_build_says_why_and_leaves_the_earlier_result(
    built: Workplace, project: Path, with_build_command: Callable[[str], dict[str, str]]
) -> None:
    command = "echo half > $BUILD_ENV_OUTPUT_DIR/libraries.csv; echo no such table >&2; exit 3"
    env = built.env | with_build_command(command)
    before = tree(built.libraries / "build")
    result = orchestration("materialize", "libraries/build", BUILD, env=env, project=project)
    assert result.returncode == 1
    said = "Product 'libraries': the build command ended with exit code 3. Its log: "
    assert said in result.stdout
    assert "no such table" in result.stdout.partition(said)[0]
    assert "Traceback" not in result.stdout + result.stderr
    assert tree(built.libraries / "build") == before
    log = built.libraries / ".build.build.failed.log"
    assert log.read_text() == "no such table\n"


def test_a_stage_without_the_one_before_says_which_to_run(
    workplace: Workplace, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["materialize", "libraries/load", "2026.1-never_planned"]) == 1
    assert "Materialize libraries/plan first." in capfd.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_cancelled_build_ends_with_all_that_it_started(
    built: Workplace,
    project: Path,
    tmp_path: Path,
    with_build_command: Callable[[str], dict[str, str]],
    number: signal.Signals,
) -> None:
    files = [tmp_path / f"{each}.pid" for each in ("child", "shell")]
    command = f"sleep 300 & echo $! > {files[0]}; echo $$ > {files[1]}; wait"
    env = {**os.environ, **built.env, **with_build_command(command)}
    before = tree(built.libraries / "build")
    process = subprocess.Popen(
        [*ORCHESTRATION, "materialize", "libraries/build", BUILD],
        cwd=project,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert wait_until(lambda: all(file.is_file() and file.read_text() for file in files))
        process.send_signal(number)
        output, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode not in (0, None)
    assert not any(is_running(int(file.read_text())) for file in files)
    assert tree(built.libraries / "build") == before
    assert "libraries/build was interrupted" in output
    assert "Stack Trace" not in output


@pytest.mark.parametrize(
    ("selection", "partition", "said"),
    [
        ("librarys", "main", "There is nothing called 'librarys'"),
        ("libraries/deploy", "main", "one of its stages"),
        ("ingest", "main", "ingest/<template id>"),
        ("ingest/bpl_library", "v1", "Did you mean ingest/bpl_libraries?"),
        ("libraries", "../x", "it holds '/'"),
        ("libraries", "2026.1-", "a build note after it"),
        ("ingest/bpl_libraries", "", "it is empty"),
        ("ingest/bpl_libraries", "a,b", "it holds ','"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(
    workplace: Workplace,
    selection: str,
    partition: str,
    said: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with DagsterInstance.get() as instance:
        runs = instance.get_runs_count()
    files = tree(workplace.lifecycle / "builds")
    assert main(["materialize", selection, partition]) == 1
    captured = capfd.readouterr()
    assert said in captured.err
    assert captured.out == ""
    assert tree(workplace.lifecycle / "builds") == files
    with DagsterInstance.get() as instance:
        assert instance.get_runs_count() == runs
        for name in ("build_libraries", "ingest_bpl_libraries", "ingest_bpl_library"):
            assert not instance.has_dynamic_partition(name, partition)


@pytest.fixture
def fails(
    lifecycle: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Ingests a template in an empty workplace, and gives what is said when that fails."""

    def run(**env: str) -> str:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        assert main(["materialize", "ingest/bpl_libraries", "20260101"]) == 1
        assert not (lifecycle / "ingest" / "bpl_libraries" / "20260101").exists()
        _, _, said = capfd.readouterr().out.partition("ingest/bpl_libraries failed. ")
        return said

    return run


def test_a_checkout_of_data_alone_is_told_that_it_has_no_dcpy(
    fails: Callable[..., str], checkout: Path
) -> None:
    said = fails(DATA_ENGINEERING_ROOT=str(checkout))
    assert f"The checkout {checkout} has no dcpy." in said
    assert "DCPY_PYTHON" in said


def test_an_interpreter_that_is_not_there_is_named(
    fails: Callable[..., str], tmp_path: Path
) -> None:
    said = fails(DCPY_PYTHON=str(tmp_path / "python"))
    assert f"interpreter {tmp_path / 'python'} does not exist" in said


def test_the_other_package_called_dcpy_is_recognised(
    fails: Callable[..., str], tmp_path: Path
) -> None:
    package = tmp_path / "site-packages" / "dcpy"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('must not be imported')\n")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{package.parent}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    said = fails(DCPY_PYTHON=str(python))
    assert f"The dcpy in {package} is not NYC Planning's" in said
    assert f"pip install -e {SAMPLE_ROOT}" in said


def test_a_wrong_product_list_is_told_and_not_run(
    workplace: Workplace,
    checkout: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (checkout / "products" / "products.yml").write_text("products: 5\n")
    monkeypatch.setenv("DATA_ENGINEERING_ROOT", str(checkout))
    assert main(["materialize", "libraries", "main"]) == 1
    assert "products.yml:1: `products` must be a list" in capfd.readouterr().err


def test_a_location_that_is_not_generated_yet_is_told_to_generate(
    built: Workplace, project: Path
) -> None:
    (project / "orchestration" / "locations" / "libraries.py").unlink()
    result = orchestration("materialize", "libraries", "main", env=built.env, project=project)
    assert result.returncode == 1
    assert "Run `python3 -m orchestration generate`" in result.stderr


def test_a_package_that_a_teams_definitions_lack_is_named_and_the_product_is_built(
    built: Workplace, checkout: Path
) -> None:
    (checkout / "products" / "libraries" / "definitions.py").write_text("import no_such_package\n")
    env = {**built.env, "DATA_ENGINEERING_ROOT": str(checkout)}
    result = orchestration("materialize", "libraries", "main", env=env)
    assert result.returncode == 0, result.stderr
    assert "No module named 'no_such_package'" in result.stdout
    assert "orchestration generate" not in result.stderr


def test_results_from_a_folder_of_somebody_elses_are_not_written_over(
    workplace: Workplace, capfd: pytest.CaptureFixture[str]
) -> None:
    theirs = workplace.lifecycle / "ingest" / "bpl_libraries" / "theirs"
    theirs.mkdir()
    assert main(["materialize", "ingest/bpl_libraries", "theirs"]) == 1
    assert "was not written by this program" in capfd.readouterr().out
    shutil.rmtree(theirs)
