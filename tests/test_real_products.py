"""NYC's own products, built whole by their own scripts: ingest, plan, load, build and export.

Runs where DATA_ENGINEERING_ROOT names a real checkout and DCPY_PYTHON an interpreter with its dcpy
and dbt; it needs Postgres with PostGIS, GDAL's programs, psql, zip and the S3 emulator. The inputs
are made up, and pushed by this project's ingest.
"""

import csv
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from dagster import AssetKey, DagsterInstance

from orchestration.catalog.checkout import PRODUCTS_FILE, PROJECT_ROOT
from orchestration.catalog.ingest_templates import read_template
from orchestration.definitions.ingest import build_ingest_asset
from orchestration.lifecycle.dbt import known_tests
from tests.harness.dbt_hub import write_hub
from tests.harness.materializing import failure_of, without_retries
from tests.harness.nyc_inputs import (
    BLOCK_GRANTS,
    BUDGET_REQUESTS,
    CITY_LOTS,
    CITY_LOTS_STORED,
    ZONING_TAX_LOTS,
    Inputs,
)
from tests.harness.processes import orchestration
from tests.harness.real_dcpy import NOT_OURS, RealCheckout, run_python
from tests.harness.template_files import DEGREES, with_all_columns, write_file, write_template

pytest_plugins = ["tests.harness.real_dcpy"]

PROGRAMS = ("git", "ogr2ogr", "psql", "zip")
VERSION = "20261101"
# Of datasets that a recipe asks for by version.
VERSIONS = {"dcp_mappluto_clipped": "24v4", "dcp_zoningtaxlots": "2026-10-01"}
PUBLISHED = "db-zoningtaxlots/publish/2026-10-01/build_metadata.json"
BUILD_SECONDS = 300.0
# The steps after load, as each product's workflow has them; `init` knows those of lift.
COMMANDS: Mapping[str, Sequence[str | Mapping[str, str]]] = {
    "zoningtaxlots": [{"build": "./bash/build.sh"}, {"export": "./bash/export.sh"}],
    "cdbg": ["dbt deps", "dbt debug", "dbt build", {"export": "./bash/export.sh"}],
    "cbbr": ["dbt deps", "dbt debug", "./02_cbbr.sh", "./03_spatial.sh", "./04_export.sh"],
}
EXTENSIONS = ("postgis", "fuzzystrmatch")
# Geosupport is a program of NYC's that is not to be had here.
GEOSUPPORT = '''\
"""Stands in for NYC's geocoder: it knows no place."""


class GeosupportError(Exception):
    pass


class Geosupport:
    def __getitem__(self, function):
        def find(**place):
            raise GeosupportError("NOT RECOGNIZED")

        return find
'''
TO_XLSX = """
import pandas, sys
source, target, sheet = sys.argv[1:]
pandas.read_csv(source, dtype=str).to_excel(target, sheet_name=sheet, index=False)
"""
PUT_FILES = """
import boto3, os, sys
client = boto3.client("s3", endpoint_url=os.environ["AWS_S3_ENDPOINT"])
for bucket, key, path in zip(*[iter(sys.argv[1:])] * 3):
    client.upload_file(path, os.environ[bucket], key)
"""


@dataclass(frozen=True)
class Team:
    """A copy of the checkout with made-up sources, and the program that works on it."""

    root: Path
    lifecycle: Path
    project: Path
    files: Path
    python: Path

    def put(self, files: Mapping[tuple[str, str], Path]) -> None:
        """Puts files into the storage, by the variable that names the bucket, and the key."""
        arguments = [part for (bucket, key), path in files.items() for part in (bucket, key, path)]
        run_python(self.python, "-c", PUT_FILES, *arguments, cwd=self.root)

    def ingest(self, inputs: Inputs) -> None:
        """Ingests each dataset as its latest version, and pushes it to the storage."""
        for name in inputs:
            path = self.root / "ingest_templates" / f"{name}.yml"
            asset = build_ingest_asset(template=read_template(path))
            config = {"push": True, "latest": True}
            assert failure_of([asset], VERSIONS.get(name, VERSION), config) is None

    def build(self, product: str, partition: str) -> Path:
        """Plans, loads and builds the product: the folder that its scripts wrote to."""
        done = orchestration(
            "materialize", product, partition, project=self.project, seconds=BUILD_SECONDS
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return self.lifecycle / "builds" / product / partition / "build" / "output"


@pytest.fixture(scope="module", autouse=True)
def _is_tried_once() -> Iterator[None]:
    with without_retries():
        yield


@pytest.fixture(scope="module")
def team(
    real_checkout: RealCheckout,
    storage: dict[str, str],
    postgres: dict[str, str],
    spatial_home: dict[str, str],
    web: tuple[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Team]:
    """A copy of the checkout, committed, and around it all that a build needs."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing or not real_checkout.python.with_name("dbt").is_file():
        pytest.skip(f"not installed: {', '.join(missing) or f'dbt for {real_checkout.python}'}")
    folder = tmp_path_factory.mktemp("team")
    root, files, project = folder / "data-engineering", folder / "files", folder / "project"
    files.mkdir()
    not_copied = shutil.ignore_patterns(".git", "*.egg-info", "__pycache__")
    shutil.copytree(real_checkout.root, root, symlinks=True, ignore=not_copied)
    write_sources(root, files, real_checkout.python)
    git(root, "init", "--quiet")
    git(root, "add", "--all", "--force")
    git(root, "commit", "--quiet", "--message", "with made-up sources")
    python = team_python(real_checkout.python, root, folder / "venv")
    for name in ("orchestration", "templates"):
        ignored = shutil.ignore_patterns("__pycache__", ".venv")
        shutil.copytree(PROJECT_ROOT / name, project / name, ignore=ignored)
    hub = os.environ.get("DBT_PACKAGE_HUB_URL")
    if not hub:
        address, served = web
        hub = f"{address}/hub/"
        write_hub(served / "hub", f"{address}/hub", root / "products")
    create_databases(postgres["BUILD_ENGINE_SERVER"], root)
    variables = {
        "DATA_ENGINEERING_ROOT": str(root),
        "DCPY_PYTHON": str(python),
        "DCPY_LIFECYCLE_DATA_DIR": str(folder / "lifecycle"),
        "DBT_PACKAGE_HUB_URL": hub,
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        **storage,
        **postgres,
        **spatial_home,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in filter(NOT_OURS.match, list(os.environ)):
            patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        made = Team(root, folder / "lifecycle", project, files, python)
        generated = orchestration("generate", project=project)
        assert generated.returncode == 0, generated.stderr
        yield made


def write_sources(root: Path, files: Path, python: Path) -> None:
    """Lists the products, and lets the templates of their inputs read files with made-up rows."""
    listed = orchestration("init", env={"DATA_ENGINEERING_ROOT": str(root)})
    assert listed.returncode == 0, listed.stderr
    content = yaml.safe_load((root / PRODUCTS_FILE).read_text())
    for product in content["products"]:
        if product["id"] in COMMANDS:
            product["build_command"] = COMMANDS[product["id"]]
    (root / PRODUCTS_FILE).write_text(yaml.safe_dump(content))

    def to_xlsx(source: Path, target: Path, sheet: str) -> None:
        run_python(python, "-c", TO_XLSX, source, target, sheet, cwd=files)

    for inputs in (ZONING_TAX_LOTS, BLOCK_GRANTS, BUDGET_REQUESTS, CITY_LOTS):
        for name, rows in inputs.items():
            path = root / "ingest_templates" / f"{name}.yml"
            write_template(path, with_all_columns(name, rows, root), files, VERSION, to_xlsx)


def team_python(python: Path, root: Path, venv: Path) -> Path:
    """An interpreter with what the given one has, but this checkout's dcpy, and Geosupport."""
    run_python(python, "-m", "venv", "--without-pip", venv, cwd=root)
    own = venv / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run_python(own, "-c", where, cwd=root).strip())
    given = run_python(python, "-c", where, cwd=root).strip()
    (packages / "given.pth").write_text(f"{root}\nimport site; site.addsitedir({given!r})\n")
    (packages / "geosupport.py").write_text(GEOSUPPORT)
    own.with_name("dbt").symlink_to(python.with_name("dbt"))
    return own


def create_databases(server: str, root: Path) -> None:
    """The databases that the product list names, with the extensions that the team's have."""
    for product in yaml.safe_load((root / PRODUCTS_FILE).read_text())["products"]:
        if product["id"] not in COMMANDS:
            continue
        database = product["env"]["BUILD_ENGINE_DB"]
        psql(f"{server}/postgres", f'CREATE DATABASE "{database}"')
        for extension in EXTENSIONS:
            psql(f"{server}/{database}", f"CREATE EXTENSION {extension}")


def psql(address: str, command: str) -> None:
    done = subprocess.run(["psql", address, "-qc", command], capture_output=True, text=True)
    if "is not available" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr


def git(root: Path, *arguments: str) -> str:
    """What git says of the checkout."""
    who = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.invalid")
    return subprocess.check_output(["git", *who, *arguments], cwd=root, text=True)


def rows(path: Path, *columns: str) -> list[tuple[str, ...]]:
    """What the file holds in these columns, sorted."""
    with path.open(newline="") as file:
        return sorted(tuple(row[name] for name in columns) for row in csv.DictReader(file))


def test_zoning_tax_lots(team: Team) -> None:
    metadata = team.files / "build_metadata.json"
    metadata.write_text("{}")
    team.put({("PUBLISHING_BUCKET", PUBLISHED): metadata})
    team.ingest(ZONING_TAX_LOTS)

    output = team.build("zoningtaxlots", "2026-11-01-first")

    zoning = [f"Zoning District {n}" for n in (1, 2)] + ["Commercial Overlay 1"]
    others = ["Special District 1", "Limited Height District", "Zoning Map Number"]
    assert rows(output / "zoningtaxlot_db.csv", "BBL", *zoning, *others, "Zoning Map Code") == [
        ("1000010001", "R6", "", "C1-2", "CL", "LH-1", "12a", ""),
        ("1000010002", "R6", "C4-4", "", "", "", "12a", "Y"),
        ("1000010003", "PARK", "", "", "", "", "12b", ""),
        ("1000010004", "", "", "", "", "", "12b", ""),
    ]
    versions = ("version", "version_prev")
    assert rows(output / "qaqc_bbl.csv", "removed", "added", *versions) == [
        ("1", "3", "2026-11-01", "2026-10-01")
    ]
    changed = ("bblnew", "zd1new", "zd1prev")
    assert rows(output / "qc_bbldiffs.csv", *changed) == [("1000010001", "R6", "R5")]
    assert rows(output / "source_data_versions.csv", "schema_name", "v") == sorted(
        (name, VERSIONS.get(name, VERSION)) for name in ZONING_TAX_LOTS
    )
    assert (output / "version.txt").read_text() == "2026-11-01\n"
    assert (output / "qc_bbldiffs.shp.zip").is_file()

    # What Postgres holds is counted.
    with DagsterInstance.get() as instance:
        event = instance.get_latest_materialization_event(AssetKey(["zoningtaxlots", "load"]))
    assert event and event.asset_materialization
    loaded = event.asset_materialization.metadata["datasets"].value.records  # type: ignore[union-attr]
    found = {record.data["id"]: record.data["rows"] for record in loaded}
    assert found["dof_dtm"] == 4
    assert all(isinstance(count, int) for count in found.values())


def test_community_development_block_grants(team: Team) -> None:
    team.ingest(BLOCK_GRANTS)

    output = team.build("cdbg", "2026-11-01-first")

    area = ("total_floor_area", "residential_floor_area_percentage")
    people = ("potential_lowmod_population", "low_mod_income_population_percentage", "eligibility")
    assert rows(output / "cdbg_block_groups.csv", "bctbg2020", *area, *people) == [
        ("10001001", "12000", "75.00", "2000", "85.00", "CD Eligible"),
        ("10001002", "2000", "50.00", "2000", "35.00", "Ineligible"),
        ("10002001", "5000", "20.00", "4000", "10.00", "Ineligible"),
    ]
    assert rows(output / "cdbg_tracts.csv", "bct2020", *area, *people) == [
        ("1000100", "14000", "71.43", "4000", "60.00", "CD Eligible"),
        ("1000200", "5000", "20.00", "4000", "10.00", "Ineligible"),
    ]
    near = "partially_within_half_mile_of_eligible_tract"
    assert rows(output / "cdbg_zap_eligibility.csv", "project_id", "Project_Name", near) == [
        ("P1", "Near", "Yes"),
        ("P2", "Far", "No"),
    ]
    tests = known_tests(team.lifecycle / "builds" / "cdbg")
    assert len(tests) > 100
    for name in ("output.zip", *(f"cdbg_eligible_2020_census_tracts.{x}" for x in ("xlsx", "csv"))):
        assert (output / name).is_file()


def test_community_board_budget_requests(team: Team) -> None:
    team.ingest(BUDGET_REQUESTS)

    output = team.build("cbbr", "FY2027-first")

    columns = ("unique_id", "tracking_code", "commdist", "explanation", "supporters_1")
    found_by = {
        "R1": "_dpr_parksproperties",
        "R2": "_dcp_facilities",
        "R3": "Manual_Research",
        "R4": "GEOCODING FAILED",
        "R5": "NOT LOCATION DATA",
    }
    assert rows(output / "cbbr_export.csv", *columns, "geo_function") == [
        (id, f"{id}-T", "107", f"Because {id}", "", how) for id, how in found_by.items()
    ]
    assert rows(output / "cbbr_submissions_poly.csv", "unique_id") == [("R1",)]
    assert rows(output / "cbbr_submissions_pts.csv", "unique_id") == [("R2",), ("R3",)]
    assert rows(output / "cbbr_submissions_needgeoms.csv", "unique_id") == [("R4",), ("R5",)]
    assert (output / "cbbr_submissions_poly_shapefile.shp.zip").is_file()
    assert (output / "version.txt").read_text() == "FY2027\n"


def test_city_owned_lots_in_duckdb(team: Team) -> None:
    stored = {}
    for (bucket, key), given in CITY_LOTS_STORED.items():
        path = team.files / Path(key).name
        write_file(path, with_all_columns(path.stem, given, team.root), crs=DEGREES)
        stored[bucket, key] = path
    team.put(stored)
    team.ingest(CITY_LOTS)

    output = team.build("lift", "26v1-first")

    columns: Sequence[str] = ("bbl", "parcel_name", "nta2020", "displacement_risk_formula")
    projects = ("cpprojects", "cpspenttotal", "cp_project_descriptions", "trnstzone")
    assert rows(output / "dataset_files" / "lift_supplemented.csv", *columns, *projects) == [
        ("1000010001", "A yard", "MN0101", "High", "2", "1020.5", "A park, new | Trees", "In"),
        ("1000020001", "A garage", "MN0202", "", "0", "0.0", "", ""),
    ]
    assert (output / "output.zip").is_file()


def test_the_checkout_is_as_it_was(team: Team) -> None:
    assert git(team.root, "status", "--porcelain", "--ignored") == ""
