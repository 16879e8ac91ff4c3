import ast
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from orchestration.catalog.checkout import PROJECT_ROOT
from orchestration.catalog.products import Product
from orchestration.definitions.interpreter import PACKAGES, Interpreter

# What is there with another package.
COMES_WITH = {"dagster_shared": "dagster", "pydantic_core": "pydantic", "sqlalchemy": "dagster"}
IMPORTED_AS = {
    "dotenv": "python-dotenv",
    "jinja2": "Jinja2",
    "psycopg2": "psycopg2-binary",
    "yaml": "PyYAML",
}


def interpreter(configured: str, root: Path) -> Interpreter:
    return of({"definitions_python": configured}, root)


def of(fields: Mapping[str, object], root: Path) -> Interpreter:
    product = Product.model_validate({"id": "some", "build_command": "make", **fields})
    found = Interpreter.of(product, root)
    assert found
    return found


def script(path: Path, text: str) -> Path:
    """A program that is asked as if it were an interpreter."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_all_that_a_location_imports_is_asked_for() -> None:
    rooms = [PROJECT_ROOT / "orchestration" / room for room in ("catalog", "definitions")]
    files = [
        *(file for room in rooms for file in room.glob("*.py")),
        *(PROJECT_ROOT / "orchestration" / "lifecycle").glob("*.py"),
    ]
    imported = {
        name.partition(".")[0]
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
    }
    others = imported - set(sys.stdlib_module_names) - {"orchestration", *COMES_WITH}
    assert {IMPORTED_AS.get(name, name) for name in others} == set(PACKAGES)


def test_a_database_of_its_own_kind_needs_more(tmp_path: Path) -> None:
    versions = {"python": "3.12.1", **dict.fromkeys(PACKAGES, "99.9")}
    path = script(tmp_path / "python", f"echo '{json.dumps(versions)}'")
    found = interpreter(str(path), tmp_path)
    assert found.problem(has_postgres=False) is None
    problem = found.problem(has_postgres=True)
    assert problem and problem.endswith(
        f"has no dagster-postgres: `{path} -m pip install 'dagster-postgres>=0.26'`."
    )


def test_a_name_is_looked_up_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    problem = interpreter("python3.99", tmp_path).problem(has_postgres=False)
    assert problem and problem.startswith("There is no python3.99 on PATH (definitions_python")
    made = script(tmp_path / "python3.99", "exit 1")
    assert interpreter("python3.99", tmp_path / "elsewhere").path == made


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("""echo '{"python": "3.8.18"}'""", "is Python 3.8.18, and 3.11 or newer is needed"),
        ("echo hello; echo 'no such option' >&2", "cannot be used: no such option"),
        ("exit 5", "cannot be used: exit code 5"),
    ],
)
def test_what_is_none_for_it_is_refused_in_a_sentence(tmp_path: Path, text: str, said: str) -> None:
    path = script(tmp_path / "an interpreter", text)
    problem = interpreter(str(path), tmp_path).problem(has_postgres=False)
    assert problem and f"Its interpreter {path}" in problem and said in problem


def test_a_folder_is_no_interpreter(tmp_path: Path) -> None:
    problem = interpreter(str(tmp_path), tmp_path).problem(has_postgres=False)
    assert problem and "cannot be used: " in problem and "Permission denied" in problem


def test_an_env_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    fields = {"definitions_python": sys.executable, "env": {"SOME": "x"}, "env_file": "secrets"}
    found = of(fields, tmp_path)
    problem = found.problem(has_postgres=False)
    assert problem and f"its env_file {tmp_path / 'secrets'} cannot be read" in problem
    assert "SOME" not in found.environment({})
    (tmp_path / "secrets").write_text("OTHER=y\n")
    env = found.environment({"PATH": "/bin", "VIRTUAL_ENV": "/some", "DAGSTER_HOME": "/home"})
    assert (env["SOME"], env["OTHER"], env["DAGSTER_HOME"]) == ("x", "y", "/home")
    assert "VIRTUAL_ENV" not in env
