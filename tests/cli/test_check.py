"""All that is wrong with a checkout is found at once, with its place, and nothing is run."""

import json
import shutil
from pathlib import Path

import pytest

from tests.harness.processes import orchestration, tree

BROKEN_TEMPLATE = "id: broken\n  name: x\n"


@pytest.fixture
def broken(checkout: Path) -> Path:
    """A checkout with a mistake of each kind."""
    products = checkout / "products"
    (checkout / "ingest_templates" / "broken.yml").write_text(BROKEN_TEMPLATE)
    (products / "libraries" / "definitions.py").write_text("import os\ndef (\n")
    (products / "park_access" / "definitions.py").write_text("import os\n\nos._exit(3)\n")
    (products / "capital-projects" / "recipe.yml").unlink()
    (products / "capital-projects" / "definitions.py").write_text(
        "import dagster as dg\n"
        "defs = dg.Definitions(assets=[dg.AssetsDefinition.from_graph], jobs=1 / 0)\n"
    )
    return checkout


def test_a_good_checkout_has_no_problem(checkout: Path) -> None:
    before = tree(checkout)
    result = orchestration("check", env={"DATA_ENGINEERING_ROOT": str(checkout)})
    assert result.returncode == 0, result.stdout
    assert result.stdout == ""
    assert result.stderr == "3 products, 7 ingest templates: no problem\n"
    assert tree(checkout) == before


def test_each_problem_has_its_place_for_people_and_for_programs(broken: Path) -> None:
    env = {"DATA_ENGINEERING_ROOT": str(broken)}
    result = orchestration("check", "--json", env=env)
    assert result.returncode == 1
    found = {(p["file"], p["line"]): p["text"] for p in json.loads(result.stdout)}
    assert "not valid YAML" in found.pop(("ingest_templates/broken.yml", 2))
    assert "SyntaxError" in found.pop(("products/libraries/definitions.py", 2))
    assert "exit code 3" in found.pop(("products/park_access/definitions.py", None))
    assert "is missing" in found.pop(("products/capital-projects/recipe.yml", None))
    assert "ZeroDivisionError" in found.pop(("products/capital-projects/definitions.py", 2))
    assert not found
    lines = orchestration("check", env=env).stdout.splitlines()
    assert len(lines) == 5
    assert any(line.startswith("products/libraries/definitions.py:2: ") for line in lines)


def test_a_wrong_product_list_is_a_problem_with_its_line(checkout: Path) -> None:
    (checkout / "products" / "products.yml").write_text("products:\n- id: a\n- build: x\n")
    result = orchestration("check", env={"DATA_ENGINEERING_ROOT": str(checkout)})
    assert result.returncode == 1
    assert "products/products.yml:2: product 'a': `build_command` is missing" in result.stdout
    assert "products/products.yml:3: entry 2: `id` is missing" in result.stdout


def test_an_address_by_which_nobody_could_be_told_is_a_problem(checkout: Path) -> None:
    products = checkout / "products" / "products.yml"
    products.write_text(f"{products.read_text()}\nnotify: ['slak://t0ken', 'json://localhost']\n")
    result = orchestration("check", env={"DATA_ENGINEERING_ROOT": str(checkout)})
    said = "products/products.yml: `notify`: slak://… is no address that apprise knows.\n"
    assert (result.returncode, result.stdout) == (1, said), result.stderr


def test_two_locations_that_define_one_asset_are_found(checkout: Path) -> None:
    for name in ("libraries", "park_access"):
        (checkout / "products" / name / "definitions.py").write_text(
            "import dagster as dg\n\n@dg.asset\ndef shared(): ...\n"
            "defs = dg.Definitions(assets=[shared])\n"
        )
    result = orchestration("check", env={"DATA_ENGINEERING_ROOT": str(checkout)})
    assert result.returncode == 1
    assert "both define shared" in result.stdout


def test_the_real_products_and_templates_have_no_problem_but_missing_recipes(
    nyc: Path, tmp_path: Path
) -> None:
    shutil.copytree(nyc, tmp_path / "nyc", copy_function=shutil.copy)
    result = orchestration("check", env={"DATA_ENGINEERING_ROOT": str(tmp_path / "nyc")})
    assert all("is missing" in line for line in result.stdout.splitlines()), result.stdout
