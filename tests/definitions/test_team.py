import sys
from pathlib import Path

import pytest
from dagster import AssetKey, Definitions

from orchestration import OrchestrationError
from orchestration.definitions.product import product_definitions
from orchestration.definitions.team import with_team_definitions

ASSET = """
import dagster as dg

@dg.asset(key={key!r})
def other() -> None: ...

defs = dg.Definitions(assets=[other])
"""
PLUTO = {f"pluto/{stage}" for stage in ("plan", "load", "build", "package")}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    return tmp_path


def merged(folder: Path, text: str) -> Definitions:
    """The location of a product `pluto` whose team has these definitions."""
    (folder / "definitions.py").write_text(text)
    own = product_definitions(id="pluto", build_command="make", path="pluto")
    return with_team_definitions(own, folder, "pluto")


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
    ("text", "name"),
    [
        (ASSET.format(key=["pluto", "plan"]), "['pluto', 'plan']"),
        (
            "import dagster as dg\n"
            "@dg.job\ndef build_pluto(): ...\n"
            "defs = dg.Definitions(jobs=[build_pluto])\n",
            "'build_pluto'",
        ),
        (
            "import dagster as dg\ndefs = dg.Definitions(executor=dg.multiprocess_executor)\n",
            "executor",
        ),
    ],
)
def test_what_collides_with_the_build_is_reported_by_name_and_file(
    folder: Path, text: str, name: str
) -> None:
    with pytest.raises(OrchestrationError) as error:
        merged(folder, text)
    assert str(error.value).startswith(f"{folder / 'definitions.py'} does not go with")
    assert name in str(error.value)


@pytest.mark.parametrize("text", ["", "defs = 1\n", "definitions = None\n"])
def test_a_file_without_defs_is_an_error_that_says_so(folder: Path, text: str) -> None:
    with pytest.raises(OrchestrationError) as error:
        merged(folder, text)
    assert str(error.value) == (
        f"{folder / 'definitions.py'} has no `defs` that is a dagster.Definitions."
    )


def test_its_own_exception_is_not_hidden(folder: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        merged(folder, "1 / 0\n")
