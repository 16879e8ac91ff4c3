"""Is what arrived any good? What the checks say, and what becomes of a result that is none."""

import base64
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from dagster import (
    AssetCheckEvaluation,
    AssetCheckKey,
    AssetCheckSeverity,
    AssetKey,
    AssetsDefinition,
    DagsterInstance,
    ExecuteInProcessResult,
    materialize,
)

from orchestration.catalog.checks import Checks
from orchestration.catalog.ingest_groups import Ingest
from orchestration.catalog.ingest_templates import read_template
from orchestration.catalog.products import read_products, read_products_file
from orchestration.catalog.yaml_file import YamlFileError
from orchestration.definitions.ingest import build_ingest_asset
from orchestration.definitions.product import product_definitions
from orchestration.lifecycle.dbt import keep_names, known_tests
from orchestration.lifecycle.outcomes import CheckResult

Found = Mapping[str, AssetCheckEvaluation]
Branches = Sequence[str]


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def _sample(
    checkout: Path, sample_dcpy: dict[str, str], monkeypatch: pytest.MonkeyPatch, lifecycle: Path
) -> None:
    monkeypatch.setenv("DATA_ENGINEERING_ROOT", str(checkout))
    monkeypatch.setenv("DCPY_PYTHON", sample_dcpy["DCPY_PYTHON"])


@pytest.fixture
def ingest(
    _sample: None, checkout: Path, instance: DagsterInstance
) -> Callable[..., ExecuteInProcessResult]:
    """Ingests the branches of a library system, so many of them, as a version."""
    lines = (checkout / "data" / "qpl_libraries.csv").read_text().splitlines()

    def run(version: str, branches: int, header: str = lines[0], **checks: Any) -> Any:
        rows = [f"Branch {each},Street {each},Queens,11101,open" for each in range(branches)]
        text = "\n".join([header, *rows]) + "\n"
        (checkout / "data" / "qpl_libraries.csv").write_text(text)
        template = read_template(checkout / "ingest_templates" / "qpl_libraries.yml")
        asset = build_ingest_asset(template=template, checks=Checks(**checks))
        return materialized(asset, instance, version)

    return run


@pytest.fixture
def build(
    _sample: None, checkout: Path, lifecycle: Path, instance: DagsterInstance
) -> Callable[..., ExecuteInProcessResult]:
    """Builds a product from a command, for a partition."""
    (checkout / "products" / "own").mkdir()

    def run(partition: str, command: str, **checks: Any) -> Any:
        load = lifecycle / "builds" / "own" / partition / "load"
        if not load.exists():
            load.mkdir(parents=True)
            (load / "recipe.lock.yml").write_text(f"version: {partition}\n")
        definitions = product_definitions(id="own", build_command=command, checks=checks)
        asset = definitions.get_assets_def(AssetKey(["own", "build"]))
        return materialized(asset, instance, partition)

    return run


def materialized(
    asset: AssetsDefinition, instance: DagsterInstance, partition: str
) -> ExecuteInProcessResult:
    instance.add_dynamic_partitions(asset.partitions_def.name, [partition])  # type: ignore[union-attr]
    return materialize([asset], instance=instance, partition_key=partition, raise_on_error=False)


def checks_of(result: ExecuteInProcessResult) -> Found:
    return {each.check_name: each for each in result.get_asset_check_evaluations()}


def numbers(check: AssetCheckEvaluation) -> dict[str, Any]:
    return {
        name: value.value
        for name, value in check.metadata.items()
        if isinstance(value.value, int | float)
    }


def failed(result: ExecuteInProcessResult) -> set[str]:
    return {name for name, check in checks_of(result).items() if not check.passed}


def test_a_first_version_passes_and_tells_its_rows(
    ingest: Callable[..., ExecuteInProcessResult],
) -> None:
    result = ingest("20260101", 20)
    assert result.success
    found = checks_of(result)
    assert set(found) == {"not_empty", "columns", "rows"}
    assert all(check.passed for check in found.values())
    assert numbers(found["not_empty"]) == {"rows": 20, "tables": 1, "empty_tables": 0}
    assert found["rows"].description == "There is nothing earlier to compare with."


@pytest.mark.parametrize(
    ("branches", "settings", "fails"),
    [
        (18, {}, False),
        (17, {}, True),
        (23, {}, True),
        (23, {"rows_threshold": 15}, False),
        (19, {"rows_threshold": 4.5}, True),
    ],
)
def test_rows_that_change_by_more_than_the_threshold_are_a_warning(
    ingest: Callable[..., ExecuteInProcessResult],
    branches: int,
    settings: dict[str, Any],
    fails: bool,
) -> None:
    ingest("20260101", 20)
    result = ingest("20260201", branches, **settings)
    assert result.success
    assert failed(result) == ({"rows"} if fails else set())
    check = checks_of(result)["rows"]
    assert check.severity is AssetCheckSeverity.WARN
    change = 100 * (branches - 20) / 20
    assert numbers(check) == {
        "rows": branches,
        "rows_before": 20,
        "largest_change_percent": pytest.approx(change),
    }
    if fails:
        assert f"qpl_libraries has {branches} rows instead of 20, {change:+.1f} %" in str(
            check.description
        )
        assert "version 20260101" in str(check.description)


def test_an_empty_version_and_columns_that_changed_are_told(
    ingest: Callable[..., ExecuteInProcessResult],
) -> None:
    ingest("20260101", 5)
    result = ingest("20260201", 0, header="name,street,borough,zipcode,status")
    assert result.success
    assert failed(result) == {"not_empty", "columns", "rows"}
    said = str(checks_of(result)["columns"].description)
    assert "street is new" in said
    assert "address is gone" in said
    assert checks_of(result)["not_empty"].description == "qpl_libraries is empty."


def test_a_version_is_held_against_the_one_before_it_however_late_it_comes(
    ingest: Callable[..., ExecuteInProcessResult],
) -> None:
    for version, branches in (("9", 5), ("11", 50)):
        ingest(version, branches)
    check = checks_of(ingest("10", 5))["rows"]
    assert check.passed
    assert numbers(check)["rows_before"] == 5


def test_an_error_keeps_the_result_aside_and_what_was_good_stays(
    ingest: Callable[..., ExecuteInProcessResult], lifecycle: Path, instance: DagsterInstance
) -> None:
    ingest("20260101", 20)
    ingest("20260201", 21)
    good = (lifecycle / "ingest" / "qpl_libraries" / "20260201").resolve()
    result = ingest("20260201", 2, rows="error")
    assert not result.success
    assert failed(result) == {"rows"}
    assert checks_of(result)["rows"].severity is AssetCheckSeverity.ERROR
    [failure] = result.get_step_failure_events()
    said = str(failure.step_failure_data.user_failure_data.description)  # type: ignore[union-attr]
    aside = Path(said.partition("kept aside in ")[2].partition(" until")[0])
    assert (aside / "qpl_libraries" / "qpl_libraries.parquet").is_file()
    assert (lifecycle / "ingest" / "qpl_libraries" / "20260201").resolve() == good
    assert good.is_dir()

    # It goes with the next attempt, which is held against what was good.
    assert ingest("20260201", 20, rows="error").success
    assert not aside.exists()


CSV = "mkdir -p sub; seq -f 'x%g,1' {rows} | (echo name,{column}; cat) > sub/table.csv"


def test_a_build_is_held_against_the_last_one_and_against_another_version(
    build: Callable[..., ExecuteInProcessResult],
) -> None:
    first = build("2025", CSV.format(rows=20, column="count"))
    assert first.success
    assert not failed(first)
    build("2026", CSV.format(rows=40, column="number"))
    result = build("2026", CSV.format(rows=41, column="number"))
    assert result.success
    assert failed(result) == {"rows_of_other_version", "columns_of_other_version"}
    found = checks_of(result)
    assert numbers(found["rows"])["rows_before"] == 40
    assert "compared with the last build of '2026'" not in str(found["rows"].description)
    assert numbers(found["rows_of_other_version"])["rows_before"] == 20
    assert numbers(found["columns_of_other_version"])["columns_added"] == 1


def test_a_file_that_is_gone_is_told_and_a_version_in_its_name_does_no_harm(
    build: Callable[..., ExecuteInProcessResult],
) -> None:
    build("25v1", "echo a,b > t_25v1.csv; echo 1,2 >> t_25v1.csv; cp t_25v1.csv other.csv")
    result = build("25v2", "echo a,b > t_25v2.csv; echo 1,2 >> t_25v2.csv")
    assert failed(result) == {"columns_of_other_version"}
    said = str(checks_of(result)["columns_of_other_version"].description)
    assert said == "other.csv: the whole table is gone (compared with the build of '25v1')."


def test_an_error_of_a_build_keeps_the_output_aside(
    build: Callable[..., ExecuteInProcessResult], lifecycle: Path
) -> None:
    build("2026", CSV.format(rows=40, column="number"))
    good = (lifecycle / "builds" / "own" / "2026" / "build").resolve()
    result = build("2026", CSV.format(rows=3, column="number"), rows="error")
    assert not result.success
    assert failed(result) == {"rows"}
    assert (lifecycle / "builds" / "own" / "2026" / "build").resolve() == good
    assert (good / "sub" / "table.csv").read_text().count("\n") == 41


def test_a_build_without_tables_and_one_that_cannot_be_looked_into(
    build: Callable[..., ExecuteInProcessResult],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    result = build("2026", "echo hello > hello.txt")
    assert result.success
    assert not failed(result)
    python = tmp_path / "no-duckdb"
    python.write_text(f'#!/bin/sh\nexec {json.dumps(str(Path("/usr/bin/env")))} python3 -S "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("DCPY_PYTHON", str(python))
    result = build("2026", CSV.format(rows=3, column="number"))
    assert result.success
    # Nothing is green that was not looked at.
    assert not checks_of(result)


def test_a_group_of_templates_has_checks_of_its_own(checkout: Path) -> None:
    groups = [
        {"name": "all", "templates": ["*"]},
        {"name": "libraries", "templates": ["*_libraries"], "checks": {"rows": "error"}},
    ]
    ingest = Ingest.model_validate({"groups": groups, "checks": {"rows_threshold": 5}})
    assert ingest.checks_of("qpl_libraries") == Checks(rows="error", rows_threshold=5)
    assert ingest.checks_of("dpr_parks") == Checks(rows_threshold=5)


def test_what_defaults_says_of_checks_is_added_to_a_products_own(tmp_path: Path) -> None:
    path = tmp_path / "products.yml"
    path.write_text(
        "defaults: {checks: {rows: error, rows_threshold: 5}}\n"
        "products:\n- {id: a, build_command: x, checks: {rows_threshold: 20.5}}\n"
    )
    assert read_products(path)[0].checks == Checks(rows="error", rows_threshold=20.5)
    assert read_products_file(path).ingest.checks == Checks(rows="error", rows_threshold=5)
    path.write_text("products:\n- {id: a, build_command: x, checks: {row: error}}\n")
    with pytest.raises(YamlFileError, match=r"products.yml:2: .*did you mean `rows`"):
        read_products(path)


def materialization(result: ExecuteInProcessResult) -> Mapping[str, Any]:
    [event] = result.get_asset_materialization_events()
    shown = event.step_materialization_data.materialization.metadata
    return {name: value.value for name, value in shown.items()}


def colours(picture: bytes, python: str) -> set[str]:
    """Those of "red" and "blue" that a map is drawn with."""
    code = (
        "import io, sys, PIL.Image\n"
        "picture = PIL.Image.open(io.BytesIO(sys.stdin.buffer.read())).convert('RGB')\n"
        "seen = {colour for _, colour in picture.getcolors()}\n"
        "print(*{'red' if r > b else 'blue' for r, g, b in seen if abs(r - b) > 100})"
    )
    said = subprocess.run([python, "-c", code], input=picture, capture_output=True, check=True)
    return set(said.stdout.decode().split())


def test_a_map_shows_at_a_glance_what_is_missing(
    _sample: None,
    checkout: Path,
    instance: DagsterInstance,
    sample_dcpy: dict[str, str],
) -> None:
    file = checkout / "data" / "dpr_parks.csv"
    template = read_template(checkout / "ingest_templates" / "dpr_parks.yml")
    pictures = []
    for version in ("2025", "2026"):
        result = materialized(build_ingest_asset(template=template), instance, version)
        text = materialization(result)["map"]
        pictures.append(base64.b64decode(text.partition("base64,")[2].partition(")")[0]))
        kept = [line for line in file.read_text().splitlines() if "Staten Island" not in line]
        file.write_text("\n".join(kept) + "\n")
    assert [colours(picture, sample_dcpy["DCPY_PYTHON"]) for picture in pictures] == [
        {"blue"},
        {"blue", "red"},
    ]
    assert all(len(picture) < 50_000 for picture in pictures)


def test_the_first_rows_of_every_table_are_shown_and_its_columns(
    build: Callable[..., ExecuteInProcessResult],
) -> None:
    wide = ",".join(f"column_{number}" for number in range(30))
    result = build(
        "2026", f"seq 20 | (echo number; cat) > a.csv; echo '{wide}' | tee b.csv >> b.csv"
    )
    shown = materialization(result)
    assert shown["dagster/row_count"] == 20
    names = [column.name for column in shown["dagster/column_schema"].columns]
    assert names[:2] == ["a.csv: number", "b.csv: column_0"]
    assert [record.data for record in shown["preview/a.csv"].records] == [
        {"number": str(number)} for number in range(1, 11)
    ]
    assert shown["rows/a.csv"] == 20


RUN_RESULTS = {
    "results": [
        {"unique_id": "test.own.not_null_lots_bbl.7f3", "status": "pass", "failures": 0},
        {"unique_id": "test.own.unique_lots_bbl.8a1", "status": "fail", "failures": 3},
        {"unique_id": "test.own.few lots", "status": "warn", "failures": 1, "message": "Got 1"},
        {"unique_id": "test.own.left_out.1", "status": "skipped"},
        {"unique_id": "model.own.lots", "status": "success"},
    ]
}


def with_dbt(tests: Any) -> str:
    return f"mkdir -p target; echo '{json.dumps(tests)}' > target/run_results.json"


def declared(name: str) -> bool:
    definitions = product_definitions(id="own", build_command="true")
    checks = definitions.resolve_asset_graph().asset_check_keys
    return AssetCheckKey(AssetKey(["own", "build"]), name) in checks


def test_dbts_own_tests_are_checks_of_the_build_by_their_names(
    build: Callable[..., ExecuteInProcessResult], instance: DagsterInstance
) -> None:
    for _ in range(2):
        result = build("2026", with_dbt(RUN_RESULTS))
        # They are dbt's to judge: a build that ends well is one.
        assert result.success
        assert failed(result) == {"unique_lots_bbl", "few_lots"}
        found = checks_of(result)
        assert "left_out" not in found
        assert numbers(found["unique_lots_bbl"])["failures"] == 3
        assert found["few_lots"].severity is AssetCheckSeverity.WARN
        assert found["few_lots"].description == "Got 1"
        # As soon as they are known, the Checks tab has them.
        assert declared("not_null_lots_bbl")
    key = AssetCheckKey(AssetKey(["own", "build"]), "unique_lots_bbl")
    assert len(instance.event_log_storage.get_asset_check_execution_history(key, limit=9)) == 2


def test_builds_of_two_partitions_that_end_together_both_tell_their_tests(tmp_path: Path) -> None:
    def end(partition: str) -> None:
        for number in range(50):
            keep_names(tmp_path, [CheckResult(f"{partition}_{number}", True, False, "")])

    with ThreadPoolExecutor() as threads:
        list(threads.map(end, ("main", "nightly_qa")))
    assert len(known_tests(tmp_path)) == 100


def test_a_test_that_dbt_has_no_more_does_not_fail_a_build_that_knows_it(
    build: Callable[..., ExecuteInProcessResult],
) -> None:
    build("2026", with_dbt(RUN_RESULTS))
    fewer = {"results": RUN_RESULTS["results"][:1]}
    result = build("2026", with_dbt(fewer))
    assert result.success
    assert not failed(result)
    assert "unique_lots_bbl" not in checks_of(result)


def test_what_a_power_cut_left_of_the_last_build_keeps_no_location_and_no_build_from_going_on(
    build: Callable[..., ExecuteInProcessResult], lifecycle: Path
) -> None:
    command = f"{with_dbt(RUN_RESULTS)}; {CSV.format(rows=3, column='number')}"
    known = checks_of(build("2026", command))
    builds = lifecycle / "builds" / "own"
    (builds / ".dbt_tests.json").write_bytes(b"")
    (builds / "2026" / "build" / "build.tables.json").write_bytes(b'{"vers')
    result = build("2026", command)
    assert result.success
    assert checks_of(result)["rows"].description == "There is nothing earlier to compare with."
    # The names of dbt's tests are there again.
    assert set(checks_of(build("2026", command))) == set(known)


def test_a_build_that_fails_on_dbts_tests_shows_which(
    build: Callable[..., ExecuteInProcessResult],
) -> None:
    result = build("2026", f"{with_dbt(RUN_RESULTS)}; exit 1")
    assert not result.success
    assert failed(result) == {"unique_lots_bbl", "few_lots"}
    result = build("2026", "mkdir -p target; echo '[' > target/run_results.json")
    assert result.success
