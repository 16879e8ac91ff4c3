"""How one version differs from another: `compare`, on results as stages leave them."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestration.cli.main import main

TABLES = {
    "2025": "SELECT i AS id, 'lot ' || i AS name, 1.5 AS area FROM range(100) t(i)",
    "2026": "SELECT i AS id, CASE WHEN i = 7 THEN 'new' ELSE 'lot ' || i END AS name, '2' AS zone "
    "FROM range(1, 103) t(i) ORDER BY hash(i)",
}


@pytest.fixture
def compare(
    lifecycle: Path,
    sample_dcpy: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Callable[..., Any]:
    """Compares two builds of the libraries that hold the same tables in three formats."""
    python = sample_dcpy["DCPY_PYTHON"]
    monkeypatch.setenv("DCPY_PYTHON", python)
    for version, query in TABLES.items():
        folder = lifecycle / "builds" / "libraries" / version / "build"
        folder.mkdir(parents=True)
        code = (
            "import duckdb, sys\n"
            "folder, query = sys.argv[1:]\n"
            f"database = duckdb.connect(folder + '/out_{version}.duckdb')\n"
            f"database.execute('CREATE SCHEMA of_{version}; USE of_{version}')\n"
            "database.execute('CREATE TABLE lots AS ' + query)\n"
            "for kind in ('csv', 'parquet'):\n"
            "    database.execute(f\"COPY lots TO '{folder}/my lots.{kind}'\")\n"
        )
        subprocess.run([python, "-c", code, str(folder), query], check=True)
        (folder / "readme.txt").write_text("the same")
        (folder / "shape.zip").write_text(version)
        (folder / "build.log").write_text(version)
        (folder / "build.tables.json").write_text(json.dumps({"version": version, "tables": []}))

    def run(*arguments: str) -> Any:
        assert main(["compare", "libraries", *arguments]) == 0
        out = capfd.readouterr().out
        return json.loads(out) if "--json" in arguments else out

    return run


def test_rows_are_compared_as_a_whole_or_by_a_key(compare: Callable[..., Any]) -> None:
    whole = {file["name"]: file for file in compare("2025", "2026", "--json")["files"]}
    tables = ["my lots.csv", "my lots.parquet", "out_2026.duckdb: lots"]
    assert set(whole) == {*tables, "readme.txt", "shape.zip"}
    assert whole["readme.txt"]["change"] == "same"
    assert whole["shape.zip"]["change"] == "changed"
    by_key = {f["name"]: f for f in compare("2025", "2026", "--key", "id", "--json")["files"]}
    for name in tables:
        assert whole[name]["rows"] == [100, 102]
        assert whole[name]["columns_added"] == ["zone"]
        assert whole[name]["columns_removed"] == ["area"]
        # Of what both have: 0 is gone, 100 to 102 are new, and 7 is another row.
        assert (whole[name]["removed"], whole[name]["added"]) == (2, 4)
        found = by_key[name]
        assert (found["removed"], found["added"], found["changed"]) == (1, 3, 1)
        assert found["changed_keys"] == [["7"]]
        assert found["changed_columns"] == {"name": 1}


def test_rows_of_one_key_that_are_alike_do_not_hide_that_they_have_changed(
    compare: Callable[..., Any], lifecycle: Path
) -> None:
    for version, name in (("2025", "old"), ("2026", "new")):
        folder = lifecycle / "builds" / "libraries" / version / "build"
        (folder / "twice.csv").write_text(f"id,name\n1,{name}\n1,{name}\n2,same\n")
    by_key = {f["name"]: f for f in compare("2025", "2026", "--key", "id", "--json")["files"]}
    found = by_key["twice.csv"]
    assert (found["change"], found["changed_keys"]) == ("changed", [["1"]])


def test_the_differences_are_told_in_lines(compare: Callable[..., Any]) -> None:
    assert compare("2025", "2026", "--key", "id").splitlines()[:8] == [
        "libraries: 2025 → 2026",
        "my lots.csv: 100 → 102 rows, 3 added, 1 removed, 1 changed",
        "  columns: +zone, -area",
        "  changed: name in 1",
        "  + 100",
        "  + 101",
        "  + 102",
        "  - 0",
    ]
    assert compare("2025", "2025").splitlines() == ["libraries: 2025 → 2025", "5 are the same."]


def test_a_version_that_is_not_there_is_named(
    compare: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "libraries", "2025", "2027"]) == 1
    said = capfd.readouterr().err
    assert "There is no result of libraries for '2027'" in said
    assert "There are: 2025, 2026." in said
