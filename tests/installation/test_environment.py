import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestration.catalog.checkout import state_folder
from orchestration.lifecycle.environment import problem_with_dcpy
from tests.harness.processes import tree, wait_until

PYPROJECT = """\
[project]
name = "dcpy"
version = "0.1"
dependencies = []
scripts = {dcpy = "dcpy.lifecycle.ingest.run:main"}
"""
RUN = "import dcpy\n\ndef main():\n    print(dcpy.__path__[0])\n"
GIT = "python-geosupport @ git+https://example.invalid/geosupport@0123"
INSTALL = (sys.executable, "-m", "orchestration.installation")


class Place:
    """A copy of the program, and checkouts whose dcpy needs nothing that has to be fetched."""

    def __init__(self, project: Path, folder: Path) -> None:
        self.project, self.folder = project, folder
        self.packages = folder / "packages"
        self.packages.mkdir()

    def checkout(self, name: str) -> Path:
        root = self.folder / name
        run = root / "dcpy" / "lifecycle" / "ingest" / "run.py"
        run.parent.mkdir(parents=True)
        run.write_text(RUN)
        (root / "ingest_templates").mkdir()
        (root / "pyproject.toml").write_text(PYPROJECT)
        return root

    def requires(self, root: Path, name: str, *lines: str) -> None:
        file = root / "admin" / "run_environment" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(["# compiled", *lines, "    # via dcpy", ""]))

    def package(self, name: str, version: str, *requires: str) -> None:
        """Adds a package to those that pip can have."""
        info = f"{name.replace('-', '_')}-{version}.dist-info"
        metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
        wheel = self.packages / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as file:
            file.writestr(f"{info}/METADATA", "\n".join(metadata) + "\n")
            file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            file.writestr(f"{info}/RECORD", "")

    def env(self, root: Path) -> dict[str, str]:
        return {
            **os.environ,
            "DATA_ENGINEERING_ROOT": str(root),
            # No test has pip ask anybody for anything.
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.packages),
            "PIP_CONFIG_FILE": os.devnull,
        }

    def install(self, root: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            INSTALL, cwd=self.project, env=self.env(root), capture_output=True, text=True
        )

    def environments(self, root: Path) -> Path:
        return state_folder({"DATA_ENGINEERING_ROOT": str(root)}, self.project) / ".dcpy"

    def current(self, root: Path) -> Path:
        """The environment that is in use."""
        return (self.environments(root) / "venv").resolve(strict=True)


@pytest.fixture
def place(project: Path, tmp_path: Path) -> Place:
    return Place(project, tmp_path)


@pytest.mark.long
def test_each_checkout_has_its_own_dcpy_which_is_kept_and_leads_to_it(
    place: Place, tmp_path: Path
) -> None:
    roots = [place.checkout("first, größer"), place.checkout("second")]
    for root in roots:
        place.requires(root, "requirements.in", "dbt-core", "dbt-nobody-has-it")
    before = [tree(root) for root in roots]
    for root in roots:
        os.chmod(root, 0o500)
        done = place.install(root)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.startswith(f"Installing the dcpy of {root} for Python 3.")
        # What only some builds need is no reason to have nothing.
        assert "warning: dbt-core, dbt-nobody-has-it cannot be installed (" in done.stdout
        assert "build commands that call dbt fail" in done.stdout
    made = [place.current(root) for root in roots]
    for root, environment in zip(roots, made, strict=True):
        again = place.install(root)
        assert (again.stdout, again.stderr) == ("", "")
        assert place.current(root) == environment
        said = subprocess.run(
            [environment / "bin" / "dcpy"],
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            encoding="utf-8",
        )
        assert said.stdout == f"{root / 'dcpy'}\n"
        python = environment / "bin" / "python"
        assert problem_with_dcpy((python, False), root=root, lifecycle=tmp_path) is None
    assert [tree(root) for root in roots] == before, "a checkout is only read"


@pytest.mark.long
def test_an_environment_is_made_anew_where_the_pins_have_changed_and_only_whole(
    place: Place,
) -> None:
    root = place.checkout("checkout")
    text = PYPROJECT.replace("dependencies = []", 'dependencies = ["small"]')
    (root / "pyproject.toml").write_text(text)
    for version in ("1.0", "2.0"):
        place.package("small", version)
    place.requires(root, "constraints.txt", "small==1.0", "never-needed==1")
    assert place.install(root).returncode == 0
    first = place.current(root)
    assert list(first.glob("lib/*/site-packages/small-1.0.dist-info"))

    place.requires(root, "constraints.txt", "small==2.0", "never-needed==1")
    with subprocess.Popen(
        INSTALL,
        cwd=place.project,
        env=place.env(root),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        begun = "venv-*/bin/python"
        assert wait_until(lambda: len([*place.environments(root).glob(begun)]) == 2)
        os.killpg(process.pid, signal.SIGKILL)
    assert place.current(root) == first, "what was interrupted is nobody's environment"

    assert place.install(root).returncode == 0
    second = place.current(root)
    assert list(second.glob("lib/*/site-packages/small-2.0.dist-info"))
    # A stage may still be at work with the first. It goes when the next is made.
    assert set(place.environments(root).glob("venv-*")) == {first, second}


@pytest.mark.long
def test_what_cannot_be_installed_is_a_sentence_and_leaves_nothing(place: Place) -> None:
    root = place.checkout("checkout")
    text = PYPROJECT.replace("dependencies = []", 'dependencies = ["nobody-has-it"]')
    (root / "pyproject.toml").write_text(text)
    done = place.install(root)
    log = place.environments(root) / "install.log"
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    for part in (f"The dcpy of {root} cannot be", "nobody-has-it", str(log), "DCPY_PYTHON"):
        assert part in done.stderr
    assert not list(place.environments(root).glob("venv*"))


@pytest.mark.long
def test_what_the_builds_call_is_installed_as_far_as_it_can_be_had(place: Place) -> None:
    root = place.checkout("checkout")
    place.package("dbt-core", "1.0", "dbt-parser")
    place.package("dbt-parser", "1.9")
    # Of the pinned one there is only the source, which needs something else to be built.
    source = place.folder / "dbt_parser-2.0"
    source.mkdir()
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["nobody-has-it"]\nbuild-backend = "nobody_has_it"\n'
    )
    shutil.make_archive(
        str(place.packages / source.name),
        "gztar",
        place.folder,
        str(source.relative_to(place.folder)),
    )
    place.requires(root, "constraints.txt", "dbt-core==1.0", "dbt-parser==2.0", GIT)
    place.requires(root, "requirements.in", "dbt-core", "streamlit", "python-geosupport @ git+x")
    done = place.install(root)
    assert done.returncode == 0, done.stderr
    packages = [path.name for path in place.current(root).glob("lib/*/site-packages/*.dist-info")]
    assert {"dbt_core-1.0.dist-info", "dbt_parser-1.9.dist-info"} <= set(packages)
    _, *warnings, _ = done.stdout.splitlines()
    assert warnings == [
        "warning: the pinned release of dbt-parser cannot be had: took another.",
        "warning: python-geosupport is not on the package index: build commands that need it "
        f"fail, unless you run `{place.current(root)}/bin/python -m pip install '{GIT}'`.",
    ]
    # Said once: nothing is installed again, and nothing said.
    assert place.install(root).stdout == ""


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: text.replace("dependencies = []", 'dynamic = ["dependencies"]'), "'dependen"),
        (lambda text: "[project", "table"),
        (lambda text: "", "'project'"),
    ],
)
def test_a_dcpy_that_does_not_say_what_it_needs_is_refused(
    place: Place, change: Callable[[str], str], problem: str
) -> None:
    root = place.checkout("checkout")
    (root / "pyproject.toml").write_text(change(PYPROJECT))
    done = place.install(root)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{root / 'pyproject.toml'} does not say under `project` what")
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1


def test_where_somebody_says_who_has_dcpy_nothing_is_installed(place: Place) -> None:
    root = place.checkout("checkout")
    env = place.env(root) | {"DCPY_PYTHON": sys.executable}
    assert subprocess.run(INSTALL, cwd=place.project, env=env).returncode == 0
    assert not place.environments(root).exists()


def test_a_checkout_of_data_alone_needs_nothing(place: Place) -> None:
    root = place.checkout("checkout")
    shutil.rmtree(root / "dcpy")
    done = place.install(root)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
