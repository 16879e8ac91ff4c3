"""Answers that are kept from one start to the next: never a stale one."""

import os
import selectors
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

from orchestration.catalog.checkout import SAMPLE_ROOT
from orchestration.code_servers.code_location import CodeLocation
from orchestration.code_servers.dependencies import installation_of
from orchestration.code_servers.states import LocationState
from orchestration.processes.control import Caller, Served
from orchestration.processes.forkserver import Forkserver
from orchestration.server.supervisor import any_location
from tests.harness.processes import wait_until
from tests.harness.up_server import copy_project, serving

PRODUCT = "park_access"
TEAM = """
import {imported}
import dagster as dg

@dg.asset(description=str({value}))
def of_the_team() -> None: ...

defs = dg.Definitions(assets=[of_the_team])
"""


@pytest.fixture(scope="module")
def forkserver() -> Forkserver:
    return Forkserver(True, any_location)


@cache
def installed() -> str | None:
    """What every location depends on, as of the first start."""
    return installation_of(list(sys.modules.values()), time.time())


@dataclass
class Start:
    """Starts of `up`, as far as one location notices them."""

    forkserver: Forkserver
    folder: Path
    checkout: Path
    selector: selectors.BaseSelector
    env: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    @property
    def product(self) -> Path:
        return self.checkout / "products" / PRODUCT

    @property
    def answers(self) -> Path:
        return self.folder / "answers.zip"

    def location(self) -> CodeLocation:
        self.served: list[Served] = []
        return CodeLocation(
            PRODUCT,
            path=self.folder / "1",
            answers=self.answers,
            installation=installed(),
            address="",
            forkserver=self.forkserver,
            selector=self.selector,
            env=self.env,
            files_state=lambda: None,
            memory_limit=lambda: None,
            interpreter=lambda: None,
            has_definitions=lambda: False,
            publish=self.served.append,
        )

    def is_kept(self, *, problem: str | None = None) -> bool:
        """Whether the location is served without being loaded; loads it where it is not.

        `problem` is what makes it broken.
        """
        location = self.location()
        location.take_kept()
        if self.served:
            return True
        # What pytest has as output is a file that a fork closes.
        output = os.fdopen(1, "w", closefd=False)
        with output, redirect_stdout(output), redirect_stderr(output):
            location.start_loading()

        def is_served() -> bool:
            location.watch()
            return bool(self.served)

        assert wait_until(is_served, 60)
        found = location.problem
        assert found is None if problem is None else problem in (found or ""), found
        return False


@pytest.fixture
def start(forkserver: Forkserver, tmp_path: Path) -> Iterator[Start]:
    checkout = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("__pycache__", "dcpy", "*.egg-info")
    shutil.copytree(SAMPLE_ROOT, checkout, ignore=ignored)
    (checkout / "products" / PRODUCT / "definitions.py").unlink()
    with selectors.DefaultSelector() as selector:
        start = Start(forkserver, tmp_path, checkout, selector)
        start.env["DATA_ENGINEERING_ROOT"] = str(checkout)
        yield start


def settled(path: Path, text: str) -> None:
    """Writes a file, and waits until it is older than what is loaded next."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path)
    assert wait_until(lambda: time.time() - path.stat().st_ctime > 0.1)


def restore(path: Path, text: str) -> None:
    """Puts other content in a file, of the same length, with the time that it had."""
    times = path.stat()
    assert len(text) == times.st_size
    path.write_text(text)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def assert_only_loaded_anew_after(start: Start, change: Callable[[], object]) -> None:
    assert not start.is_kept()
    assert start.is_kept()
    before = start.served
    change()
    assert not start.is_kept()
    assert start.served[-1].id
    assert start.is_kept()
    assert before[-1].answers == start.served[-1].answers


@pytest.mark.parametrize(
    "name",
    [
        f"products/{PRODUCT}/recipe.yml",
        f"products/{PRODUCT}/recipe-base.yml",
        "ingest_templates/dpr_parks.yml",
    ],
)
def test_a_changed_recipe_base_recipe_or_template(start: Start, name: str) -> None:
    path = start.checkout / name
    text = path.read_text()
    assert_only_loaded_anew_after(start, lambda: path.write_text(f"# changed\n{text}"))


def test_a_template_that_is_gone(start: Start) -> None:
    template = start.checkout / "ingest_templates" / "dpr_parks.yml"
    assert_only_loaded_anew_after(start, template.unlink)


def test_definitions_that_were_not_there(start: Start) -> None:
    text = TEAM.format(imported="math", value="math.pi")
    path = start.product / "definitions.py"
    assert_only_loaded_anew_after(start, lambda: settled(path, text))


def test_a_changed_import_of_an_import(start: Start) -> None:
    settled(start.product / "second.py", "VALUE = 1\n")
    settled(start.product / "first.py", "from second import VALUE\n")
    team = TEAM.format(imported="first", value="first.VALUE")
    settled(start.product / "definitions.py", team)
    changed = start.product / "second.py"
    assert_only_loaded_anew_after(start, lambda: settled(changed, "VALUE = 22\n"))


@pytest.mark.parametrize("becomes", ["1\n", "22\n"])
def test_a_sleeping_location_answers_with_the_code_that_is_woken(
    start: Start, becomes: str
) -> None:
    """Where nobody watches, such as an import of an import, answers of before went on."""
    changed = start.product / "second.py"
    settled(changed, "VALUE = 1\n")
    settled(start.product / "first.py", "from second import VALUE\n")
    settled(start.product / "definitions.py", TEAM.format(imported="first", value="first.VALUE"))
    assert not start.is_kept()
    location = start.location()
    location.take_kept()
    settled(changed, f"VALUE = {becomes}")
    asking, answering = socket.socketpair()
    with asking, open(os.devnull, "w") as output, redirect_stdout(output):
        location.wake(Caller(answering))
        is_loaded_anew = location.state is LocationState.LOADING
        location.end()

        def is_over() -> bool:
            location.watch()
            return not location.services

        assert wait_until(is_over)
    assert is_loaded_anew == (becomes != "1\n")


def test_a_file_that_is_put_back_with_the_time_it_had(start: Start) -> None:
    recipe = start.product / "recipe.yml"
    text = recipe.read_text()
    assert_only_loaded_anew_after(start, lambda: restore(recipe, text.replace("dpr", "dpx")))


def test_a_module_that_is_found_instead_of_another(start: Start) -> None:
    settled(start.product / "ours.py", "VALUE = 1\n")
    settled(start.product / "definitions.py", TEAM.format(imported="ours", value="ours.VALUE"))
    package = start.product / "ours" / "__init__.py"
    assert_only_loaded_anew_after(start, lambda: settled(package, "VALUE = 2\n"))


def test_a_module_that_was_not_there(start: Start) -> None:
    text = "try:\n    import ours\nexcept ImportError:\n    pass\n"
    settled(start.product / "definitions.py", text + TEAM.format(imported="math", value="1"))
    assert_only_loaded_anew_after(start, lambda: settled(start.product / "ours.py", ""))


def test_a_changed_package(start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    settled(packages / "theirs" / "__init__.py", "from theirs.deep import VALUE\n")
    settled(packages / "theirs" / "deep.py", "VALUE = 1\n")
    settled(start.product / "definitions.py", TEAM.format(imported="theirs", value="theirs.VALUE"))
    # Dagster takes away the first, which is usually a script's.
    monkeypatch.setattr(sys, "path", [*sys.path, str(packages)])
    deep = packages / "theirs" / "deep.py"
    assert_only_loaded_anew_after(start, lambda: settled(deep, "VALUE = 22\n"))


@pytest.mark.parametrize(
    "value", ["os.environ['HUE']", "os.getenv('HUE')", "'HUE' in os.environ", "{**os.environ}"]
)
@pytest.mark.parametrize("other", ["blue", None])
def test_a_changed_variable(start: Start, value: str, other: str | None) -> None:
    start.env["HUE"] = "red"
    settled(start.product / "definitions.py", TEAM.format(imported="os", value=value))
    if other:
        assert_only_loaded_anew_after(start, lambda: start.env.update(HUE=other))
    elif "[" not in value:
        assert_only_loaded_anew_after(start, lambda: start.env.pop("HUE"))


def test_a_variable_that_nobody_reads_may_change(start: Start) -> None:
    assert not start.is_kept()
    start.env["HUE"] = "blue"
    assert start.is_kept()


@pytest.mark.parametrize(
    "value",
    [
        "pathlib.Path('{folder}/given').exists()",
        "sorted(pathlib.Path('{folder}').iterdir())",
        "[*pathlib.Path('{folder}').glob('g*')]",
        "__import__.__name__ if 0 else open('{folder}/list').read()",
    ],
)
def test_a_file_that_appears_or_changes(start: Start, tmp_path: Path, value: str) -> None:
    folder = tmp_path / "read"
    settled(folder / "list", "a\n")
    value = value.replace("__import__.__name__ if 0 else ", "").format(folder=folder)
    settled(start.product / "definitions.py", TEAM.format(imported="pathlib", value=value))

    def change() -> None:
        settled(folder / "given", "")
        settled(folder / "list", "b\n")

    assert_only_loaded_anew_after(start, change)


@pytest.mark.parametrize(
    ("imported", "value"),
    [
        ("time", "time.time()"),
        ("datetime", "datetime.datetime.now()"),
        ("datetime", "getattr(datetime.date, 'to' + 'day')()"),
        ("random", "random.random()"),
        ("subprocess", "subprocess.check_output('true')"),
        ("os", "os.system('true')"),
        ("os", "os.stat('/').st_mtime"),
        ("socket", "socket.create_connection(('127.0.0.1', {port})).close()"),
        ("pathlib", "pathlib.Path('{folder}/new').write_text('')"),
        ("pathlib", "pathlib.Path('/proc/uptime').read_text()"),
        ("sqlite3", "sqlite3.connect(':memory:').close()"),
    ],
)
def test_what_cannot_be_known_is_not_kept(
    start: Start, tmp_path: Path, imported: str, value: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        value = value.format(port=listener.getsockname()[1], folder=tmp_path)
        text = TEAM.format(imported=imported, value=value)
        settled(start.product / "definitions.py", text)
        assert not start.is_kept()
        assert not start.is_kept()


def test_a_broken_location_is_tried_again(start: Start) -> None:
    settled(start.product / "definitions.py", "import os\nos._exit(3)\n")
    assert not start.is_kept(problem="exit code 3")
    assert not start.is_kept(problem="exit code 3")


def test_definitions_that_cannot_be_used_until_they_are_mended(start: Start) -> None:
    team = start.product / "definitions.py"
    settled(team, "raise RuntimeError('of no use')\n")
    mended = TEAM.format(imported="math", value="math.pi")
    assert_only_loaded_anew_after(start, lambda: settled(team, mended))


def test_no_value_of_a_variable_is_written_down(start: Start) -> None:
    start.env["TOKEN"] = "such-a-secret"
    text = TEAM.format(imported="os", value="len(os.environ['TOKEN'])")
    settled(start.product / "definitions.py", text)
    assert not start.is_kept()
    assert start.is_kept()
    kept = b"".join(path.read_bytes() for path in start.folder.glob("answers.*"))
    assert b"TOKEN" in kept
    assert b"such-a-secret" not in kept


def test_a_damaged_file_is_as_none(start: Start) -> None:
    assert not start.is_kept()
    assert start.is_kept()
    whole, identity = start.answers.read_bytes(), start.served[-1].id
    for place in range(0, len(whole), max(1, len(whole) // 400)):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        for content in (bytes(damaged), whole[:place]):
            start.answers.write_bytes(content)
            start.location().take_kept()
            assert all(served.id == identity for served in start.served)
    start.answers.write_bytes(b"")
    assert not start.is_kept()
    assert start.is_kept()


def test_what_it_said_is_said_again(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    text = TEAM.format(imported="os", value="print('Mind!')")
    settled(start.product / "definitions.py", text)
    assert not start.is_kept()
    assert capfd.readouterr().out == f"[{PRODUCT}] Mind!\n"
    assert start.is_kept()
    assert capfd.readouterr().out == f"[{PRODUCT}] Mind!\n"


def test_every_package_that_is_imported_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def installation() -> str | None:
        return installation_of(list(sys.modules.values()), time.time())

    monkeypatch.syspath_prepend(str(tmp_path))
    settled(tmp_path / "installed_here.py", "VALUE = 1\n")
    monkeypatch.setitem(sys.modules, "installed_here", __import__("installed_here"))
    before = installation()
    assert before
    assert installation() == before
    restore(tmp_path / "installed_here.py", "VALUE = 2\n")
    assert wait_until(lambda: installation() not in (None, before))
    changed = installation()
    settled(tmp_path / "found_before_another.py", "")
    assert installation() != changed
    started = time.time()
    restore(tmp_path / "installed_here.py", "VALUE = 3\n")
    assert installation_of(list(sys.modules.values()), started) is None


@pytest.mark.long
def test_the_second_start_loads_what_has_changed_and_nothing_else(tmp_path: Path) -> None:
    project = copy_project(tmp_path)
    with serving(project) as server:
        server.wait_for(lambda: len(server.loads()) == 4)
        first = server.loads()
        server.wake("libraries")
    kept = project / ".dagster" / "answers"
    assert kept.stat().st_mode & 0o077 == 0
    (kept / "removed_product.zip").write_bytes(b"")
    (kept / ".libraries.zip.0123").write_bytes(b"")
    recipe = server.product_folder("park_access") / "recipe.yml"
    recipe.write_text(f"# changed\n{recipe.read_text()}")
    with serving(project) as server:
        second = server.loads()
        # Who takes a template in owns it, so that `ingest` has read the recipe, too.
        loaded_anew = {name for name in first if first[name] != second[name]}
        assert loaded_anew == {"ingest", "park_access"}
        assert second.keys() == first.keys()
        assert not list(kept.glob(".*"))
        server.wake("libraries")
        server.reload("libraries")
        server.wait_for(lambda: server.loads()["libraries"] != first["libraries"])
