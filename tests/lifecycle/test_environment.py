import os
import sys
from pathlib import Path

import pytest

from orchestration import OrchestrationError
from orchestration.catalog.checkout import interpreter_path
from orchestration.lifecycle.environment import base_environment, build_environment, dcpy_python

ROOT, LIFECYCLE = Path("/checkout"), Path("/lifecycle")
SERVER = "postgresql://dcp:pw@db.example.org:5432"


def base(python: Path = Path(sys.executable), **environ: str) -> dict[str, str]:
    return base_environment(root=ROOT, lifecycle=LIFECYCLE, python=python, environ=environ)


def build(environ: dict[str, str], lock: dict[str, object]) -> dict[str, str]:
    return build_environment(environ, lock=lock, build_name="v1-note", output=Path("/output"))


def test_dagsters_own_variables_stay_with_dagster() -> None:
    env = base(
        DAGSTER_HOME="/home", PYTHONPATH="/project", PYTHONHOME="/py", VIRTUAL_ENV="/venv", LANG="C"
    )
    assert env["LANG"] == "C"
    assert not {"DAGSTER_HOME", "PYTHONPATH", "PYTHONHOME"} & set(env)
    assert env.get("VIRTUAL_ENV") != "/venv"


def test_ci_is_dropped_unless_it_really_is_github() -> None:
    # With CI alone dcpy's load fails with KeyError: GITHUB_EVENT_NAME.
    assert "CI" not in base(CI="true")
    assert base(CI="true", GITHUB_EVENT_NAME="push")["CI"] == "true"


def test_every_stage_is_told_where_things_are() -> None:
    env = base(DCPY_LIFECYCLE_DATA_DIR="/elsewhere", PRODUCTS_DIR="/elsewhere")
    assert env["DCPY_LIFECYCLE_DATA_DIR"] == "/lifecycle"
    assert env["PRODUCTS_DIR"] == "/checkout/products"
    assert env["TEMPLATE_DIR"] == "/checkout/ingest_templates"


def test_the_schema_is_set_because_dcpy_breaks_on_an_empty_one() -> None:
    assert base()["BUILD_ENGINE_SCHEMA"]
    assert base(BUILD_ENGINE_SCHEMA="")["BUILD_ENGINE_SCHEMA"]


def test_a_build_command_that_calls_python_gets_the_one_that_has_dcpy(tmp_path: Path) -> None:
    (tmp_path / "pyvenv.cfg").touch()
    env = base(python=tmp_path / "bin" / "python", PATH="/usr/bin")
    assert env["PATH"] == f"{tmp_path}/bin{os.pathsep}/usr/bin"
    assert env["VIRTUAL_ENV"] == str(tmp_path)


def test_a_build_finds_what_dcpy_gives_it() -> None:
    environ = {"BUILD_ENGINE_SERVER": SERVER, "BUILD_ENGINE_DB": "pluto", "LANG": "C"}
    env = build(environ | {"BUILD_ENGINE_SCHEMA": "main"}, {"env": {"VERSION": 26, "A": "lock"}})
    assert env == environ | {
        "BUILD_ENGINE_SCHEMA": "main",
        "BUILD_ENGINE_SCHEMA_TESTS": "main__tests",
        "VERSION": "26",
        "A": "lock",
        "BUILD_ENGINE_USER": "dcp",
        "BUILD_ENGINE_PASSWORD": "pw",
        "BUILD_ENGINE_HOST": "db.example.org",
        "BUILD_ENGINE_PORT": "5432",
        "BUILD_ENGINE": f"{SERVER}/pluto?options=--search_path%3Dmain,public",
        "BUILD_ENV_OUTPUT_DIR": "/output",
        "BUILD_NAME": "v1-note",
    }


def test_later_settings_win_in_dcpys_order() -> None:
    environ = {
        "BUILD_ENGINE_SERVER": "postgresql://base:pw@base:1",
        "BUILD_ENGINE_USER": "base",
        "BUILD_ENGINE": "base",
        "BUILD_ENGINE_DB": "base",
        "BUILD_ENGINE_SCHEMA": "base",
        "BUILD_NAME": "base",
        "A": "base",
        "B": "base",
    }
    lock = {
        "env": {
            "BUILD_ENGINE_SERVER": "postgresql://lock:pw@lock:2",
            "BUILD_ENGINE_USER": "lock",
            "BUILD_ENGINE_DB": "lock",
            "BUILD_NAME": "lock",
            "BUILD_ENV_OUTPUT_DIR": "/lock",
            "A": "lock",
            "B": "lock",
        },
        "stage_config": {
            "builds.build": {"env": {"BUILD_ENGINE_PORT": 3, "B": "stage"}},
            "builds.load": {"env": {"A": "another stage"}},
        },
    }
    env = build(environ, lock)
    assert (env["A"], env["B"]) == ("lock", "stage")
    assert env["BUILD_ENGINE_USER"] == "lock", "parsed from the lock's server"
    assert env["BUILD_ENGINE_HOST"] == "lock"
    assert env["BUILD_ENGINE_PORT"] == "3", "the stage's own comes last"
    expected = "postgresql://lock:pw@lock:2/lock?options=--search_path%3Dbase,public"
    assert env["BUILD_ENGINE"] == expected
    assert (env["BUILD_NAME"], env["BUILD_ENV_OUTPUT_DIR"]) == ("v1-note", "/output")


@pytest.mark.parametrize("missing", ["BUILD_ENGINE_SERVER", "BUILD_ENGINE_DB"])
def test_without_all_its_parts_there_is_no_connection_string(missing: str) -> None:
    environ = {"BUILD_ENGINE_SERVER": SERVER, "BUILD_ENGINE_DB": "a", "BUILD_ENGINE_SCHEMA": "b"}
    del environ[missing]
    assert "BUILD_ENGINE" not in build(environ, {})


@pytest.mark.parametrize(
    "lock", [{}, {"env": None}, {"stage_config": None}, {"stage_config": {"builds.build": None}}]
)
def test_a_lock_file_without_settings_is_fine(lock: dict[str, object]) -> None:
    assert build({"A": "base"}, lock)["A"] == "base"


@pytest.mark.parametrize(("name", "value"), [("A=B", "c"), ("", "c"), ("A", "b\0"), ("A\0", "b")])
def test_a_recipes_variable_that_is_none_is_named(name: str, value: str) -> None:
    with pytest.raises(OrchestrationError, match=r"the recipe sets a variable '.*', which no"):
        build({}, {"stage_config": {"builds.build": {"env": {name: value}}}})


def test_the_products_interpreter_goes_before_everybodys() -> None:
    assert dcpy_python("/own/python", {"DCPY_PYTHON": "/all/python"}) == (
        Path("/own/python"),
        True,
    )
    assert dcpy_python(None, {"DCPY_PYTHON": "/all/python"}) == (Path("/all/python"), True)
    # Nothing is set, nor has dcpy been installed for the checkout.
    environ = {"DCPY_PYTHON": "", "DATA_ENGINEERING_ROOT": "/nowhere"}
    assert dcpy_python(None, environ) == (Path(sys.executable), False)


def test_an_interpreter_is_found_from_another_working_directory_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The steps run in the checkout, Dagster in the project.
    monkeypatch.chdir(tmp_path)
    assert dcpy_python(".venv/bin/python", {})[0] == tmp_path / ".venv" / "bin" / "python"


def test_an_interpreter_of_an_unknown_user_is_one_that_does_not_exist() -> None:
    assert not dcpy_python("~nobody-here/python", {})[0].exists()
    assert not interpreter_path(Path("/nowhere"), "~nobody-here/python").exists()


def test_an_interpreter_can_be_named_as_in_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python9.9"
    python.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert dcpy_python("python9.9", {})[0] == python
