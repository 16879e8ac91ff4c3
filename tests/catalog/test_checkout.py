import subprocess
import sys
from pathlib import Path

import pytest

from orchestration import OrchestrationError
from orchestration.catalog.checkout import (
    PROJECT_ROOT,
    SAMPLE_ROOT,
    checkout_root,
    products_file,
    state_folder,
)

# As `python -m orchestration.catalog.checkout` does, without what is installed.
ASK = """
import runpy, sys
sys.path.insert(0, ".")
runpy.run_module("orchestration.catalog.checkout", run_name="__main__")
"""


def checkout_at(folder: Path) -> Path:
    (folder / "products").mkdir(parents=True)
    (folder / "products" / "products.yml").touch()
    return folder


def test_the_variable_wins_over_a_checkout_around_the_project(tmp_path: Path) -> None:
    project = checkout_at(tmp_path) / "project"
    assert checkout_root({"DATA_ENGINEERING_ROOT": "/chosen"}, project) == Path("/chosen")


def test_a_relative_root_means_the_same_after_a_change_of_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert checkout_root({"DATA_ENGINEERING_ROOT": "here"}) == tmp_path / "here"


def test_a_home_folder_is_understood_although_no_shell_expanded_it() -> None:
    root = checkout_root({"DATA_ENGINEERING_ROOT": "~/data-engineering"})
    assert root == Path.home() / "data-engineering"


@pytest.mark.parametrize("environ", [{}, {"DATA_ENGINEERING_ROOT": ""}])
def test_inside_a_checkout_the_nearest_one_is_taken(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    nearest = checkout_at(checkout_at(tmp_path / "outer") / "inner")
    assert checkout_root(environ, nearest / "apps" / "project") == nearest


def test_anywhere_else_the_bundled_sample_is_taken(tmp_path: Path) -> None:
    # make exports the variable empty where the user has not set it
    environ = {"DATA_ENGINEERING_ROOT": ""}
    project = tmp_path / "project"
    assert checkout_root(environ, project) == project / "sample" / "data-engineering"
    assert (SAMPLE_ROOT / "products" / "products.yml").is_file()


def test_a_project_whose_root_is_the_checkouts_serves_it(tmp_path: Path) -> None:
    assert checkout_root({}, checkout_at(tmp_path)) == tmp_path


@pytest.mark.parametrize("file", ["products/pluto/recipe-minor.yml", "ingest_templates/x.yml"])
def test_a_checkout_without_a_product_list_is_told_how_to_get_one(
    tmp_path: Path, file: str
) -> None:
    root = tmp_path / "data engineering"
    (root / file).parent.mkdir(parents=True)
    (root / file).touch()
    assert checkout_root({}, root / "orchestration") == root
    with pytest.raises(OrchestrationError) as error:
        products_file(root)
    assert str(error.value) == (
        f"{root} is a checkout without a product list, products/products.yml: "
        f"`make init DATA_ENGINEERING_ROOT='{root}'` (`python3 -m orchestration init`) writes one "
        "from its recipes."
    )


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_that_is_no_checkout_is_named_with_the_variable_to_set(
    tmp_path: Path, exists: bool
) -> None:
    folder = tmp_path / "folder"
    if exists:
        folder.mkdir()
        (folder / "products").touch()
    with pytest.raises(OrchestrationError) as error:
        products_file(folder)
    said = str(error.value)
    assert said.startswith(f"{folder} is not a data-engineering checkout: ")
    assert ("there is no such folder" in said) == (not exists)
    assert said.endswith(". Set DATA_ENGINEERING_ROOT to one.")


def test_a_checkout_has_the_same_state_however_it_is_named(tmp_path: Path) -> None:
    project = tmp_path / "project"
    first, second = checkout_at(tmp_path / "one" / "de"), checkout_at(tmp_path / "two" / "de")
    (tmp_path / "link").symlink_to(first)
    states = [
        state_folder({"DATA_ENGINEERING_ROOT": str(root)}, project)
        for root in (first, tmp_path / "link", first / ".." / "de", second)
    ]
    assert len(set(states[:3])) == 1
    assert states[3] != states[0]
    for state in states:
        assert state.parent == project / ".checkouts"


def test_the_checkout_that_needs_no_variable_has_its_state_in_the_project(tmp_path: Path) -> None:
    root = checkout_at(tmp_path)
    project = root / "orchestration"
    assert state_folder({}, project) == project
    assert state_folder({"DATA_ENGINEERING_ROOT": str(root)}, project) == project
    sample = project / SAMPLE_ROOT.relative_to(PROJECT_ROOT)
    assert state_folder({"DATA_ENGINEERING_ROOT": str(sample)}, project) != project


def asked(root: Path) -> "subprocess.CompletedProcess[str]":
    """What `make` gets for an answer, from an interpreter with nothing installed in it."""
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", ASK],
        cwd=PROJECT_ROOT,
        env={"DATA_ENGINEERING_ROOT": str(root)},
        capture_output=True,
        text=True,
    )


def test_make_can_ask_for_the_folder_before_anything_is_installed() -> None:
    assert asked(SAMPLE_ROOT).stdout == f"{SAMPLE_ROOT}\n"


def test_make_is_told_why_a_folder_cannot_be_served(tmp_path: Path) -> None:
    answer = asked(tmp_path)
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert answer.stderr.startswith(f"{tmp_path} is not a data-engineering checkout")
    assert answer.stderr.count("\n") == 1
