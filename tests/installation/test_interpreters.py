import subprocess
import sys
from pathlib import Path

import pytest

from orchestration.catalog.checkout import PROJECT_ROOT
from orchestration.installation.interpreters import find_interpreter, tried
from tests.harness.processes import PATIENCE

BROKEN_SHIM = "#!/bin/sh\necho 'pyenv: python3.13: command not found' >&2\nexit 127\n"


def interpreter(path: Path, version: str) -> Path:
    """A stand-in that says it is of that version; a real one of each there is not everywhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A machine without any Python but the one that runs this."""
    return {
        "PATH": f"{tmp_path / 'first'}:{tmp_path / 'second'}",
        "PYENV_ROOT": str(tmp_path / "pyenv"),
    }


def test_a_shim_that_does_not_work_is_passed_over(tmp_path: Path, environ: dict[str, str]) -> None:
    interpreter(tmp_path / "first" / "python3.13", "").write_text(BROKEN_SHIM)
    working = interpreter(tmp_path / "second" / "python3.13", "3 13")
    interpreter(tmp_path / "second" / "python3.12", "3 12")
    found = find_interpreter(environ)
    assert (found.path, found.version, str(found)) == (working, (3, 13), "Python 3.13")


def test_what_a_shim_stands_for_is_found_although_it_is_not_selected(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    interpreter(tmp_path / "first" / "python3.12", "").write_text(BROKEN_SHIM)
    versions = tmp_path / "pyenv" / "versions"
    installed = interpreter(versions / "3.12.1" / "bin" / "python3.12", "3 12")
    assert find_interpreter(environ).path == installed


def test_where_there_is_no_recent_one_it_is_the_one_that_runs_this(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    # Another program of that name, and one whose name says more than it is.
    interpreter(tmp_path / "first" / "python3.13", "hello")
    interpreter(tmp_path / "first" / "python3.12", "3 9")
    assert find_interpreter(environ).path == Path(sys.executable)


def test_this_one_works_and_one_that_is_not_there_does_not(tmp_path: Path) -> None:
    found = tried(Path(sys.executable))
    assert found and found.version == sys.version_info[:2]
    assert tried(tmp_path / "python3.13") is None


def test_a_folder_that_may_not_be_read_holds_none(tmp_path: Path, environ: dict[str, str]) -> None:
    hidden = tmp_path / "pyenv"
    interpreter(hidden / "versions" / "3.13.0" / "bin" / "python3.13", "3 13")
    hidden.chmod(0)
    program = (
        "import os, sys\n"
        "from orchestration.installation.interpreters import find_interpreter\n"
        # Root may read everything.
        "os.geteuid() or os.seteuid(65534)\n"
        f"print(find_interpreter({environ!r}).path)\n"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=PROJECT_ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    finally:
        hidden.chmod(0o700)
    assert (done.stdout, done.stderr) == (f"{sys.executable}\n", "")
