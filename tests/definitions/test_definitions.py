import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from dagster import (
    AssetKey,
    AssetSpec,
    DagsterInstance,
    Definitions,
    DynamicPartitionsDefinition,
    materialize,
)
from dagster._core.workspace.load import location_origins_from_yaml_paths
from dagster._grpc.server import LoadedRepositories

from orchestration.catalog.checkout import (
    PROJECT_ROOT,
    SAMPLE_ROOT,
    products_file,
    templates_folder,
)
from orchestration.catalog.names import STAGES
from orchestration.catalog.products import read_products_file
from orchestration.definitions.ingest import ingest_definitions
from orchestration.definitions.product import product_definitions
from orchestration.generator.render import LOCATIONS, WORKSPACE, render
from tests.harness.processes import PATIENCE, orchestration

SNAPSHOT = Path(__file__).parent / "snapshots" / "assets.json"
EXPECTED = {
    "libraries": {f"libraries/{stage}" for stage in STAGES},
    "park_access": {f"park_access/{stage}" for stage in (*STAGES, "acres_per_borough")},
    "capital_projects": {f"capital_projects/{stage}" for stage in STAGES},
    "ingest": {
        "ingest/bpl_libraries",
        "ingest/dcp_capital_projects",
        "ingest/dpr_parks",
        "ingest/dpr_sites",
        "ingest/library_systems",
        "ingest/nypl_libraries",
        "ingest/qpl_libraries",
    },
}


def locations_of(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Definitions]:
    """What the modules define that are generated for the checkout at `root`, by location."""
    monkeypatch.setenv("DATA_ENGINEERING_ROOT", str(root))
    found = {}
    for path, text in render(read_products_file(products_file(root))).items():
        if path.is_relative_to(LOCATIONS):
            namespace: dict[str, Any] = {}
            exec(compile(text, str(path), "exec"), namespace)
            found[path.stem] = namespace["defs"]
    return found


def specs_of(locations: Iterable[Definitions]) -> list[AssetSpec]:
    """The assets that the locations define."""
    return [
        spec
        for definitions in locations
        for assets in definitions.resolve_asset_graph().assets_defs
        if assets.is_executable
        for spec in assets.specs
    ]


def asset(definitions: Definitions, *key: str) -> AssetSpec:
    [spec] = [spec for spec in specs_of([definitions]) if spec.key == AssetKey(key)]
    return spec


@pytest.mark.parametrize("location", EXPECTED)
def test_a_location_loads_as_its_server_loads_it(
    location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PROJECT_ROOT)
    origins = location_origins_from_yaml_paths([str(PROJECT_ROOT / WORKSPACE)])
    [origin] = [origin for origin in origins if origin.location_name == location]
    loaded = LoadedRepositories(
        origin.loadable_target_origin,
        container_image=None,
        entry_point=["dagster"],
        container_context=None,
    )
    [repository] = loaded.definitions_by_name.values()
    keys = {key.to_user_string() for key in repository.asset_graph.executable_asset_keys}
    assert keys == EXPECTED[location]
    jobs = {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")}
    own = {f"build_{location}", f"ingest_for_{location}"}
    assert jobs == ({"ingest_city_libraries"} if location == "ingest" else own)


@pytest.mark.long
def test_all_locations_are_valid_to_dagsters_own_check(tmp_path: Path) -> None:
    # It catches what loading does not, such as a job's invalid config.
    checked = subprocess.run(
        [sys.executable, "-m", "dagster", "definitions", "validate", "-w", WORKSPACE],
        cwd=PROJECT_ROOT,
        env={**os.environ, "DAGSTER_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout
    for location in EXPECTED:
        assert f"Validation successful for code location {location}" in checked.stdout


def described(spec: AssetSpec) -> dict[str, Any]:
    partitions = spec.partitions_def
    assert isinstance(partitions, DynamicPartitionsDefinition | None)
    return {
        "deps": {
            dep.asset_key.to_user_string(): (
                type(dep.partition_mapping).__name__ if dep.partition_mapping else None
            )
            for dep in spec.deps
        },
        "group": spec.group_name,
        "kinds": sorted(spec.kinds),
        "owners": list(spec.owners),
        "partitions": partitions and partitions.name,
        "tags": {k: v for k, v in spec.tags.items() if not k.startswith("dagster/kind/")},
    }


def test_the_samples_assets_are_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    # When they are meant to differ: UPDATE_SNAPSHOTS=1 pytest tests/test_definitions.py
    specs = specs_of(locations_of(SAMPLE_ROOT, monkeypatch).values())
    assets = {spec.key.to_user_string(): described(spec) for spec in specs}
    text = json.dumps(assets, indent=2, sort_keys=True) + "\n"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOT.parent.mkdir(exist_ok=True)
        SNAPSHOT.write_text(text)
    assert SNAPSHOT.read_text() == text


def check_whole(locations: dict[str, Definitions]) -> None:
    """No asset is defined twice, and none depends on one that nobody defines."""
    specs = specs_of(locations.values())
    assert [key for key, count in Counter(s.key for s in specs).items() if count > 1] == []
    keys = {spec.key for spec in specs}
    assert [
        (spec.key, dep.asset_key)
        for spec in specs
        for dep in spec.deps
        if dep.asset_key not in keys
    ] == []


def test_the_samples_lineage_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    check_whole(locations_of(SAMPLE_ROOT, monkeypatch))


def test_the_real_products_and_templates_load(nyc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locations = locations_of(nyc, monkeypatch)
    # 19 products, ingest, and who looks after all of these, which makes no assets.
    assert len(locations) == 21
    check_whole(locations)
    assert specs_of([locations.pop("operations")]) == []
    assert len(specs_of([locations["ingest"]])) == 206
    for location, definitions in locations.items():
        groups = {spec.group_name for spec in definitions.resolve_all_asset_specs()}
        assert groups == {location} or location == "ingest"
    pad = asset(locations["ingest"], "ingest", "dcp_pad")
    assert pad.group_name == "ingest/dcp/p_t"
    assert pad.kinds == {"file_download", "parquet"}
    assert pad.metadata["source"].endswith("/pad_{{ version }}.zip")
    deps = {dep.asset_key for dep in asset(locations["template"], "template", "plan").deps}
    assert {AssetKey(["ingest", f"{system}_libraries"]) for system in ("bpl", "nypl", "qpl")} < deps
    assert all(
        len(specs_of([definitions])) == 4
        for location, definitions in locations.items()
        if location != "ingest"
    )


@pytest.mark.long
def test_loading_never_imports_dcpy() -> None:
    # It costs 300 MB a location, and changes its whole process.
    script = f"""
import importlib, sys
for location in {list(EXPECTED)}:
    importlib.import_module("orchestration.locations." + location)
print(sorted({{name.partition(".")[0] for name in sys.modules}} & {{"dcpy", "duckdb", "pandas"}}))
"""
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout == "[]\n"


def test_a_product_loads_where_there_is_no_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As it is in a container that got its generated modules only.
    text = (PROJECT_ROOT / LOCATIONS / "libraries.py").read_text()
    monkeypatch.setenv("DATA_ENGINEERING_ROOT", str(tmp_path))
    namespace: dict[str, Any] = {}
    exec(compile(text, "libraries.py", "exec"), namespace)
    assert len(specs_of([namespace["defs"]])) == 4
    assert list(asset(namespace["defs"], "libraries", "plan").deps) == []


@pytest.mark.parametrize("recipe", ["inputs: [\n", "[]\n", "base_recipe: gone.yml\n"])
def test_a_product_whose_recipe_is_broken_loads(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    (checkout / "products" / "libraries" / "recipe.yml").write_text(recipe)
    locations = locations_of(checkout, monkeypatch)
    assert len(specs_of([locations["libraries"]])) == 4
    assert list(asset(locations["park_access"], "park_access", "plan").deps) != []


def test_the_value_of_a_secret_variable_is_not_shown() -> None:
    env = {"SOCRATA_TOKEN": "hunter2-hunter2", "BUILD_ENGINE_DB": "db-roads"}
    plan = asset(product_definitions(id="roads", build_command="true", env=env), "roads", "plan")
    assert plan.metadata["product"].value["env"] == env | {"SOCRATA_TOKEN": "***"}


def test_an_asset_says_what_it_is_about(monkeypatch: pytest.MonkeyPatch) -> None:
    locations = locations_of(SAMPLE_ROOT, monkeypatch)
    plan = asset(locations["libraries"], "libraries", "plan")
    assert plan.metadata["recipe"].value == "products/libraries/recipe.yml"
    assert plan.metadata["product"].value["build_command"] == "python build.py"
    assert "Every public library branch" in str(plan.description)
    package = asset(locations["libraries"], "libraries", "package")
    assert "stub" in str(package.description)
    template = asset(locations["ingest"], "ingest", "bpl_libraries")
    assert "Branches of the Brooklyn Public Library" in str(template.description)
    assert template.metadata["source_type"] == "local_file"
    assert template.metadata["url"].value == "https://www.bklynlibrary.org/locations"


def test_a_broken_template_says_why_and_fails_with_that_while_the_others_load(
    checkout: Path, lifecycle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = templates_folder(checkout) / "dpr_parks.yml"
    broken.write_text("id: dpr_parks\n\tname: tabs\n")
    monkeypatch.setenv("DATA_ENGINEERING_ROOT", str(checkout))
    definitions = ingest_definitions()
    assert {s.key.to_user_string() for s in specs_of([definitions])} == EXPECTED["ingest"]
    reason = f"{broken}:2: not valid YAML"
    assert reason in str(asset(definitions, "ingest", "dpr_parks").description)

    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("ingest_dpr_parks", ["v1"])
        result = materialize(
            [definitions.resolve_assets_def(AssetKey(["ingest", "dpr_parks"]))],
            instance=instance,
            partition_key="v1",
            raise_on_error=False,
        )
    [failure] = [event for event in result.all_events if event.is_step_failure]
    assert failure.step_failure_data.user_failure_data
    description = str(failure.step_failure_data.user_failure_data.description)
    assert description.startswith("Template 'dpr_parks' cannot be read: ")
    assert reason in description
    # The sentence is all there is to say: no frames of Dagster below it.
    assert failure.step_failure_data.error
    assert failure.step_failure_data.error.to_string() == description


def test_a_product_without_a_folder_is_a_location_all_the_same(
    project: Path, checkout: Path
) -> None:
    products = products_file(checkout)
    products.write_text(products.read_text() + "- id: new one\n  build_command: make\n")
    env = {"DATA_ENGINEERING_ROOT": str(checkout)}
    assert orchestration("generate", env=env, project=project).returncode == 0
    loaded = subprocess.run(
        [sys.executable, "-c", "from orchestration.locations.new_one import defs; print(defs)"],
        cwd=project,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert loaded.returncode == 0, loaded.stderr
