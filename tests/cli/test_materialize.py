"""Several runs from the command line: beside each other, cancelled, tried again, and told of."""

import json
import os
import pty
import re
import select
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from dagster import DagsterInstance

from orchestration import OrchestrationError
from orchestration.cli.main import main
from orchestration.cli.selection import Catalog
from tests.harness.processes import ORCHESTRATION, PATIENCE, wait_until
from tests.harness.up_server import checkout_of, copy_project, pretend_done, write_products

# Each of the first two is done once the other one has begun.
COMMANDS = {
    name: f'cd "$DATA_ENGINEERING_ROOT/products"; {command}'
    for name, command in {
        "left": "touch left.begun; until [ -e right.begun ]; do sleep 0.02; done",
        "right": "touch right.begun; until [ -e left.begun ]; do sleep 0.02; done",
        "bad": "echo oh no; test -e mended",
        "slow": "touch slow.begun; sleep 60",
        "loud": "seq 100000; sleep 60",
        "broken": "true",
    }.items()
}


@dataclass(frozen=True)
class Workplace:
    project: Path
    env: dict[str, str]

    @property
    def products(self) -> Path:
        return checkout_of(self.project) / "products"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*ORCHESTRATION, "materialize", *arguments],
            cwd=self.project,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """A project of six products that are loaded already, in a folder with an umlaut."""
    folder = tmp_path_factory.mktemp("materialize") / "Städte und Flüsse"
    folder.mkdir()
    project = copy_project(folder)
    write_products(project, COMMANDS)
    for name in COMMANDS:
        pretend_done(project, name, "load")
    env = {
        **os.environ,
        "DATA_ENGINEERING_ROOT": str(checkout_of(project)),
        "DCPY_LIFECYCLE_DATA_DIR": str(project / ".lifecycle"),
        "DAGSTER_HOME": str(project / ".dagster-home"),
    }
    (project / ".dagster-home").mkdir()
    subprocess.run(
        [*ORCHESTRATION, "generate"], cwd=project, env=env, check=True, capture_output=True
    )
    yield Workplace(project, env)


def states_of(result: subprocess.CompletedProcess[str]) -> dict[str, str]:
    runs = [json.loads(line) for line in result.stdout.splitlines()]
    return {run["selection"]: run["state"] for run in runs}


def test_runs_go_on_beside_each_other_and_what_failed_can_be_tried_again(
    workplace: Workplace,
) -> None:
    names = ["left/build", "right/build", "bad/build"]
    result = workplace.run(*names, "main", "--jobs", "2", "--json")
    assert result.returncode == 1, result.stderr
    assert states_of(result) == {
        "left/build": "succeeded",
        "right/build": "succeeded",
        "bad/build": "failed",
    }
    told = json.loads(result.stdout.splitlines()[0])
    assert Path(told["results"][0]["path"]).is_dir()
    assert "Of 3 runs: 2 succeeded, 1 failed." in result.stderr

    (workplace.products / "mended").touch()
    again = workplace.run(*names, "main", "--retry-failed", "--json")
    assert again.returncode == 0, again.stderr
    assert states_of(again) == {"bad/build": "succeeded"}

    nothing = workplace.run(*names, "main", "--retry-failed")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert nothing.stderr == "Nothing that is selected has failed.\n"


def test_a_failure_is_one_sentence_which_comes_last(workplace: Workplace) -> None:
    result = workplace.run("left/package", "never_built")
    assert result.returncode == 1
    *_, last = result.stdout.splitlines()
    assert last.startswith("left/package failed. Product 'left': partition 'never_built' has no")
    assert result.stdout.count("has no build") == 1
    assert "Traceback" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import os\ndef (\n", ":2: SyntaxError: "),
        ("import os\nos._exit(3)\n", ": Its process ended with exit code 3 while loading; "),
        ("import os\nos.abort()\n", ": Its process was ended by SIGABRT while loading; "),
    ],
)
def test_a_teams_definitions_that_cannot_be_used_are_one_line_with_the_place(
    workplace: Workplace, text: str, said: str
) -> None:
    (workplace.products / "broken" / "definitions.py").write_text(text)
    result = workplace.run("broken/build", "main")
    assert result.returncode == 0, result.stderr
    [line] = [line for line in result.stdout.splitlines() if "definitions.py" in line]
    assert line.strip().startswith(f"products/broken/definitions.py{said}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_is_a_cancelled_run_and_one_line(
    workplace: Workplace, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = workplace.products / "slow.begun"
    begun.unlink(missing_ok=True)
    process = subprocess.Popen(
        [*ORCHESTRATION, "materialize", "slow/build", "main"],
        cwd=workplace.project,
        env=workplace.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with process:
        assert wait_until(begun.exists)
        # As Ctrl-C does, which goes to all that the terminal sees.
        os.killpg(process.pid, number)
        output, _ = process.communicate(timeout=PATIENCE)
    first, _, *rest = output.splitlines()
    assert rest == ["slow/build was interrupted, and what it had started was ended."]
    assert process.returncode == 128 + number
    monkeypatch.setenv("DAGSTER_HOME", workplace.env["DAGSTER_HOME"])
    with DagsterInstance.get() as instance:
        run = instance.get_run_by_id(first.split()[-1])
    assert run
    assert run.status.value == "CANCELED"


def test_a_pipe_that_nobody_reads_does_not_keep_it_from_ending(workplace: Workplace) -> None:
    nobody, output = os.pipe()
    process = subprocess.Popen(
        [*ORCHESTRATION, "materialize", "loud/build", "main"],
        cwd=workplace.project,
        env=workplace.env,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
    )
    with process:
        assert wait_until(lambda: not select.select([], [output], [], 0)[1])
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
    os.close(output)
    os.close(nobody)


def test_at_a_terminal_there_are_colours_and_what_goes_on(workplace: Workplace) -> None:
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [*ORCHESTRATION, "materialize", "left/build", "right/build", "main", "--jobs", "2"],
        cwd=workplace.project,
        env={**workplace.env, "TERM": "xterm-256color", "COLUMNS": "80"},
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=subprocess.STDOUT,
    )
    os.close(terminal)
    shown = b""
    try:
        while chunk := os.read(controller, 65_536):
            shown += chunk
    except OSError:
        # So Linux says that nobody has the terminal open any more.
        pass
    os.close(controller)
    assert process.wait(20) == 0
    text = shown.decode()
    assert re.search(r"\x1b\[[0-9;]*32m.*succeeded in", text)
    assert re.search(r"0:00:0\d.*left/build", text)
    assert "left/build: .lifecycle/builds/left/main/build" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["main"], "Nothing is selected."),
        (
            ["left/plan"],
            "The partition is missing. Write it after what is selected: left/plan main",
        ),
        (["bpl_libraries", "v1"], "Did you mean ingest/bpl_libraries?"),
        (["--config", "nowhere.yml", "left", "main"], "neither a file nor a mapping"),
        (["--latest", "ingest/bpl_libraries", "v1"], "--latest needs --push"),
        (["--config", "[1]", "left", "main"], "must be a mapping"),
        (["--config", "{", "left", "main"], "cannot be read"),
        (["--config", "psuh: true", "ingest/bpl_libraries", "v1"], "no option psuh"),
        (["lfet", "main"], "Did you mean left?"),
        (["left/biuld", "main"], "Did you mean left/build?"),
        (["bpl_library", "v1"], "Did you mean ingest/bpl_libraries?"),
        (["--owner", "nobody", "main"], "--owner names nobody"),
        (["--group", "lfet", "main"], "Did you mean left?"),
        (["left", "right", "2026.1-"], "a build note after it"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is(
    workplace: Workplace,
    arguments: list[str],
    said: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("DATA_ENGINEERING_ROOT", "DCPY_LIFECYCLE_DATA_DIR", "DAGSTER_HOME"):
        monkeypatch.setenv(name, workplace.env[name])
    assert main(["materialize", *arguments]) != 0
    told = capfd.readouterr()
    assert said in told.err
    assert told.out == ""


def test_what_is_selected_twice_is_run_once_and_ingest_comes_first(checkout: Path) -> None:
    catalog = Catalog(checkout)
    chosen = catalog.choose(
        ["libraries/plan", "libraries/build", "ingest/bpl_libraries"], owners=["budget"]
    )
    assert [selection.name for selection in chosen] == [
        "ingest/bpl_libraries",
        "libraries/plan+build",
        "capital_projects",
    ]
    assert [selection.name for selection in catalog.choose(everything=True)] == [
        "libraries",
        "park_access",
        "capital_projects",
    ]
    assert len(catalog.choose(groups=["ingest", "libraries"])) == 8
    with pytest.raises(OrchestrationError, match="Nothing is selected"):
        catalog.choose()


def test_a_product_comes_after_the_templates_that_it_takes_in(checkout: Path) -> None:
    catalog = Catalog(checkout)
    assert catalog.upstream(catalog.select("libraries")) == {
        "bpl_libraries",
        "nypl_libraries",
        "qpl_libraries",
    }
    assert catalog.upstream(catalog.select("libraries/build")) == set()
