"""A version once good stays good: whatever ends a later attempt at it, and whenever."""

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest
import yaml
from dagster import AssetKey

from orchestration.catalog.checkout import products_file
from orchestration.catalog.products import read_products_file
from orchestration.definitions.product import product_definitions
from orchestration.generator.generate import generate
from orchestration.generator.render import LOCATIONS, WORKSPACE, render
from orchestration.lifecycle.results import staged
from tests.harness.forks import (
    Fork,
    at_instruction,
    command_of,
    descendants,
    forked,
    kill_self,
    on_instructions,
)
from tests.harness.materializing import failure_of, tried_once
from tests.harness.processes import is_running, tree, wait_until
from tests.harness.up_server import (
    Server,
    checkout_of,
    copy_project,
    pretend_done,
    serving,
    started,
    write_products,
)

KILLS = 50
BUILD = "2026.1-1_first"
PARTS = 12
PART_BYTES = 20_000
# Every part of a build holds that build's number, and nothing else.
BUILD_SCRIPT = f"""
import os, time
folder = os.environ["DATA_ENGINEERING_ROOT"] + "/products/libraries/"
number = str(time.time_ns())
print(number)
for part in range({PARTS}):
    with open(f"{{os.environ['BUILD_ENV_OUTPUT_DIR']}}/{{part}}.part", "w") as file:
        while file.tell() < {PART_BYTES}:
            file.write(number + "\\n")
        file.flush()
        time.sleep(0.01)
    if part == {PARTS // 2} and os.path.exists(folder + "pause"):
        open(folder + "paused", "w").close()
        while os.path.exists(folder + "pause"):
            time.sleep(0.01)
"""


def read_build(folder: Path) -> str:
    """The number of the one build whose whole output lies in the folder."""
    [number] = (folder / "build.log").read_text().split()
    for part in range(PARTS):
        text = (folder / f"{part}.part").read_text()
        assert len(text) >= PART_BYTES, f"part {part} ends after {len(text)} bytes"
        assert set(text.split("\n")) == {number, ""}, f"part {part} is of another build"
    return number


def read_ingest(folder: Path) -> str:
    """The folder's name, where all that an ingest leaves lies in it."""
    assert "Running processing step 'rename_columns'" in (folder / "ingest.log").read_text()
    for name in ("definition.lock.json", "bpl_libraries/config.json"):
        assert (folder / name).stat().st_size > 0
    parquet = (folder / "bpl_libraries" / "bpl_libraries.parquet").read_bytes()
    # The format begins and ends with its name.
    assert parquet[:4] == parquet[-4:] == b"PAR1"
    return folder.name


class Reader:
    """Reads a result over and over while it is made anew, and keeps what it saw."""

    def __init__(self, result: Path, read: Callable[[Path], str]) -> None:
        self.reads = 0
        self.seen: set[str] = set()
        self.wrong: list[str] = []
        self._result, self._read = result, read
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ended.wait(0.02):
            try:
                self.seen.add(self._read(self._result.resolve(strict=True)))
            except Exception as error:
                self.wrong.append(f"{type(error).__name__}: {error}")
            self.reads += 1

    def __enter__(self) -> "Reader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


@pytest.fixture
def env(
    lifecycle: Path, checkout: Path, sample_dcpy: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """A checkout whose libraries are built in parts, with one load to build from."""
    monkeypatch.setenv("DATA_ENGINEERING_ROOT", str(checkout))
    (checkout / "products" / "libraries" / "build.py").write_text(BUILD_SCRIPT)
    load = lifecycle / "builds" / "libraries" / BUILD / "load"
    load.mkdir(parents=True)
    (load / "recipe.lock.yml").write_text("version: '2026.1'\n")
    # The checkout has no dcpy; an interpreter that somebody chose may bring its own.
    dcpy = {"DCPY_PYTHON": sys.executable, **sample_dcpy}
    return {"DCPY_LIFECYCLE_DATA_DIR": str(lifecycle), **dcpy}


def wait_for_end(fork: Fork, seconds: float) -> None:
    """Waits for the time, or less where the run ends earlier."""
    wait_until(lambda: not fork.is_running, seconds)


def wait_for_any(fork: Fork, folder: Path, pattern: str) -> None:
    """Waits for a file of the folder, or the run's end."""
    wait_until(lambda: any(folder.glob(pattern)) or not fork.is_running)


def kill_one_of(fork: Fork, chosen: random.Random) -> bool:
    """Kills the run's process, or one of its step's, which may not stay; whether that ended it."""
    below = fork.descendants()
    reapers = {pid for pid in below if b"reaper.py" in command_of(pid)}
    step = reapers.union(*map(descendants, reapers))
    with suppress(ProcessLookupError):
        os.kill(chosen.choice([fork.pid, *sorted(step)]), signal.SIGKILL)
    status = fork.wait(20)
    assert wait_until(lambda: not any(map(is_running, below)), 5)
    return status != 0


def build_libraries() -> bool:
    """Builds the libraries, in an instance of its own; False where that fails."""
    definitions = product_definitions(
        id="libraries", build_command="python build.py", path="libraries"
    )
    return failure_of([definitions.get_assets_def(AssetKey(["libraries", "build"]))], BUILD) is None


def ingest_branches() -> bool:
    """Ingests a template as the command line does; False where that fails."""
    return tried_once(["materialize", "ingest/bpl_libraries", "20260101"]) == 0


@pytest.mark.long
@pytest.mark.parametrize(
    ("make", "result", "read", "kills"),
    [
        (build_libraries, f"builds/libraries/{BUILD}/build", read_build, KILLS * 4 // 5),
        (ingest_branches, "ingest/bpl_libraries/20260101", read_ingest, KILLS // 5),
    ],
    ids=["build", "ingest"],
)
def test_a_reader_finds_a_whole_result_whatever_is_killed_while_it_is_made_anew(
    tmp_path: Path,
    lifecycle: Path,
    env: Mapping[str, str],
    make: Callable[[], bool],
    result: str,
    read: Callable[[Path], str],
    kills: int,
) -> None:
    chosen = random.Random(20260101)
    link = lifecycle / result

    def making() -> AbstractContextManager[Fork]:
        return forked(succeeds, make, log=tmp_path / "runs.log", env=env)

    def seconds_to_make() -> float:
        started = time.monotonic()
        with making() as fork:
            assert fork.wait() == 0, fork.output
        return time.monotonic() - started

    seconds_to_make()
    seconds = seconds_to_make()
    first = read(link.resolve())
    with Reader(link, read) as reader:
        struck = attempts = 0
        while struck < kills:
            attempts += 1
            assert attempts < 3 * kills, f"of {attempts} kills {struck} have struck"
            with making() as fork:
                if attempts % 2:
                    # In the step's own work, which is a part of the whole only.
                    wait_for_any(fork, link.parent, f".{link.name}.*.log")
                    wait_for_end(fork, chosen.uniform(0, seconds / 3))
                else:
                    wait_for_end(fork, chosen.uniform(0, seconds))
                struck += kill_one_of(fork, chosen)
        seconds_to_make()
    assert reader.wrong == []
    assert reader.reads > kills
    assert {first, read(link.resolve())} <= reader.seen


def test_an_ingest_that_fails_leaves_the_earlier_result(
    tmp_path: Path, lifecycle: Path, checkout: Path, env: Mapping[str, str]
) -> None:
    def making() -> AbstractContextManager[Fork]:
        return forked(succeeds, ingest_branches, log=tmp_path / "runs.log", env=env)

    with making() as fork:
        assert fork.wait() == 0, fork.output
    result = lifecycle / "ingest" / "bpl_libraries" / "20260101"
    before = tree(result.resolve())
    template = checkout / "ingest_templates" / "bpl_libraries.yml"
    template.write_text(template.read_text().replace("rename_columns", "rename_rows"))
    with making() as fork:
        assert fork.wait() == 1
        assert "bpl_libraries.yml" in fork.output
    assert tree(result.resolve()) == before


@pytest.mark.long
def test_a_result_stays_whole_whatever_of_a_running_up_is_killed_while_it_is_made_anew(
    tmp_path: Path,
) -> None:
    project = copy_project(tmp_path)
    write_products(project, {"libraries": "python build.py"})
    pretend_done(project, "libraries", "load")
    folder = checkout_of(project) / "products" / "libraries"
    (folder / "build.py").write_text(BUILD_SCRIPT)
    pause, paused = folder / "pause", folder / "paused"
    result = project / ".lifecycle" / "builds" / "libraries" / "main" / "build"

    def build(server: Server) -> str:
        run = server.launch("libraries", "build", partition="main")
        server.wait_for_run(run)
        return read_build(result.resolve())

    def begin_to_build(server: Server) -> str:
        paused.unlink(missing_ok=True)
        pause.touch()
        run = server.launch("libraries", "build", partition="main")
        assert wait_until(paused.exists)
        return run

    options = ("--no-watch", "--only", "libraries")
    with started(project, *options) as server:
        server.wait_until_up("libraries")
        first = build(server)
        with Reader(result, read_build) as reader:
            run = begin_to_build(server)
            below = descendants(server.run_pid(run))
            [step] = [pid for pid in below if command_of(pid).endswith(b"\0build.py\0")]
            os.kill(step, signal.SIGKILL)
            server.wait_for_run(run, "FAILURE")

            run = begin_to_build(server)
            os.kill(server.run_pid(run), signal.SIGKILL)
            server.wait_for_run(run, "FAILURE")

            run = begin_to_build(server)
            server.cancel(run)
            server.wait_for_run(run, "CANCELED")

            run = begin_to_build(server)
            assert server.stop(signal.SIGKILL) == -signal.SIGKILL
        assert (reader.seen, reader.wrong) == ({first}, [])
        assert read_build(result.resolve()) == first

    pause.unlink()
    with serving(project, *options, locations=["libraries"]) as server:
        assert server.run_status(run) == "FAILURE"
        second = build(server)
        with Reader(result, read_build) as reader:
            run = begin_to_build(server)
            os.kill(server.wake("libraries"), signal.SIGKILL)
            # The run's process is none of the server's: it goes on.
            pause.unlink()
            server.wait_for_run(run)
        assert reader.wrong == []
        assert second in reader.seen
        assert read_build(result.resolve()) not in (first, second)


def succeeds(work: Callable[[], bool]) -> int:
    """The exit code of a process that does the work."""
    return 0 if work() else 1


def write_numbered(result: Path, number: int) -> None:
    """Publishes a result that holds the number in two files."""
    with staged(result, "build") as staging:
        (staging.folder / "data.csv").write_text(str(number))
        staging.log.write_text(str(number))


def number_in(result: Path) -> int:
    """The number that a whole result holds."""
    [number] = {(result / name).read_text() for name in ("data.csv", "build.log")}
    return int(number)


def interrupt() -> None:
    raise KeyboardInterrupt


def check_every_instruction(result: Path, strike: Callable[[], None]) -> None:
    """Has something strike before each instruction of a publication in turn."""
    write_numbered(result, -1)
    last = -1
    for number in range(10_000):
        if (pid := os.fork()) == 0:
            sys.settrace(at_instruction(number, "orchestration.lifecycle.results", strike))
            try:
                write_numbered(result, number)
            except KeyboardInterrupt:
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        found = number_in(result.resolve(strict=True))
        assert found in (last, number), f"{found} after {last} and {number}"
        last = found
        if status == 0:
            break
    assert number > 100, "it was not struck at all"
    assert last == number, "it is published when nothing strikes any more"
    folders = [path for path in result.parent.iterdir() if path.is_dir() and not path.is_symlink()]
    assert len(folders) == 2, "the last result and the one before"


@pytest.mark.long
@pytest.mark.parametrize("strike", [interrupt, kill_self])
def test_a_result_is_whole_at_whichever_instruction_its_publication_ends(
    tmp_path: Path, strike: Callable[[], None]
) -> None:
    result = tmp_path / "results" / "v1"
    with forked(check_every_instruction, result, strike, log=tmp_path / "log") as fork:
        assert fork.wait() == 0, fork.output


def write_many_products(checkout: Path, count: int) -> None:
    products = [{"id": f"p {n}", "build_command": f"make {count}"} for n in range(count)]
    (checkout / "products" / "products.yml").write_text(yaml.safe_dump({"products": products}))


def count_instructions(checkout: Path, project: Path) -> None:
    """Generates, and prints how many instructions of the generator that takes."""
    reached = [0]
    sys.settrace(on_instructions("orchestration.generator.generate", reached.append))
    generate(checkout, project)
    sys.settrace(None)
    print(reached[-1])


def generate_until(checkout: Path, project: Path, number: int) -> None:
    """Generates, but is killed before the instruction of that number."""
    sys.settrace(at_instruction(number, "orchestration.generator.generate", kill_self))
    generate(checkout, project)


@pytest.mark.long
def test_every_generated_file_is_the_old_or_the_new_one_when_the_generator_is_killed(
    tmp_path: Path, project: Path, checkout: Path
) -> None:
    chosen = random.Random(20260101)

    def rendered() -> dict[Path, str]:
        return render(read_products_file(products_file(checkout)))

    def on_disk() -> dict[Path, str]:
        files = [project / WORKSPACE, *(project / LOCATIONS).glob("*.py")]
        return {path.relative_to(project): path.read_text() for path in files}

    package = LOCATIONS / "__init__.py"
    own = {package: on_disk()[package]}
    write_many_products(checkout, 8)
    with forked(count_instructions, checkout, project, log=tmp_path / "instructions") as fork:
        assert fork.wait() == 0, fork.output
    instructions = int(fork.output)
    states = set()
    for number in range(KILLS):
        old = on_disk()
        write_many_products(checkout, 4 + number % 8)
        new = rendered() | own
        # Every other one at the end, where the new files take their places.
        moment = chosen.randrange(instructions * 4 // 5 if number % 2 else 0, instructions)
        with forked(
            generate_until, checkout, project, moment, log=tmp_path / "generator.log"
        ) as fork:
            # One that writes fewer files may be done before.
            assert fork.wait() in (0, -signal.SIGKILL), fork.output
        found = on_disk()
        assert all(text in (old.get(path), new.get(path)) for path, text in found.items())
        named = yaml.safe_load(found[WORKSPACE])["load_from"]
        modules = [entry["python_module"]["module_name"] for entry in named]
        assert {Path(*name.split(".")).with_suffix(".py") for name in modules} <= set(found)
        states.add("old" if found == old else "new" if found == new else "between")
        generate(checkout, project)
        assert on_disk() == new
        assert not list(project.rglob("*.generating"))
    assert "between" in states, "it was never killed while it wrote"
