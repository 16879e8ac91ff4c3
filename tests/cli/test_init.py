import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orchestration.catalog.checkout import PROJECT_ROOT
from orchestration.catalog.products import json_schema, read_products
from tests.harness.processes import orchestration, tree

WORKFLOW = """\
on: [workflow_dispatch]
jobs:
  build:
    defaults: {run: {working-directory: products/colp}}
    env: {BUILD_ENGINE_DB: db-colp}
    steps:
      - uses: actions/checkout@v4
      - run: ./bash/build_env_setup.sh
      - name: Dataloading
        run: python3 -m dcpy lifecycle builds load load --recipe-path recipe.lock.yml
      - name: Build COLP ...
        run: ./colp.sh build
      - name: Tidy up
        working-directory: ./
        run: |
          rm -rf .library
          echo "all ${{ inputs.note }}"
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout without a product list, of the kinds of recipes that there are."""
    root = tmp_path / "data engineering"
    recipes = {
        "colp/recipe.yml": "name: COLP\nproduct: db-colp\nversion_strategy: first_of_month\n",
        "lift/recipe.yml": "name: 'no: lift'\nexports: {datasets: []}\n"
        "stage_config: {builds.build: {commands: [{name: a, run: b}]}}\n",
        "pluto/recipe.yml": "name: Pluto Major\nversion_strategy: {bump_latest_release: 1}\n"
        "stage_config: {builds.build: {commands: [{name: a, run: b}]}}\n",
        "pluto/recipe-minor.yml": "name: Pluto Minor\nbase_recipe: recipe.yml\n",
        "parks/recipe.yml": "name: [\n",
        "trees/recipe.yml": "base_recipe: recipe-base.yml\n",
        "trees/recipe-base.yml": "name: not a product\n",
    }
    for name, text in recipes.items():
        path = root / "products" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    workflows = root / ".github" / "workflows"
    workflows.mkdir(parents=True)
    (workflows / "colp_build.yml").write_text(WORKFLOW)
    return root


def test_the_list_has_what_the_recipes_and_workflows_say(root: Path) -> None:
    done = orchestration("init", env={"DATA_ENGINEERING_ROOT": str(root)})
    assert (done.returncode, done.stderr) == (0, "")
    file = root / "products" / "products.yml"
    products = {product.id: product for product in read_products(file)}
    assert list(products) == ["colp", "lift", "parks", "pluto", "pluto-minor", "trees"]
    minor, colp = products["pluto-minor"], products["colp"]
    assert (minor.folder, minor.recipe, minor.description) == (
        "pluto",
        "recipe-minor.yml",
        "Pluto Minor",
    )
    assert (colp.version_strategy, colp.env) == ("first_of_month", {"BUILD_ENGINE_DB": "db-colp"})
    assert products["pluto"].version_strategy == {"bump_latest_release": 1}
    [run, export] = [command.run for command in products["lift"].commands]
    assert run == 'python -m dcpy lifecycle builds build run -d "$BUILD_ENV_OUTPUT_DIR"'
    assert export == "python -m dcpy lifecycle builds export export --recipe-path recipe.lock.yml"
    assert [command.run for command in products["pluto"].commands] == [run]
    said = done.stdout
    assert "with 6 products" in said
    assert "colp: what builds it; what .github/workflows/colp_build.yml runs after load" in said
    assert "trees: what builds it; no workflow says so" in said
    assert "products/parks/recipe.yml:2: not valid YAML" in said
    assert (root / "products" / "products.schema.json").is_file()
    assert "$schema=products.schema.json" in file.read_text().splitlines()[0]


def test_what_a_workflow_runs_after_load_is_taken_over_by_taking_its_marks_away(
    root: Path,
) -> None:
    orchestration("init", env={"DATA_ENGINEERING_ROOT": str(root)})
    file = root / "products" / "products.yml"
    [entry] = [text for text in file.read_text().split("\n\n") if "id: colp" in text]
    without = re.sub(r"\n  build_command: .*", "", entry)
    taken = re.sub(r"^  # (?!.*runs this after load)", "  ", without, flags=re.M)
    file.write_text(taken + "\n")
    [product] = read_products(file)
    assert [(command.name, command.run) for command in product.commands] == [
        ("Build COLP ...", "./colp.sh build"),
        ("Tidy up", 'set -eo pipefail\ncd ../..\nrm -rf .library\necho "all ${{ inputs.note }}"'),
    ]


def test_a_build_that_nobody_filled_in_fails_with_a_sentence(root: Path) -> None:
    orchestration("init", env={"DATA_ENGINEERING_ROOT": str(root)})
    [colp, *_] = read_products(root / "products" / "products.yml")
    [command] = colp.commands
    done = subprocess.run(["bash", "-c", command.run], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "There is no build command yet: fill in that of colp in products/products.yml.\n"
    )


def test_nothing_is_written_over(root: Path) -> None:
    (root / "products" / "products.schema.json").write_text("mine")
    first = orchestration("init", env={"DATA_ENGINEERING_ROOT": str(root)})
    assert first.returncode == 0
    before = tree(root)
    again = orchestration("init", env={"DATA_ENGINEERING_ROOT": str(root)})
    assert again.returncode == 1
    assert "products.yml is there already, and stays as it is" in again.stderr
    assert tree(root) == before
    assert (root / "products" / "products.schema.json").read_text() == "mine"


def test_a_folder_that_is_no_checkout_gets_no_list(tmp_path: Path) -> None:
    done = orchestration("init", env={"DATA_ENGINEERING_ROOT": str(tmp_path)})
    assert done.returncode == 1
    assert "is not a data-engineering checkout" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_make_says_how_a_list_is_made_before_it_installs_anything(
    root: Path, tmp_path: Path
) -> None:
    project = tmp_path / "clone"
    (project / "orchestration").mkdir(parents=True)
    shutil.copy(PROJECT_ROOT / "Makefile", project)
    shutil.copy(PROJECT_ROOT / "orchestration" / "__init__.py", project / "orchestration")
    shutil.copytree(PROJECT_ROOT / "orchestration" / "catalog", project / "orchestration/catalog")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    made = subprocess.run(
        ["make", "up", f"DATA_ENGINEERING_ROOT={root}"],
        cwd=project,
        env={"PATH": path, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert made.returncode != 0
    assert "is a checkout without a product list" in made.stderr and "make init" in made.stderr
    assert not (project / "orchestration" / "dagster").exists()


def test_the_real_recipes_make_a_list_that_can_be_read(nyc: Path, tmp_path: Path) -> None:
    for recipe in nyc.glob("products/*/recipe*.yml"):
        target = tmp_path / recipe.relative_to(nyc)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(recipe, target)
    assert orchestration("init", env={"DATA_ENGINEERING_ROOT": str(tmp_path)}).returncode == 0
    products = read_products(tmp_path / "products" / "products.yml")
    assert {"pluto", "pluto-minor", "cbbr", "zoningtaxlots"} <= {each.id for each in products}
    schema = yaml.safe_load((tmp_path / "products" / "products.schema.json").read_text())
    assert schema == json_schema()
