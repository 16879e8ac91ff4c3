"""The pipeline on NYC's own checkout: its dcpy, its templates, storage, Postgres and DuckDB.

Runs where DATA_ENGINEERING_ROOT names a real checkout and DCPY_PYTHON an interpreter with its dcpy;
what else a test needs and does not find, it is skipped for.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import AssetKey, DagsterInstance

from orchestration.catalog.checkout import PRODUCTS_FILE, PROJECT_ROOT
from orchestration.catalog.ingest_templates import read_template
from orchestration.definitions.ingest import build_ingest_asset
from tests.harness.materializing import failure_of, own_product, without_retries
from tests.harness.postgres import PASSWORD
from tests.harness.processes import orchestration
from tests.harness.real_dcpy import NOT_OURS, RealCheckout, free_port

pytest_plugins = ["tests.harness.real_dcpy"]

POINTS = "Id,Boro Name,Value\n1,Bronx,1.5\n2,Queens,2.5\n3,Brooklyn,3.5\n"
TEMPLATE = """\
id: {name}
acl: public-read
attributes: {{name: My points, url: https://example.invalid/points}}
ingestion:
  source: {source}
  file_format: {{type: csv}}
  processing_steps:
  - name: clean_column_names
    args: {{replace: {{" ": _}}, lower: true}}
"""
# Real templates with a csv `file_download` source: a file for each, and what comes out of it.
REAL_TEMPLATES = {
    "nysoasas_programs": (
        "PROVIDER_NAME,PROGRAM_ZIP_CODE\nHope,10001\nHelp,10002\nHome,10003\n",
        3,
        {"provider_name": "VARCHAR", "program_zip_code": "VARCHAR"},
    ),
    "dcp_housing": (
        "Job_Number,longitude,latitude,ClassANet\n1,-73.9,40.7,10\n2,-73.8,40.8,5\n",
        2,
        {
            "job_number": "VARCHAR",
            "longitude": "VARCHAR",
            "latitude": "VARCHAR",
            "classanet": "VARCHAR",
            "geom": "GEOMETRY",
        },
    ),
}
RECIPE = """\
name: Own product
product: own
version: 26Q1
env: {VERSION_PREV: 25Q4}
inputs:
  missing_versions_strategy: find_latest
  datasets:
  - {name: my_points, version: latest, destination: file}
"""
# How a build reads what was loaded, by destination.
READ = {
    "file": """
import json, pandas
metadata = json.load(open(f"{output}/build_metadata.json"))
[dataset] = metadata["load_result"]["datasets"]["my_points"].values()
rows = len(pandas.read_parquet(dataset["destination"]))
""",
    "duckdb": """
import duckdb
with duckdb.connect(f"{output}/own_{os.environ['VERSION']}.duckdb", read_only=True) as connection:
    [[rows]] = connection.sql(f"SELECT count(*) FROM {schema}.my_points").fetchall()
""",
    "postgres": """
import psycopg2
with psycopg2.connect(os.environ["BUILD_ENGINE"]) as connection, connection.cursor() as cursor:
    cursor.execute("SELECT count(*) FROM my_points")
    [[rows]] = cursor.fetchall()
""",
}
BUILD = """\
import os
output, schema = os.environ["BUILD_ENV_OUTPUT_DIR"], os.environ["BUILD_ENGINE_SCHEMA"]
{read}
with open(f"{{output}}/rows.txt", "w") as file:
    print(os.environ["VERSION"], os.environ["VERSION_PREV"], rows, file=file)
"""


@dataclass(frozen=True)
class Real:
    """A checkout and a lifecycle folder of this module's, and the program that works on them."""

    checkout: RealCheckout
    lifecycle: Path
    project: Path
    folder: Path
    """For whatever a test wants to write."""

    def template(self, name: str, source: Mapping[str, Any]) -> Path:
        """Adds a template of one's own."""
        path = self.checkout.root / "ingest_templates" / f"{name}.yml"
        path.write_text(TEMPLATE.format(name=name, source=json.dumps(source)))
        return path

    def product(self, name: str, destination: str) -> None:
        """Adds a product of one's own, which reads `my_points`, and its code location."""
        folder = self.checkout.root / "products" / name
        folder.mkdir()
        (folder / "recipe.yml").write_text(RECIPE.replace("file", destination))
        (folder / "build.py").write_text(BUILD.format(read=READ[destination]))
        with (self.checkout.root / PRODUCTS_FILE).open("a") as file:
            file.write(f"- id: {name}\n  build_command: python build.py\n")
        self.run("generate")

    def run(self, *arguments: str) -> str:
        """What `python -m orchestration` prints; it has to succeed."""
        done = orchestration(*arguments, project=self.project)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def metadata(self, *key: str) -> dict[str, Any]:
        """The metadata of an asset's latest materialization, as Dagster keeps it."""
        with DagsterInstance.from_config(str(self.lifecycle.with_name("dagster"))) as instance:
            event = instance.get_latest_materialization_event(AssetKey(key))
        assert event and event.asset_materialization
        return {k: v.value for k, v in event.asset_materialization.metadata.items()}


@pytest.fixture(scope="module", autouse=True)
def _is_tried_once() -> Iterator[None]:
    with without_retries():
        yield


@pytest.fixture(scope="module")
def real(farm: RealCheckout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    """The farm with a copy of the program, and nothing of the caller's storage or Postgres."""
    folder = tmp_path_factory.mktemp("real")
    project = folder / "project"
    for name in ("orchestration", "templates"):
        ignored = shutil.ignore_patterns("__pycache__", ".venv")
        shutil.copytree(PROJECT_ROOT / name, project / name, ignore=ignored)
    lifecycle = folder / "lifecycle"
    (folder / "points.csv").write_text(POINTS)
    with pytest.MonkeyPatch.context() as patch:
        for name in filter(NOT_OURS.match, list(os.environ)):
            patch.delenv(name)
        patch.setenv("DATA_ENGINEERING_ROOT", str(farm.root))
        patch.setenv("DCPY_PYTHON", str(farm.python))
        patch.setenv("DCPY_LIFECYCLE_DATA_DIR", str(lifecycle))
        patch.setenv("DAGSTER_HOME", str(lifecycle.with_name("dagster")))
        made = Real(farm, lifecycle, project, folder)
        made.template("my_points", {"type": "local_file", "path": str(folder / "points.csv")})
        made.run("generate")
        yield made


@pytest.fixture(scope="module")
def _archived(real: Real, storage: dict[str, str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        set_variables(patch, storage)
        path = real.checkout.root / "ingest_templates" / "my_points.yml"
        asset = build_ingest_asset(template=read_template(path))
        assert failure_of([asset], "20260101", {"push": True, "latest": True}) is None


@pytest.fixture
def stored(
    real: Real, storage: dict[str, str], _archived: None, monkeypatch: pytest.MonkeyPatch
) -> Real:
    """`my_points` archived as version 20260101 and as the latest, and the storage to be used."""
    set_variables(monkeypatch, storage)
    return real


def set_variables(patch: pytest.MonkeyPatch, variables: Mapping[str, str | None]) -> None:
    """Sets the variables, and unsets those that are None."""
    for name, value in variables.items():
        if value is None:
            patch.delenv(name, raising=False)
        else:
            patch.setenv(name, value)


def columns(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {column.name: column.type for column in metadata["dagster/column_schema"].columns}


def test_every_product_and_template_is_there_and_nothing_imports_dcpy(real: Real) -> None:
    listed = yaml.safe_load((real.checkout.root / PRODUCTS_FILE).read_text())["products"] or []
    locations = yaml.safe_load((real.project / "workspace.yaml").read_text())["load_from"]
    assert len(locations) == len(listed) + 1

    modules = [location["python_module"]["module_name"] for location in locations]
    loaded = subprocess.check_output(
        [
            sys.executable,
            "-c",
            "import importlib, sys\n"
            "defs = [importlib.import_module(name).defs for name in sys.argv[1:]]\n"
            "graphs = [d.resolve_asset_graph() for d in defs]\n"
            "print(*(len(g.materializable_asset_keys) for g in graphs), 'dcpy' in sys.modules)",
            *modules,
        ],
        cwd=real.project,
        text=True,
    ).split()
    templates = list((real.checkout.root / "ingest_templates").glob("*.yml"))
    assert loaded == [str(len(templates)), *["4"] * len(listed), "False"]


def test_a_template_of_ones_own_is_ingested_from_a_local_file(real: Real) -> None:
    real.run("materialize", "ingest/my_points", "20260401")

    folder = real.lifecycle / "ingest" / "my_points" / "20260401"
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) == [
        "datasource.json",
        "definition.lock.json",
        "ingest.log",
        "ingest.tables.json",
        "my_points/_init.parquet",
        "my_points/config.json",
        "my_points/my_points.parquet",
        "points.csv",
    ]
    metadata = real.metadata("ingest", "my_points")
    assert metadata["version"] == "20260401"
    assert metadata["dagster/row_count"] == 3
    assert columns(metadata) == {"id": "BIGINT", "boro_name": "VARCHAR", "value": "DOUBLE"}
    assert metadata["path"] == str(folder)


@pytest.mark.parametrize("name", REAL_TEMPLATES)
def test_a_real_template_is_ingested_from_a_local_file(real: Real, name: str) -> None:
    content, rows, expected = REAL_TEMPLATES[name]
    path = real.checkout.root / "ingest_templates" / f"{name}.yml"
    if not path.is_file():
        pytest.skip(f"the checkout has no template {name}")
    file = real.folder / f"{name}.csv"
    file.write_text(content)
    template = yaml.safe_load(path.read_text())
    assert template["ingestion"]["source"]["type"] == "file_download"
    template["ingestion"]["source"] = {"type": "local_file", "path": str(file)}
    path.unlink()
    path.write_text(yaml.safe_dump(template))

    real.run("materialize", f"ingest/{name}", "25Q2")

    assert (real.lifecycle / "ingest" / name / "25Q2" / name / f"{name}.parquet").is_file()
    metadata = real.metadata("ingest", name)
    assert (metadata["version"], metadata["dagster/row_count"]) == ("25Q2", rows)
    assert columns(metadata) == expected


def test_a_template_is_ingested_over_http(real: Real, web: tuple[str, Path]) -> None:
    address, folder = web
    (folder / "points_2026.csv").write_text(POINTS)
    url = f"{address}/points_{{{{ version }}}}.csv"
    real.template("web_points", {"type": "file_download", "url": url})

    real.run("materialize", "ingest/web_points", "2026")

    assert (real.lifecycle / "ingest/web_points/2026/web_points/web_points.parquet").is_file()
    assert real.metadata("ingest", "web_points")["dagster/row_count"] == 3


def test_a_template_that_makes_something_of_its_version_is_ingested(real: Real) -> None:
    path = real.template("made_points", {"type": "local_file", "path": "FILE"})
    text = path.read_text().replace("FILE", f"{real.folder}/{{{{ version.split('-')[1] }}}}.csv")
    path.write_text("{% set year = version[:4] | int %}\n" + text)
    real.run("materialize", "ingest/made_points", "2026-points")
    assert real.metadata("ingest", "made_points")["dagster/row_count"] == 3


@pytest.mark.parametrize("destination", READ)
def test_a_product_is_planned_loaded_and_built(
    stored: Real,
    destination: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needed = {"file": [], "duckdb": ["spatial_home"], "postgres": ["postgres"]}[destination]
    for fixture in needed:
        set_variables(monkeypatch, request.getfixturevalue(fixture))
    product = f"own_{destination}"
    stored.product(product, destination)

    stored.run("materialize", product, "26Q1-first")

    [dataset] = [r.data for r in stored.metadata(product, "plan")["datasets"].records]
    assert (dataset["id"], dataset["version"]) == ("my_points", "20260101")
    [loaded] = [r.data for r in stored.metadata(product, "load")["datasets"].records]
    assert loaded["destination_type"] == destination
    folder = stored.lifecycle / "builds" / product / "26Q1-first"
    assert (folder / "build" / "rows.txt").read_text() == "26Q1 25Q4 3\n"
    outputs = [r.data["file"] for r in stored.metadata(product, "build")["outputs"].records]
    assert outputs == ["rows.txt"]
    assert untold(stored.lifecycle, PASSWORD)


def untold(folder: Path, secret: str) -> bool:
    """Whether no file below the folder holds the secret, the instance's database included."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return not any(secret.encode() in path.read_bytes() for path in files)


Variables = Mapping[str, str | None]
INGEST_FAILURES: dict[str, tuple[Any, Mapping[str, Any], Variables, tuple[str, ...]]] = {
    "no such template": (None, {}, {}, ("There is no template broken", "reload the ingest")),
    "not YAML": ("id: [unclosed\na: b: c\n", {}, {}, ("near line 2", "Mend the template")),
    "wrong schema": (
        {"colour": "red"},
        {},
        {},
        ("does not fit dcpy's schema", "colour: Extra inputs are not permitted", "Mend"),
    ),
    "wrong step": ({"step": "nosuch"}, {}, {}, ("step nosuch of dataset broken", "Mend")),
    "wrong connector": (
        {"source": {"type": "floppy", "path": "x"}},
        {},
        {},
        ("'floppy' not registered", "Mend the template"),
    ),
    "wrong variable": (
        {"source": {"type": "local_file", "path": "{{ year }}"}},
        {},
        {},
        ("uses 'year'", "only variable", "Mend the template"),
    ),
    "no file": (
        {"source": {"type": "local_file", "path": "/nowhere/{{ version }}.csv"}},
        {},
        {},
        ("/nowhere/1.csv does not exist", "Put it there"),
    ),
    "nobody at the address": (
        {"source": {"type": "file_download", "url": "http://127.0.0.1:{port}/x.csv"}},
        {},
        {},
        ("host 127.0.0.1 cannot be reached", "Check the network"),
    ),
    "no file in the checkout": (
        {"source": {"type": "local_file", "path": "./nowhere.csv"}},
        {},
        {},
        ("data-engineering/nowhere.csv does not exist", "is looked for in the checkout"),
    ),
    "an s3 source without keys": (
        {"source": {"type": "s3", "bucket": "test-recipes", "key": "inbox/x.csv"}},
        {},
        {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
        ("AWS_ACCESS_KEY_ID is not set. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",),
    ),
    "no such version in s3": (
        {"source": {"type": "s3", "bucket": "test-recipes", "key": "inbox/{{ version }}.csv"}},
        {},
        {},
        ("for version '1': ", "key inbox/1.csv", "bucket test-recipes", "Check the version"),
    ),
    "no bucket of the GIS team": (
        {"source": {"type": "edm.publishing.gis", "key": "dcp_points"}},
        {},
        {"PUBLISHING_BUCKET": None},
        ("PUBLISHING_BUCKET, which names the bucket, is not set",),
    ),
    "no such version of the GIS team": (
        {"source": {"type": "edm.publishing.gis", "key": "dcp_points"}},
        {},
        {},
        ("the GIS team's dcp_points, which has no version 1",),
    ),
    "no such version of another dataset": (
        {"source": {"type": "edm.recipes.datasets", "key": "my_points"}},
        {},
        {},
        ("is version 1 of dataset my_points, which is not archived",),
    ),
    "no user for SFTP": (
        {"source": {"type": "axway", "key": "x.csv"}},
        {},
        {},
        ("is an SFTP server", "Set AXWAY_SFTP_USER and AXWAY_SFTP_PASSWORD"),
    ),
    "nothing to know an SFTP server by": (
        {"source": {"type": "axway", "key": "x.csv"}},
        {},
        {"AXWAY_SFTP_USER": "me", "AXWAY_SFTP_PASSWORD": "pw-not-to-be-told", "HOME": "/nowhere"},
        ("there is no /nowhere/.ssh/known_hosts", "ssh-keyscan"),
    ),
    "another format": (
        {"format": {"type": "parquet"}},
        {},
        {},
        ("is not the Parquet file that `file_format` says", "Mend the source"),
    ),
    "no acl": ({"acl": None}, {"push": True}, {}, ("has no `acl`", "Add one")),
    "no credentials": (
        {},
        {"push": True},
        {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
        ("no credentials", "Set AWS_ACCESS_KEY_ID"),
    ),
    "half of the credentials": (
        {},
        {},
        {"AWS_SECRET_ACCESS_KEY": None},
        ("AWS_SECRET_ACCESS_KEY is missing", "Set both"),
    ),
    "no bucket": (
        {},
        {"push": True},
        {"RECIPES_BUCKET": "nosuch"},
        ("no such bucket", "Set RECIPES_BUCKET"),
    ),
    "no storage": (
        {},
        {"push": True},
        {"HTTPS_PROXY": "http://127.0.0.1:{port}"},
        ("does not answer", "HTTPS_PROXY"),
    ),
}


@pytest.mark.parametrize("what", INGEST_FAILURES)
def test_a_failed_ingest_says_why(
    real: Real, storage: dict[str, str], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, config, variables, says = INGEST_FAILURES[what]
    path = real.template("broken", {"type": "local_file", "path": str(real.folder / "points.csv")})
    asset = build_ingest_asset(template=read_template(path))
    port = str(free_port())
    match change:
        case None:
            path.unlink()
        case str():
            path.write_text(change)
        case {**changes}:
            template = yaml.safe_load(path.read_text())
            if step := changes.pop("step", None):
                template["ingestion"]["processing_steps"][0]["name"] = step
            if source := changes.pop("source", None):
                template["ingestion"]["source"] = source
            if file_format := changes.pop("format", None):
                template["ingestion"]["file_format"] = file_format
            template = {k: v for k, v in {**template, **changes}.items() if v is not None}
            path.write_text(yaml.safe_dump(template).replace("{port}", port))
    set_variables(monkeypatch, with_port({**storage, **variables}, port))

    said = failure_of([asset], "1", config)

    assert_said(real, said, "Template 'broken', version '1': ", says)
    path.unlink(missing_ok=True)


def with_port(variables: Variables, port: str) -> Variables:
    return {name: value and value.replace("{port}", port) for name, value in variables.items()}


def assert_said(real: Real, said: str | None, subject: str, says: tuple[str, ...]) -> None:
    assert said
    assert said.startswith(subject)
    assert [part for part in says if part not in said] == []
    logs = real.lifecycle.rglob(".*.failed.log")
    logged = max(logs, key=lambda log: log.stat().st_mtime_ns).read_text()
    assert "Traceback (most recent call last):" not in said
    assert "Traceback (most recent call last):" in logged
    assert "/dcpy/" in logged
    assert not re.search("not-to-be-told", said + logged)


def test_a_version_archived_with_other_data_is_told(stored: Real) -> None:
    other = stored.folder / "other.csv"
    other.write_text("Id,Boro Name,Value\n9,Bronx,9.5\n")
    path = stored.template("my_points", {"type": "local_file", "path": str(other)})
    asset = build_ingest_asset(template=read_template(path))
    said = failure_of([asset], "20260101", {"push": True})
    stored.template("my_points", {"type": "local_file", "path": str(stored.folder / "points.csv")})
    says = ("Version 20260101 of dataset my_points is archived", "`overwrite_okay: true`")
    assert_said(stored, said, "Template 'my_points', version '20260101': ", says)


BUILD_FAILURES: dict[str, tuple[str, tuple[str, str], Variables, tuple[str, ...]]] = {
    "never archived": (
        "plan",
        ("my_points", "never_archived"),
        {},
        ("never_archived was never archived", "no template here gives it", "RECIPES_BUCKET"),
    ),
    "version not archived": (
        "plan",
        ("version: latest", "version: '1999'"),
        {},
        ("Version 1999 of dataset my_points", "Materialize ingest/my_points"),
    ),
    "previous version": (
        "plan",
        ("VERSION_PREV", "OTHER"),
        {"PUBLISHING_BUCKET": None},
        ("PUBLISHING_BUCKET is not set", "VERSION_PREV"),
    ),
    "variable": (
        "plan",
        ("26Q1", "'{{ BUILD_ENV_YEAR }}'"),
        {},
        ("the variable BUILD_ENV_YEAR, which is not set", "Set it"),
    ),
    "unknown field": (
        "plan",
        ("name: Own", "colour: red\nname: Own"),
        {},
        ("colour: Extra inputs are not permitted", "Mend the recipe"),
    ),
    "file type not archived": (
        "load",
        ("destination", "file_type: csv, destination"),
        {},
        ("dataset my_points is not archived as csv", "Materialize ingest/my_points"),
    ),
    "no Postgres settings": (
        "load",
        ("destination: file", "destination: postgres"),
        {"BUILD_ENGINE_SERVER": "postgresql://me:pw@127.0.0.1:{port}", "BUILD_ENGINE_DB": None},
        ("BUILD_ENGINE_DB is not set", "Set BUILD_ENGINE_SERVER"),
    ),
    "no Postgres server": (
        "load",
        ("destination: file", "destination: postgres"),
        {"BUILD_ENGINE_SERVER": "postgresql://me:pw@127.0.0.1:{port}", "BUILD_ENGINE_DB": "db"},
        ("Postgres at 127.0.0.1, port {port} cannot be used", "Set BUILD_ENGINE_SERVER"),
    ),
}


@pytest.mark.parametrize("what", BUILD_FAILURES)
def test_a_failed_plan_or_load_says_why(
    stored: Real, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, (old, new), variables, says = BUILD_FAILURES[what]
    recipe = stored.checkout.root / "products" / "own" / "recipe.yml"
    recipe.parent.mkdir(exist_ok=True)
    recipe.write_text(RECIPE.replace(old, new))
    port = str(free_port())
    set_variables(monkeypatch, with_port(variables, port))

    said = failure_of(own_product(*("plan", "load")[: 1 + (stage == "load")]), "26Q1-broken")

    expected = tuple(part.replace("{port}", port) for part in says)
    assert_said(stored, said, f"Product 'own product', {stage}: ", expected)
