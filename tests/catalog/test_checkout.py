import subprocess
import sys
from pathlib import Path

import pytest

from orchestration import OrchestrationError
from orchestration.catalog.checkout import PROJECT_ROOT, SAMPLE_ROOT, checkout_root, products_file


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


def test_a_folder_that_is_no_checkout_is_named_with_the_variable_to_set(tmp_path: Path) -> None:
    with pytest.raises(OrchestrationError) as error:
        products_file(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "DATA_ENGINEERING_ROOT" in str(error.value)


def test_the_makefile_can_ask_for_the_folder() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "orchestration.catalog.checkout"],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout == f"{SAMPLE_ROOT}\n"
