"""The steps and dcpy fit together: the sample's dcpy, the real one, and that of December 2025.

On a real checkout (see `real_dcpy.py`) it is also tested that the sample's dcpy writes what the
real one writes.
"""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestration.catalog.checkout import SAMPLE_ROOT
from orchestration.catalog.ingest_templates import read_template
from orchestration.definitions.ingest import build_ingest_asset
from orchestration.lifecycle.environment import STEPS_FOLDER, base_environment
from tests.harness import dcpy_calls
from tests.harness.materializing import failure_of, own_product
from tests.harness.processes import tree
from tests.harness.real_dcpy import RealCheckout, run_python

pytest_plugins = ["tests.harness.real_dcpy"]

CALLS = Path(dcpy_calls.__file__)
# What the steps hand over to the functions of 2026, and of what type.
HANDED_OVER = {
    "dcpy.lifecycle.ingest.run.ingest": {
        "dataset_id": "str",
        "version": "str",
        "staging_dir": "PosixPath",
        "definition_dir": "PosixPath",
        "mode": "str",
        "datasets_filter": "list",
        "latest": "bool",
        "push": "bool",
        "output_csv": "bool",
        "overwrite_okay": "bool",
    },
    "dcpy.lifecycle.ingest.plan.resolve_definition": {
        "dataset_id": "str",
        "version": "NoneType",
        "definition_dir": "PosixPath",
    },
    "dcpy.lifecycle.builds.plan.plan": {
        "recipe_file": "PosixPath",
        "version": "str",
        "build_name": "str",
        "output_path": "PosixPath",
    },
    "dcpy.lifecycle.builds.load.load_source_data_from_resolved_recipe": {
        "recipe_or_path": "PosixPath",
    },
}
LOCK_FIELDS = (
    "base_recipe branch build_name custom distribution env exports inputs name product "
    "stage_config vars version version_strategy version_type"
)
LOCKED_DATASET_FIELDS = (
    "archive_date custom destination file_type id import_as load_engine name preprocessor source "
    "url version version_env_var"
)
# Where two runs differ, or where the sample's dcpy does not go into such detail.
OTHERWISE = re.compile(
    r"timestamp|archive_date|\.username|\.commit|\.processing_steps_summaries|\.is_required"
    r"|\.custom\.file_type"
)


@pytest.fixture(scope="module")
def sample_python(sample_dcpy: dict[str, str]) -> Path:
    return Path(sample_dcpy["DCPY_PYTHON"])


def calls(python: Path, *arguments: str | Path, lifecycle: Path, environ: Mapping[str, str]) -> str:
    """What `dcpy_calls.py` tells in the environment of a stage, from the sample's folder."""
    env = base_environment(root=SAMPLE_ROOT, lifecycle=lifecycle, python=python, environ=environ)
    return run_python(python, CALLS, STEPS_FOLDER, *arguments, cwd=SAMPLE_ROOT, env=env)


def signatures(python: Path, lifecycle: Path) -> dict[str, Any]:
    told = calls(python, "signatures", lifecycle=lifecycle, environ=os.environ)
    described: dict[str, Any] = json.loads(told)
    return described


def called_functions() -> set[str]:
    """The functions of dcpy that the steps import."""
    trees = [ast.parse(path.read_text()) for path in STEPS_FOLDER.glob("*.py")]
    return {
        f"{node.module}.{name.name}"
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dcpy")
        for name in node.names
    }


def test_every_function_of_dcpy_that_a_step_calls_is_in_the_contract() -> None:
    assert called_functions() == set(HANDED_OVER)


def test_the_steps_calls_bind_to_the_samples_signatures(
    sample_python: Path, lifecycle: Path
) -> None:
    found = signatures(sample_python, lifecycle)
    assert {name: described["call"] for name, described in found.items()} == HANDED_OVER


def test_the_steps_calls_bind_to_the_real_signatures(
    real_checkout: RealCheckout, sample_python: Path, lifecycle: Path
) -> None:
    found = signatures(real_checkout.python, lifecycle)
    assert {name: described["call"] for name, described in found.items()} == HANDED_OVER
    assert found == signatures(sample_python, lifecycle)


@pytest.fixture(scope="module")
def sample_outputs(tmp_path_factory: pytest.TempPathFactory, sample_python: Path) -> Path:
    """All that the sample's dcpy makes of the sample's templates and recipes."""
    return outputs(sample_python, tmp_path_factory.mktemp("sample"), os.environ)


@pytest.fixture(scope="module")
def real_outputs(
    tmp_path_factory: pytest.TempPathFactory,
    real_checkout: RealCheckout,
    storage: dict[str, str],
    spatial_home: dict[str, str],
) -> Path:
    """All that the real dcpy makes of the sample's templates and recipes."""
    environ = {**os.environ, **storage, **spatial_home}
    return outputs(real_checkout.python, tmp_path_factory.mktemp("of-real"), environ)


def outputs(python: Path, folder: Path, environ: Mapping[str, str]) -> Path:
    calls(
        python,
        "outputs",
        SAMPLE_ROOT,
        folder / "written",
        lifecycle=folder / "lifecycle",
        environ=environ,
    )
    return folder / "written"


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_sample_writes_the_files_and_fields_that_dcpy_is_known_to_write(
    sample_outputs: Path,
) -> None:
    ingested = files(sample_outputs / "ingest" / "dpr_sites") - {"described.json"}
    assert ingested == {
        "definition.lock.json",
        "datasource.json",
        "dpr_sites.csv",
        *(
            f"{dataset}/{file}"
            for dataset in ("dpr_greenthumb", "dpr_playgrounds")
            for file in ("_init.parquet", f"{dataset}.parquet", f"{dataset}.csv", "config.json")
        ),
    }
    build = sample_outputs / "builds" / "libraries"
    assert files(build) - {"described.json", "load_result.json"} == {
        "recipe.lock.yml",
        "source_data_versions.csv",
        "build_metadata.json",
        "libraries_26Q1.duckdb",
    }
    lock = yaml.safe_load((build / "recipe.lock.yml").read_text())
    assert " ".join(sorted(lock)) == LOCK_FIELDS
    for dataset in lock["inputs"]["datasets"]:
        assert " ".join(sorted(dataset)) == LOCKED_DATASET_FIELDS
    result = json.loads((build / "load_result.json").read_text())
    assert sorted(result) == ["build_name", "datasets", "name"]
    assert result["datasets"]["qpl_libraries"]["20260101"] == {
        "id": "qpl_libraries",
        "version": "20260101",
        "file_type": "parquet",
        "destination_type": "duckdb",
        "destination": "contract.qpl_libraries",
    }


def test_the_sample_writes_the_same_files_as_the_real_dcpy(
    sample_outputs: Path, real_outputs: Path
) -> None:
    assert files(sample_outputs) == files(real_outputs)


def test_the_samples_files_say_the_same_as_those_of_the_real_dcpy(
    sample_outputs: Path, real_outputs: Path
) -> None:
    for file in sorted(files(real_outputs)):
        if file.endswith((".json", ".yml")):
            assert said(sample_outputs / file) == said(real_outputs / file), file
        elif file.endswith("source_data_versions.csv"):
            heads = [
                (folder / file).read_text().splitlines()[0]
                for folder in (sample_outputs, real_outputs)
            ]
            assert heads[0] == heads[1]


def said(file: Path) -> dict[str, Any]:
    """What the file holds, by its place in it, apart from what is empty or always differs."""
    return {
        place: re.sub(r"^/.*/lifecycle/", "", value) if isinstance(value, str) else value
        for place, value in leaves(yaml.safe_load(file.read_text()), "")
        if value is not None and not OTHERWISE.search(place)
    }


def leaves(data: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from leaves(value, f"{place}.{key}")
    elif isinstance(data, list):
        for number, value in enumerate(data):
            yield from leaves(value, f"{place}[{number}]")
    else:
        yield place, data


# The signatures of December 2025 (84ddb2aa), with as much behind them as the steps can see: plan
# writes beside the recipe only, and load pulls to a file that is named after the version.
DECEMBER = {
    "ingest/run.py": """
from types import SimpleNamespace

import duckdb

def ingest(dataset_id, version=None, *, staging_dir="x", mode=None, latest=False, push=False,
           output_csv=False, definition_dir="x", local_file_path=None, overwrite_okay=False):
    (staging_dir / dataset_id).mkdir(parents=True)
    parquet = staging_dir / dataset_id / f"{dataset_id}.parquet"
    duckdb.sql(f"COPY (SELECT 1 AS a) TO '{parquet}' (FORMAT parquet)")
    return [SimpleNamespace(id=dataset_id, version=version)]
""",
    "builds/plan.py": """
import time

import yaml

def plan(recipe_file, version=None):
    recipe = yaml.safe_load(recipe_file.read_text())
    base = yaml.safe_load((recipe_file.parent / recipe["base_recipe"]).read_text())
    lock = recipe_file.parent / f"{recipe_file.stem}.lock.yml"
    lock.write_text("half of it")
    time.sleep(0.3)
    assert lock.read_text() == "half of it"
    vars = {"VERSION": version, "VERSION_PREV": "0"}
    lock.write_text(yaml.safe_dump({**recipe, "version": version, "vars": vars, **base}))
    return lock
""",
    "builds/load.py": """
import os
from pathlib import Path
from types import SimpleNamespace

def load_source_data_from_resolved_recipe(
    recipe_lock_path, clear_pg_schema=True, cache_schema=None, cached_entity_type=None,
    target_schema=None, _write_metadata_file=True
):
    assert isinstance(recipe_lock_path, Path) and os.environ["VERSION"] == "26Q1"
    pulled = Path(os.environ["DCPY_LIFECYCLE_DATA_DIR"], "builds/load/parks/1")
    pulled.parent.mkdir(parents=True)
    pulled.write_text("parquet")
    parks = SimpleNamespace(id="parks", version="1", file_type="parquet", destination=pulled,
                            destination_type="file")
    return SimpleNamespace(datasets={"parks": {"1": parks}})
""",
}


@pytest.fixture
def december(
    checkout: Path, sample_python: Path, lifecycle: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A checkout with the dcpy of December 2025 and a product of its own."""
    for file, text in DECEMBER.items():
        path = checkout / "dcpy" / "lifecycle" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    # Without it, any dcpy that is installed would be found first.
    (checkout / "dcpy" / "__init__.py").touch()
    product = checkout / "products" / "own"
    product.mkdir()
    (product / "recipe.yml").write_text("name: Own\nproduct: own\nbase_recipe: base.yml\n")
    (product / "base.yml").write_text("inputs: {datasets: [{id: parks, version: '1'}]}\n")
    (product / "recipe.lock.yml").write_text("left by somebody who ran dcpy by hand\n")
    python = checkout / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{checkout}" exec "{sample_python}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("DATA_ENGINEERING_ROOT", str(checkout))
    monkeypatch.setenv("DCPY_PYTHON", str(python))
    return checkout


def test_dcpy_of_december_plans_beside_a_copy_of_the_recipe(
    december: Path, lifecycle: Path
) -> None:
    product = december / "products" / "own"
    before = tree(product)

    notes = ("first", "second")
    with ThreadPoolExecutor() as both:
        said = list(both.map(lambda n: failure_of(own_product("plan"), f"26Q1-{n}"), notes))

    assert said == [None, None]
    assert tree(product) == before
    for note in notes:
        plan = lifecycle / "builds" / "own_product" / f"26Q1-{note}" / "plan"
        assert files(plan.resolve()) == {"recipe.lock.yml", "plan.log"}
        lock = yaml.safe_load((plan / "recipe.lock.yml").read_text())
        assert (lock["version"], lock["inputs"]["datasets"][0]["id"]) == ("26Q1", "parks")


def test_dcpy_of_december_loads_and_builds(december: Path, lifecycle: Path) -> None:
    assert failure_of(own_product("plan", "load", "build"), "26Q1-first") is None
    load = lifecycle / "builds" / "own_product" / "26Q1-first" / "load"
    assert (load / "lifecycle" / "builds" / "load" / "parks" / "1").read_text() == "parquet"


def test_dcpy_of_december_ingests_and_says_which_option_it_has_not(december: Path) -> None:
    template = december / "ingest_templates" / "dpr_sites.yml"
    asset = build_ingest_asset(template=read_template(template))
    assert failure_of([asset], "1", {"push": True, "latest": True}) is None
    said = failure_of([asset], "1", {"datasets_filter": ["dpr_greenthumb"]})
    assert said == (
        "Template 'dpr_sites', version '1': The checkout's dcpy has no option `datasets_filter` "
        "for ingest. Leave it out of the run's config, or use a newer checkout."
    )


def test_a_dcpy_that_does_not_take_the_call_is_told(december: Path) -> None:
    run = december / "dcpy" / "lifecycle" / "ingest" / "run.py"
    run.write_text("def ingest(dataset_id, *, place):\n    raise AssertionError\n")
    template = december / "ingest_templates" / "dpr_sites.yml"
    said = failure_of([build_ingest_asset(template=read_template(template))], "1")
    assert said and "dcpy has `ingest(dataset_id, *, place)`, which does not take this call" in said


LOAD_OF_ONE = """
from types import SimpleNamespace

def load_source_data_from_resolved_recipe(recipe_or_path):
    loaded = SimpleNamespace(
        id="lots", version="1", file_type="csv", destination_type="file", destination="lots.csv"
    )
    return SimpleNamespace(datasets={"lots": {"1": loaded}})
"""


def test_an_interpreter_without_duckdb_loads_and_says_what_it_does_not_tell(tmp_path: Path) -> None:
    for name, text in {"ingest/run.py": "", "builds/load.py": LOAD_OF_ONE}.items():
        file = tmp_path / "dcpy" / "lifecycle" / name
        file.parent.mkdir(parents=True)
        file.write_text(text)
    (tmp_path / "dcpy" / "__init__.py").touch()
    parameters = {"checkout": str(tmp_path), "python_is_chosen": True, "subject": "lots, load"}
    parameters["lock"] = str(tmp_path / "recipe.lock.yml")
    (tmp_path / "parameters.json").write_text(json.dumps(parameters))
    # This one, which has none.
    assert importlib.util.find_spec("duckdb") is None
    done = subprocess.run(
        [sys.executable, STEPS_FOLDER / "load.py", "parameters.json", "report.json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"What was loaded is not counted: {sys.executable} has no duckdb.\n"
    [dataset] = json.loads((tmp_path / "report.json").read_text())["datasets"]
    assert dataset["name"] == "lots" and "rows" not in dataset
