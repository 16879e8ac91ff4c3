"""The command line as a whole: whichever Python calls it, wherever, and how it speaks."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestration.catalog.checkout import PROJECT_ROOT, products_file
from orchestration.cli.main import COMMANDS, main
from tests.harness.processes import ORCHESTRATION, PATIENCE, orchestration

NAMES = [module.command.name or "" for module in COMMANDS]


@pytest.fixture
def bare_python(tmp_path: Path) -> str:
    """A Python that has nothing but its standard library."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    return str(tmp_path / "bare" / "bin" / "python")


def call(python: str, project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-m", "orchestration", *arguments],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_another_python_finds_the_projects_own(bare_python: str, project: Path) -> None:
    own = project / "orchestration" / "dagster" / ".venv" / "bin"
    own.mkdir(parents=True)
    (own / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (own / "python").chmod(0o755)
    result = call(bare_python, project, "generate", "--check")
    assert result.returncode == 0, result.stderr


def test_without_one_it_says_in_a_sentence_how_to_get_it(bare_python: str, project: Path) -> None:
    result = call(bare_python, project, "generate", "--check")
    assert result.returncode == 1
    assert result.stderr.startswith(f"{bare_python} has no Dagster, and ")
    assert "Run `make up`" in result.stderr
    assert result.stderr.count("\n") == 1


def test_help_is_quick_and_imports_nothing_that_takes_time() -> None:
    program = "import sys\nfrom orchestration.cli.main import main\n"
    listed = "print(*sorted({'dagster', 'rich', 'pydantic', 'yaml', 'jinja2'} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", f"{program}main(['--help'])\n{listed}"],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.stdout.endswith("\n\n"), result.stdout

    def seconds(*command: str) -> float:
        # Of the processor: the clock's would be those of all that runs beside this, too.
        before = os.times()
        subprocess.run(command, cwd=PROJECT_ROOT, stdout=subprocess.DEVNULL, check=True)
        after = os.times()
        return sum(after[2:4]) - sum(before[2:4])

    # That is 0.2 s where the processor is this one's alone.
    least = min(seconds(sys.executable, "-c", "import click") for _ in range(5))
    assert min(seconds(*ORCHESTRATION, "--help") for _ in range(5)) < 3 * least


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_a_help_with_an_example_in_80_columns(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([name, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"python3 -m orchestration {name}" in said.partition("Example")[2]
    assert max(map(len, said.splitlines())) <= 80


def test_a_command_that_there_is_not_is_an_error_of_usage(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["statsu"]) == 2
    assert "No such command 'statsu'" in capsys.readouterr().err


def test_it_works_in_a_folder_with_umlauts_and_spaces_in_an_ascii_locale(
    tmp_path: Path, project: Path, checkout: Path
) -> None:
    folder = tmp_path / "Städte & Flüsse"
    folder.mkdir()
    shutil.move(project, folder / "project")
    shutil.move(checkout, folder / "checkout")
    env = {
        **os.environ,
        "DATA_ENGINEERING_ROOT": str(folder / "checkout"),
        "LC_ALL": "POSIX",
        "PYTHONIOENCODING": "ascii",
    }
    result = subprocess.run(
        [sys.executable, "-m", "orchestration", "check"],
        cwd=folder / "project",
        env=env,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (result.returncode, result.stdout) == (0, ""), result.stderr


def _folder_as_list(root: Path) -> None:
    file = products_file(root)
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (shutil.rmtree, "there is no such folder"),
        (lambda root: products_file(root).unlink(), "without a product list"),
        (_folder_as_list, "is not a file"),
        (lambda root: products_file(root).write_text(""), "not an empty file"),
        (lambda root: products_file(root).write_bytes(b"caf\xe9: 1"), "not UTF-8"),
        (lambda root: products_file(root).write_text("products:\n\t- id: a"), "yml:2: not valid"),
    ],
)
@pytest.mark.parametrize(
    "command", ["list", "check", "generate", "new a", "materialize a main", "clean"]
)
def test_a_list_that_cannot_be_read_is_said_by_every_command(
    command: str,
    spoil: Callable[[Path], object],
    said: str,
    checkout: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATA_ENGINEERING_ROOT", str(checkout))
    spoil(checkout)
    assert main(command.split()) == 1
    printed = "".join(capfd.readouterr())
    assert said in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("command", ["check", "materialize libraries/plan main"])
def test_ctrl_c_is_never_a_traceback(command: str, project: Path, checkout: Path) -> None:
    environ = {
        **os.environ,
        "DATA_ENGINEERING_ROOT": str(checkout),
        "DAGSTER_HOME": str(project / "home"),
        "DCPY_LIFECYCLE_DATA_DIR": str(project / "lifecycle"),
    }
    for seconds in (0.2, 0.4, 0.6, 0.8, 1.0, 1.5):
        with subprocess.Popen(
            [sys.executable, "-m", "orchestration", *command.split()],
            cwd=project,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            with contextlib.suppress(ProcessLookupError):
                # As at a terminal, whose whole group hears of it.
                os.killpg(process.pid, signal.SIGINT)
            printed, _ = process.communicate(timeout=PATIENCE)
        # Until there is something to tidy up, it ends by the signal itself.
        assert process.returncode in (0, 130, -signal.SIGINT) or "failed" in printed, printed
        assert "Traceback" not in printed


COMPLETE = """
eval "$({python} -m orchestration completion bash)"
cd /
COMP_WORDS=(orchestration {words}) COMP_CWORD={count}
_orchestration
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("chec", {"check"}),
        ("status --js", {"--json"}),
        ("materialize lib", {"libraries"}),
        ("launch libraries/b", {"libraries/build"}),
        ("materialize ingest/bpl", {"ingest/bpl_libraries"}),
        ("compare lib", {"libraries"}),
        ("ingest --for libraries,par", {"libraries,park_access"}),
        ("completion z", {"zsh"}),
        ("materialize --owner facilities,op", {"facilities,open-space"}),
        ("launch --group cit", {"city_libraries"}),
        ("ingest --group cit", {"city_libraries"}),
        ("up --only park_access,ing", {"park_access,ingest"}),
        ("up --owner bud", {"budget"}),
        ("materialize libraries nig", {"nightly_qa"}),
        ("launch ingest/bpl_libraries libraries/plan ma", {"main"}),
        ("compare libraries main 2026.", {"2026.1-1_first"}),
        ("materialize ingest/bpl_libraries 2", {"20260101"}),
    ],
)
def test_bash_completes_in_any_folder(words: str, found: set[str], lifecycle: Path) -> None:
    (lifecycle / "builds" / "libraries" / "2026.1-1_first").mkdir(parents=True)
    (lifecycle / "ingest" / "bpl_libraries" / "20260101").mkdir(parents=True)
    script = COMPLETE.format(python=sys.executable, words=words, count=len(words.split()))
    result = subprocess.run(
        ["bash", "-c", script], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=PATIENCE
    )
    assert set(result.stdout.split("\n")[:-1]) == found, result.stderr


def test_the_function_that_completes_is_the_command() -> None:
    script = f'eval "$({sys.executable} -m orchestration completion bash)"; cd /; orchestration -h'
    result = subprocess.run(
        ["bash", "-c", script], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=PATIENCE
    )
    assert result.stdout == orchestration("--help").stdout
