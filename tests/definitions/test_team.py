import sys
from pathlib import Path
from typing import Any

import pytest
from dagster import AssetKey, Definitions, in_process_executor, multiprocess_executor
from dagster_shared.libraries import DagsterLibraryRegistry

from orchestration.definitions import team
from orchestration.definitions.product import product_definitions
from orchestration.definitions.team import PROBLEM, with_team_definitions
from tests.harness.processes import is_running, wait_until

ASSET = """
import dagster as dg

@dg.asset(key={key!r})
def other() -> None: ...

defs = dg.Definitions(assets=[other])
"""
PLUTO = {f"pluto/{stage}" for stage in ("plan", "load", "build", "package")}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The product's folder in a checkout of its own."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    monkeypatch.setattr(DagsterLibraryRegistry, "_libraries", {})
    monkeypatch.setenv("DATA_ENGINEERING_ROOT", str(tmp_path))
    folder = tmp_path / "products" / "pluto"
    folder.mkdir(parents=True)
    return folder


def merged(folder: Path, text: str) -> Definitions:
    """The location of a product `pluto` whose team has these definitions."""
    (folder / "definitions.py").write_text(text)
    own = product_definitions(id="pluto", build_command="make", path="pluto")
    return with_team_definitions(own, folder, "pluto")


def whole(folder: Path, text: str) -> Definitions:
    """The location as its module defines it."""
    (folder / "definitions.py").write_text(text)
    return product_definitions(id="pluto", build_command="make")


def keys(definitions: Definitions) -> set[str]:
    graph = definitions.resolve_asset_graph()
    return {key.to_user_string() for key in graph.executable_asset_keys}


def test_without_a_file_the_location_is_as_it_was(tmp_path: Path) -> None:
    own = product_definitions(id="pluto", build_command="make", path="pluto")
    assert with_team_definitions(own, tmp_path, "pluto") is own


def test_a_teams_assets_and_schedules_stand_beside_those_of_the_build(folder: Path) -> None:
    text = """
import dagster as dg

@dg.asset(deps=[dg.AssetKey(["pluto", "build"])])
def report() -> None: ...

defs = dg.Definitions(
    assets=[report],
    schedules=[
        dg.ScheduleDefinition(name="nightly", job_name="build_pluto", cron_schedule="0 6 * * *")
    ],
)
"""
    definitions = merged(folder, text)
    assert keys(definitions) == {*PLUTO, "report"}
    assert definitions.resolve_schedule_def("nightly").job_name == "build_pluto"


def test_it_can_import_what_lies_beside_it(folder: Path) -> None:
    (folder / "beside_pluto.py").write_text("KEY = 'from_beside'\n")
    text = ASSET.replace("{key!r}", "beside_pluto.KEY")
    definitions = merged(folder, f"import beside_pluto\n{text}")
    assert keys(definitions) == {*PLUTO, "from_beside"}


def test_the_modules_that_the_program_uses_are_not_replaced_by_what_lies_beside_it(
    folder: Path,
) -> None:
    (folder / "json.py").write_text("raise RuntimeError('not this one')\n")
    definitions = merged(folder, "import json\n" + ASSET.format(key="other"))
    assert definitions.resolve_asset_graph().has(AssetKey("other"))


@pytest.mark.parametrize(
    "text",
    [
        "@dg.definitions\ndef whatever() -> dg.Definitions:\n    return {}\n",
        "@dg.definitions\ndef defs():\n    return {}\n",
        "def defs():\n    return {}\n",
        "def some() -> dg.Definitions:\n    return {}\n",
        "some = {}\n",
    ],
)
def test_definitions_are_found_in_every_form_that_dagster_has_for_them(
    folder: Path, text: str
) -> None:
    text = text.format("dg.Definitions(assets=[other])")
    asset = "import dagster as dg\n@dg.asset\ndef other() -> None: ...\n"
    assert keys(merged(folder, asset + text)) == {*PLUTO, "other"}


def test_a_teams_executor_is_that_of_all_but_the_products_job(folder: Path) -> None:
    text = ASSET.format(key="other").replace(
        "assets=[other]", "assets=[other], executor=dg.multiprocess_executor"
    )
    definitions = whole(folder, text)
    assert definitions.executor is multiprocess_executor
    job = definitions.resolve_job_def("build_pluto")
    assert job.executor_def is in_process_executor


def test_without_an_executor_of_the_teams_nothing_starts_processes_beside_the_stages(
    folder: Path,
) -> None:
    assert whole(folder, ASSET.format(key="other")).executor is in_process_executor


def test_what_a_team_depends_on_elsewhere_is_in_the_products_group(folder: Path) -> None:
    text = """
import dagster as dg

@dg.asset(group_name="pluto", deps=[dg.AssetKey(["ingest", "dcp_pad"]), "external"])
def report() -> None: ...

defs = dg.Definitions(assets=[report, dg.AssetSpec("external", group_name="pluto")])
"""
    specs = whole(folder, text).resolve_all_asset_specs()
    assert {spec.group_name for spec in specs} == {"pluto"}
    assert AssetKey(["ingest", "dcp_pad"]) in {spec.key for spec in specs}


@pytest.mark.parametrize(
    ("text", "place", "why"),
    [
        (ASSET.format(key=["pluto", "plan"]), "", "['pluto', 'plan']"),
        (
            "import dagster as dg\n"
            "@dg.job\ndef build_pluto(): ...\n"
            "defs = dg.Definitions(jobs=[build_pluto])\n",
            "",
            "'build_pluto'",
        ),
        ("import dagster as dg\n\ndef (:\n", ":3", "SyntaxError: invalid syntax"),
        ("\nraise ValueError('no such borough')\n", ":2", "ValueError: no such borough"),
        ("import no_such_module\n", ":1", "No module named 'no_such_module'"),
        ("import sys\nsys.exit(1)\n", ":2", "SystemExit: 1"),
        ("", "", "has no `defs` that is a dagster.Definitions"),
        ("defs = 1\n", "", "has no `defs` that is a dagster.Definitions"),
        (
            "import dagster as dg\na = dg.Definitions()\nb = dg.Definitions()\n",
            "",
            "has several dagster.Definitions; call one of them `defs`",
        ),
    ],
)
def test_a_file_that_cannot_be_used_takes_nothing_away_but_itself(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str, place: str, why: str
) -> None:
    definitions = whole(folder, text)
    assert keys(definitions) == PLUTO
    assert definitions.resolve_job_def("build_pluto")
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"products/pluto/definitions.py{place}: ")
    assert why in line
    problem: Any = definitions.metadata[PROBLEM].value
    assert why in problem["problem"]
    assert DagsterLibraryRegistry.get()["definitions.py"].startswith("not used: products/pluto/")


@pytest.mark.parametrize(
    ("ending", "why"),
    [
        ("time.sleep(60)", "It did not load within 1 seconds"),
        ("os._exit(3)", "Its process ended with exit code 3 while loading"),
        ("os.kill(os.getpid(), 9)", "Its process was ended by SIGKILL while loading"),
    ],
)
def test_a_file_that_no_process_survives_takes_nothing_away_but_itself(
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
    why: str,
) -> None:
    monkeypatch.setattr(team, "LOAD_SECONDS", 1)
    child = "subprocess.Popen(['sleep', '60'])"
    text = f"import os, subprocess, time\nprint({child}.pid, file=open('pid', 'w'), flush=True)\n"
    monkeypatch.chdir(folder)
    assert keys(whole(folder, f"{text}{ending}\n")) == PLUTO
    assert why in DagsterLibraryRegistry.get()["definitions.py"]
    left = int((folder / "pid").read_text())
    assert wait_until(lambda: not is_running(left))
    [line] = capfd.readouterr().out.splitlines()
    assert line.startswith(f"products/pluto/definitions.py: {why}; pluto is without ")


def test_where_somebody_looks_after_the_process_no_other_tries_them_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import os\nopen('loads', 'a').write('x')\n" + ASSET.format(key="other")
    monkeypatch.chdir(folder)
    monkeypatch.setenv(team.GIVEN_UP, "")
    assert keys(whole(folder, text)) == {*PLUTO, "other"}
    assert (folder / "loads").read_text() == "x"


def test_a_location_without_the_memory_for_it_is_broken_as_a_whole(folder: Path) -> None:
    with pytest.raises(MemoryError):
        merged(folder, "raise MemoryError\n")
