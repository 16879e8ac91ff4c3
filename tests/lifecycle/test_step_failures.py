"""What dcpy raises comes out as a sentence that names whose it is, the cause, and what to do.

The first half provokes each failure that the sample's dcpy has, from the asset down. The others are
explained from the exceptions of NYC's dcpy as they were recorded: type, module and text. On a real
checkout `test_real_checkout.py` provokes those of the real one.
"""

import builtins
import errno
import json
import re
import shutil
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any

import pytest

from orchestration.catalog.checkout import SAMPLE_ROOT
from orchestration.catalog.ingest_templates import read_template
from orchestration.definitions.ingest import build_ingest_asset
from orchestration.lifecycle.child import StageFailed
from orchestration.lifecycle.environment import dcpy_python, problem_with_dcpy
from orchestration.lifecycle.redaction import Redactor
from orchestration.lifecycle.step_runner import failing
from orchestration.lifecycle.steps.failures import TABLE, explain, found, rows
from tests.harness.materializing import failure_of, own_product

TEMPLATE = "ingest_templates/qpl_libraries.yml"
RECIPE = "products/own/recipe.yml"
VALID_RECIPE = """\
name: Own product
product: own
version: 26Q1
env: {VERSION_PREV: 25Q4}
inputs:
  missing_versions_strategy: find_latest
  datasets:
  - {name: qpl_libraries, destination: duckdb}
"""


@dataclass(frozen=True)
class Broken:
    """A copy of the sample with something wrong in it, and what the failure says."""

    what: str
    stage: str
    says: tuple[str, ...]
    edits: tuple[tuple[str, str, str | None], ...] = ()
    """File, what to replace there (empty: all of it), and by what (None: the file is removed)."""
    config: Mapping[str, Any] = field(default_factory=dict)
    template: str = "qpl_libraries"
    partition: str = "2026-first"


INGEST = [
    Broken(
        "template removed after the location was loaded",
        "ingest",
        ("There is no template qpl_libraries", "reload the ingest location"),
        ((TEMPLATE, "", None),),
    ),
    Broken(
        "not YAML",
        "ingest",
        ("qpl_libraries.yml is not valid YAML, near line 2", "Mend the template"),
        ((TEMPLATE, "", "id: [unclosed\na: b: c\n"),),
    ),
    Broken(
        "not Jinja",
        "ingest",
        ("qpl_libraries.yml is not valid Jinja", "Mend the template"),
        ((TEMPLATE, "data/qpl", "{{ version }"),),
    ),
    Broken(
        "a variable other than version",
        "ingest",
        ("qpl_libraries.yml uses 'year'", "only variable", "Mend the template"),
        ((TEMPLATE, "data/qpl", "{{ year }}/qpl"),),
    ),
    Broken(
        "unknown field",
        "ingest",
        ("qpl_libraries.yml does not fit dcpy's schema", "'colour'", "Mend the template"),
        ((TEMPLATE, "acl:", "colour: red\nacl:"),),
    ),
    Broken(
        "unknown processing step",
        "ingest",
        ("filter_rowz of dataset qpl_libraries", "Function not found", "Mend the template"),
        ((TEMPLATE, "filter_rows", "filter_rowz"),),
    ),
    Broken(
        "processing step with wrong arguments",
        "ingest",
        ("filter_rows of dataset qpl_libraries", "argument: 'val'", "Mend the template"),
        ((TEMPLATE, "val: open", "valu: open"),),
    ),
    Broken(
        "unknown source",
        "ingest",
        ("a source that dcpy does not know", "'floppy'", "Mend the template"),
        ((TEMPLATE, "local_file", "floppy"),),
    ),
    Broken(
        "source on the network",
        "ingest",
        ("the source of", "socrata", "`local_file`"),
        ((TEMPLATE, "local_file", "socrata"),),
    ),
    Broken(
        "no file for the version",
        "ingest",
        ("data/dcp_capital_projects/2026-first.csv does not exist", "Put it there", "the checkout"),
        template="dcp_capital_projects",
    ),
    Broken(
        "source is a folder",
        "ingest",
        ("The source data is a folder", "Mend the template"),
        ((TEMPLATE, "data/qpl_libraries.csv", "data"),),
    ),
    Broken(
        "column of a processing step missing",
        "ingest",
        ("no columns ['state']", "Mend the step"),
        ((TEMPLATE, "columns: [ status ]", "columns: [ state ]"),),
    ),
    Broken(
        "mode that the template does not have",
        "ingest",
        ("mode 'small'", "another `mode`"),
        config={"mode": "small"},
    ),
    Broken(
        "latest without push",
        "ingest",
        ("`latest: true` does nothing without `push: true`", "Add that", "or leave `latest` out"),
        config={"latest": True},
    ),
    Broken(
        "overwrite_okay without push",
        "ingest",
        ("`overwrite_okay: true` does nothing without `push: true`",),
        config={"overwrite_okay": True},
    ),
    Broken(
        "dataset that the template does not give",
        "ingest",
        ("no dataset 'zoos'", "'dpr_greenthumb', 'dpr_playgrounds'", "Mend `datasets_filter`"),
        config={"datasets_filter": ["zoos"]},
        template="dpr_sites",
    ),
]
PLAN = [
    Broken(
        "no recipe",
        "plan",
        ("There is no recipe at", "Add it"),
        ((RECIPE, "", None),),
    ),
    Broken(
        "dataset never archived",
        "plan",
        ("qpl_librariez was never archived", "no template here gives it", "the team's storage"),
        ((RECIPE, "qpl_libraries", "qpl_librariez"),),
    ),
    Broken(
        "version not archived",
        "plan",
        ("1999 of dataset qpl_libraries is not archived", "Materialize ingest/qpl_libraries for"),
        ((RECIPE, "destination", 'version: "1999", destination'),),
    ),
    Broken(
        "previous version is looked up",
        "plan",
        ("PUBLISHING_BUCKET is not set", "VERSION_PREV"),
        ((RECIPE, "VERSION_PREV", "OTHER"),),
    ),
    Broken(
        "variable not set",
        "plan",
        ("the variable BUILD_ENV_YEAR, which is not set", "Set it where Dagster is started"),
        ((RECIPE, "26Q1", "'{{ BUILD_ENV_YEAR }}'"),),
    ),
    Broken(
        "not Jinja",
        "plan",
        ("recipe.yml is not valid Jinja in line 3", "Mend the recipe"),
        ((RECIPE, "26Q1", "{{ 26Q1 }"),),
    ),
    Broken(
        "not YAML",
        "plan",
        ("recipe.yml is not valid YAML, near line 3", "Mend the recipe"),
        ((RECIPE, "26Q1", "a: b: c"),),
    ),
    Broken(
        "unknown field",
        "plan",
        ("recipe.yml does not fit the schema", "'colour'", "Mend the recipe"),
        ((RECIPE, "name: Own", "colour: red\nname: Own"),),
    ),
    Broken(
        "empty recipe",
        "plan",
        ("recipe.yml does not fit the schema", "None", "Mend the recipe"),
        ((RECIPE, "", ""),),
    ),
    Broken(
        "base recipe missing",
        "plan",
        ("own/base.yml, which does not exist", "mend `base_recipe`"),
        ((RECIPE, "version:", "base_recipe: base.yml\nversion:"),),
    ),
    Broken(
        "no version",
        "plan",
        ("The build has no version", "Use a key such as 2026.1-first"),
        ((RECIPE, "version: 26Q1\n", ""),),
        partition="first",
    ),
    Broken(
        "version from a variable that is not set",
        "plan",
        ("dataset qpl_libraries comes from the variable QPL_VERSION", "Set it"),
        ((RECIPE, "destination", "version_env_var: QPL_VERSION, destination"),),
    ),
    Broken(
        "version pinned to what is no input",
        "plan",
        ("dataset zoos, which is not among the inputs", "Mend the recipe"),
        ((RECIPE, "version: 26Q1", "version_strategy: {pin_to_source_dataset: zoos}"),),
        partition="first",
    ),
    Broken(
        "version after the latest release",
        "plan",
        ("PUBLISHING_BUCKET is not set", "a version"),
        ((RECIPE, "version: 26Q1", "version_strategy: bump_latest_release"),),
        partition="first",
    ),
    Broken(
        "source on the network",
        "plan",
        ("qpl_libraries", "comes from bytes", "Leave `source` out"),
        ((RECIPE, "destination", "source: bytes, destination"),),
    ),
]
LOAD = [
    Broken(
        "file type not archived",
        "load",
        ("of dataset qpl_libraries is not archived as csv", "mend `version` and `file_type`"),
        ((RECIPE, "destination", "file_type: csv, destination"),),
    ),
    Broken(
        "destination that the sample has not",
        "load",
        ("dataset qpl_libraries goes to postgres", "`destination: duckdb`"),
        ((RECIPE, "duckdb", "postgres"),),
    ),
]


@pytest.fixture(scope="module")
def python(sample_dcpy: dict[str, str]) -> str:
    """An interpreter that has the sample's dcpy."""
    return sample_dcpy["DCPY_PYTHON"]


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory, python: str) -> Path:
    """A lifecycle folder with one version of qpl_libraries."""
    folder = tmp_path_factory.mktemp("ingested")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DCPY_LIFECYCLE_DATA_DIR", str(folder))
        patch.setenv("DCPY_PYTHON", python)
        asset = build_ingest_asset(template=read_template(SAMPLE_ROOT / TEMPLATE))
        assert failure_of([asset], "2026") is None
    return folder


@pytest.fixture
def sample(
    checkout: Path, lifecycle: Path, ingested: Path, python: str, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A checkout to break, with a product of its own and one ingested version."""
    (checkout / RECIPE).parent.mkdir()
    (checkout / RECIPE).write_text(VALID_RECIPE)
    shutil.copytree(ingested, lifecycle, symlinks=True, dirs_exist_ok=True)
    monkeypatch.setenv("DATA_ENGINEERING_ROOT", str(checkout))
    monkeypatch.setenv("DCPY_PYTHON", python)
    return checkout


@pytest.mark.parametrize("broken", INGEST + PLAN + LOAD, ids=lambda b: f"{b.stage}: {b.what}")
def test_a_failure_in_the_sample_says_whose_it_is_and_what_to_do(
    sample: Path, lifecycle: Path, broken: Broken
) -> None:
    if broken.stage == "ingest":
        template = read_template(sample / "ingest_templates" / f"{broken.template}.yml")
        assets = [build_ingest_asset(template=template)]
        subject = f"Template '{broken.template}', version '{broken.partition}': "
    else:
        assets = own_product(*("plan", "load")[: 1 + (broken.stage == "load")])
        subject = f"Product 'own product', {broken.stage}: "
    for file, old, new in broken.edits:
        change(sample / file, old, new)

    said = failure_of(assets, broken.partition, broken.config)

    assert said
    sentence, _, traceback = said.partition("\n\n")
    assert sentence.startswith(subject)
    assert [part for part in broken.says if part not in sentence] == []
    logs = [log.read_text() for log in lifecycle.rglob("*.failed.log")]
    assert [sentence in log for log in logs] == [True]
    if traceback:
        assert traceback.startswith("Traceback (most recent call last):")
        assert traceback.strip() in logs[0]


def change(file: Path, old: str, new: str | None) -> None:
    if new is None:
        file.unlink()
    else:
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new) if old else new)


def test_a_template_that_makes_something_of_its_version_is_ingested(
    sample: Path, lifecycle: Path
) -> None:
    change(sample / TEMPLATE, "data/qpl_libraries", "data/{{ version.split('-')[1] }}_libraries")
    change(sample / TEMPLATE, "attributes:", "{% set year = version[:4] | int %}\nattributes:")
    asset = build_ingest_asset(template=read_template(sample / TEMPLATE))
    assert failure_of([asset], "2026-qpl") is None
    assert (lifecycle / "ingest/qpl_libraries/2026-qpl/qpl_libraries.csv").is_file()


def test_a_version_archived_with_other_data_is_not_replaced_by_accident(sample: Path) -> None:
    template = read_template(sample / TEMPLATE)
    assets = [build_ingest_asset(template=template)]
    assert failure_of(assets, "1", {"push": True}) is None
    change(sample / "data" / "qpl_libraries.csv", "Astoria", "Elsewhere")

    said = failure_of(assets, "1", {"push": True})

    assert said and "Version 1 of dataset qpl_libraries is archived already, with other" in said
    assert "`overwrite_okay: true`" in said
    assert failure_of(assets, "1", {"push": True, "overwrite_okay": True}) is None


def test_a_base_recipe_of_a_base_recipe_is_not_planned_and_plan_says_so(
    sample: Path, lifecycle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, base in (("recipe", "middle"), ("middle", "base"), ("base", None)):
        text = f"base_recipe: {base}.yml\n{VALID_RECIPE}" if base else VALID_RECIPE
        if name == "base":
            text = text.replace("qpl_libraries", "nypl_libraries")
        (sample / RECIPE).with_stem(name).write_text(text)

    assert failure_of(own_product("plan"), "26Q1-first") is None

    assert "Add to recipe.yml what it needs of base.yml." in "".join(capfd.readouterr())
    [lock] = lifecycle.glob("builds/own_product/26Q1-first/recipe.lock.yml")
    assert "nypl_libraries" not in lock.read_text()


def test_a_secret_in_an_exception_is_not_told(
    sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_PASSWORD", "hunter22")
    template = read_template(sample / TEMPLATE)
    change(sample / TEMPLATE, "data/qpl_libraries", "data/hunter22/qpl_libraries")
    said = failure_of([build_ingest_asset(template=template)], "1")
    assert said and "data/***/qpl_libraries.csv does not exist" in said
    assert "hunter22" not in said


# Recorded from NYC's dcpy at 96e1b9f8: stage, module and bases of the exception, its text, and what
# the sentence has to hold. In paths, {root} is the checkout.
RECORDED = [
    (
        "ingest",
        "builtins.FileNotFoundError",
        "[Errno 2] No such file or directory: '{root}/ingest_templates/own.yml'",
        ("no template own in {root}/ingest_templates", "Check the name"),
    ),
    (
        "ingest",
        "builtins.FileNotFoundError",
        "[Errno 2] No such file or directory: '/data/points_None.csv'",
        ("needs a version", "/data/points_None.csv", "Materialize a partition"),
    ),
    (
        "ingest",
        "requests.exceptions.HTTPError < OSError",
        "404 Client Error: File not found for url: http://127.0.0.1:8123/points_None.csv",
        ("needs a version", "http://127.0.0.1:8123/points_None.csv", "Materialize a partition"),
    ),
    (
        "ingest",
        "requests.exceptions.HTTPError < OSError",
        "404 Client Error: File not found for url: http://127.0.0.1:8123/nope.csv?token=abc",
        ("http://127.0.0.1:8123/nope.csv answers 404", "Check the version"),
    ),
    (
        "ingest",
        "requests.exceptions.HTTPError < OSError",
        "503 Server Error: Service Unavailable for url: http://127.0.0.1:8123/busy.csv?token=abc",
        ("http://127.0.0.1:8123/busy.csv answers 503, which may pass", "Run this again later"),
    ),
    (
        "ingest",
        "requests.exceptions.ConnectionError < OSError",
        "HTTPConnectionPool(host='127.0.0.1', port=8999): Max retries exceeded with url: "
        "/points.csv (Caused by NewConnectionError(\"HTTPConnection(host='127.0.0.1', port=8999): "
        'Failed to establish a new connection: [Errno 111] Connection refused"))',
        ("host 127.0.0.1 cannot be reached", "Check the network"),
    ),
    (
        "ingest",
        "yaml.scanner.ScannerError < yaml.error.MarkedYAMLError",
        "while scanning for the next token\nfound character '\\t' that cannot start any token\n"
        '  in "<unicode string>", line 2, column 1:\n    \tattributes: 1\n    ^',
        ("own.yml is not valid YAML, near line 2", "Mend the template"),
    ),
    (
        "ingest",
        "jinja2.exceptions.TemplateSyntaxError",
        "expected token 'end of print statement', got 'file_format'",
        ("own.yml is not valid Jinja", "got 'file_format'", "Mend the template"),
    ),
    (
        "ingest",
        "builtins.ValueError",
        "{'malformatted yml': \"4 validation errors for union[DatasetDefinition,"
        "DataSourceDefinition]\\nDatasetDefinition.ingestion.nonsense\\n  Extra inputs are not "
        "permitted [type=extra_forbidden, input_value=1, input_type=int]\\n    For further "
        "information visit https://errors.pydantic.dev/2.14/v/extra_forbidden\\n"
        'DataSourceDefinition.source\\n  Field required [type=missing, ..."}',
        (
            "own.yml does not fit dcpy's schema",
            "DatasetDefinition.ingestion.nonsense: Extra inputs are not permitted;",
            "Mend the template",
        ),
    ),
    (
        "ingest",
        "builtins.ValueError",
        "{'malformatted yml': \"'version' is only suppored jinja var. Vars in definition: "
        "{'other'}\"}",
        ("own.yml uses 'other'", "`version` is the only variable", "Mend the template"),
    ),
    (
        "ingest",
        "builtins.ValueError",
        "{'processing steps': {'own': {'nosuchstep': 'Function not found'}}}",
        ("step nosuchstep of dataset own", "Function not found", "Mend the template"),
    ),
    (
        "ingest",
        "builtins.ValueError",
        "{'processing steps': {'own': {'clean_column_names': {'nope': 'Unexpected'}}}}",
        ("step clean_column_names of dataset own", "'nope': 'Unexpected'", "Mend the template"),
    ),
    (
        "ingest",
        "builtins.ValueError",
        "{'source': {'invalid source type': \"Connector with id 'nosuch' not registered\"}}",
        ("Connector with id 'nosuch' not registered", "Mend the template"),
    ),
    (
        "ingest",
        "builtins.ValueError",
        "{'source': {'invalid arguments': {'org': 'Missing', 'format': 'Missing'}}}",
        ("wrong arguments: 'org': 'Missing', 'format': 'Missing'", "Mend the template"),
    ),
    (
        "ingest",
        "builtins.ValueError",
        "mode 'zzz' is not present in template",
        ("mode 'zzz'", "another `mode`"),
    ),
    (
        "ingest",
        "builtins.ValueError",
        "Declared dataset(s) {'zz'} not found in datasource details. Found dataset(s): "
        "{'two_a', 'two_b'}",
        ("no dataset 'zz'", "'two_a', 'two_b'", "Mend `datasets_filter`"),
    ),
    (
        "ingest",
        "builtins.FileExistsError",
        "Archived dataset id='my_points' version='20260101' already exists and has different data.",
        ("Version 20260101 of dataset my_points is archived", "`overwrite_okay: true`"),
    ),
    (
        "ingest",
        "builtins.AssertionError",
        "❌ Longitude or latitude columns specified do not exist in the dataset.",
        ("not the columns that `geometry` in", "Mend the names"),
    ),
    (
        "ingest",
        "builtins.TypeError",
        "unsupported operand type(s) for 'in': 'str' and 'EnumType'",
        ("needs Python 3.12 or later", "{python} is {version}", "Set DCPY_PYTHON"),
    ),
    (
        "ingest",
        "pandas.errors.EmptyDataError < ValueError",
        "No columns to parse from file",
        ("The source of {root}/ingest_templates/own.yml is empty", "Check"),
    ),
    (
        "ingest",
        "pandas.errors.ParserError < ValueError",
        "Error tokenizing data. C error: Expected 2 fields in line 3, saw 4\n",
        ("Expected 2 fields in line 3, saw 4", "Mend the source"),
    ),
    (
        "ingest",
        "builtins.UnicodeDecodeError",
        "'utf-8' codec can't decode byte 0xe9 in position 0: unexpected end of data",
        ("own.yml is not utf-8 text", "Give its `encoding`"),
    ),
    (
        "ingest",
        "builtins.ValueError",
        "Excel file format cannot be determined, you must specify an engine manually.",
        ("not the Excel file", "Mend the source"),
    ),
    (
        "ingest",
        "builtins.KeyError",
        "\"['nope'] not found in axis\"",
        ("no columns ['nope']", "Mend the step"),
    ),
    (
        "ingest",
        "builtins.PermissionError",
        "[Errno 13] Permission denied: '/data/points.csv'",
        ("no permission to use /data/points.csv", "Give it to the user"),
    ),
    (
        "ingest",
        "builtins.OSError",
        "[Errno 28] No space left on device",
        ("disk is full", "Free some space"),
    ),
    (
        "load",
        "_duckdb.IOException",
        'IO Error: Could not write file "/srv/x.duckdb": No space left on device',
        ("disk is full", "/srv/x.duckdb", "Free some space"),
    ),
    (
        "ingest",
        "botocore.exceptions.NoCredentialsError",
        "Unable to locate credentials",
        ("no credentials", "Set AWS_ACCESS_KEY_ID"),
    ),
    (
        "ingest",
        "botocore.exceptions.PartialCredentialsError",
        "Partial credentials found in env, missing: AWS_SECRET_ACCESS_KEY",
        ("AWS_SECRET_ACCESS_KEY is missing", "Set both"),
    ),
    (
        "plan",
        "botocore.errorfactory.NoSuchBucket < botocore.exceptions.ClientError",
        "An error occurred (NoSuchBucket) when calling the ListObjects operation: The specified "
        "bucket does not exist",
        ("no such bucket", "Set RECIPES_BUCKET"),
    ),
    (
        "load",
        "botocore.exceptions.EndpointConnectionError < botocore.exceptions.ConnectionError",
        'Could not connect to the endpoint URL: "https://nyc3.digitaloceanspaces.com/recipes/x"',
        ("does not answer at https://nyc3.digitaloceanspaces.com/recipes/x", "AWS_S3_ENDPOINT"),
    ),
    (
        "ingest",
        "botocore.exceptions.ProxyConnectionError < botocore.exceptions.ConnectionError",
        'Failed to connect to proxy URL: "http://127.0.0.1:5999"',
        ("proxy http://127.0.0.1:5999 does not answer", "HTTPS_PROXY"),
    ),
    (
        "plan",
        "botocore.exceptions.SSLError < botocore.exceptions.ConnectionError",
        "SSL validation failed for https://nyc3.digitaloceanspaces.com/recipes/datasets/x [SSL: "
        "CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer "
        "certificate (_ssl.c:1006)",
        ("https://nyc3.digitaloceanspaces.com is not trusted", "Set AWS_CA_BUNDLE"),
    ),
    (
        "ingest",
        "botocore.exceptions.ClientError",
        "An error occurred (404) when calling the HeadObject operation: Not Found",
        ("for version '1': bucket inbox, key a/1/b.csv.", "Check the version", "AWS_S3_ENDPOINT"),
    ),
    (
        "load",
        "botocore.exceptions.ClientError",
        "An error occurred (404) when calling the HeadObject operation: Not Found",
        ("HeadObject: 404", "Check AWS_S3_ENDPOINT and the buckets"),
    ),
    (
        "ingest",
        "botocore.exceptions.ClientError",
        "An error occurred (InvalidAccessKeyId) when calling the ListObjects operation: unknown",
        ("refuses the credentials (InvalidAccessKeyId)", "Check AWS_ACCESS_KEY_ID"),
    ),
    (
        "plan",
        "builtins.FileNotFoundError",
        "Source path s3://recipes/datasets/parks/latest/config.json does not exist",
        (
            "parks was never archived as the latest",
            "ingest/city_parks with `push: true` and `latest",
        ),
    ),
    (
        "plan",
        "builtins.FileNotFoundError",
        "Source path s3://recipes/datasets/parks/1999/config.json does not exist",
        ("Version 1999 of dataset parks", "Materialize ingest/city_parks for that version"),
    ),
    (
        "plan",
        "builtins.FileNotFoundError",
        "No files found for dataset parks 19990101.",
        ("Version 19990101 of dataset parks", "Materialize ingest/city_parks"),
    ),
    (
        "plan",
        "builtins.FileNotFoundError",
        "No preferred file types found for dataset parks 24.1.2. Preferred file types: [...]. "
        "Found filetypes: {'xlsx'}.",
        ("Version 24.1.2 of dataset parks", "Materialize ingest/city_parks"),
    ),
    (
        "plan",
        "builtins.FileNotFoundError",
        "File own/publish/latest/source_data_versions.csv not found",
        ("own was never published", "`missing_versions_strategy: find_latest`"),
    ),
    (
        "plan",
        "builtins.AssertionError",
        "'PUBLISHING_BUCKET' must be defined to use edm connectors",
        ("PUBLISHING_BUCKET is not set", "give VERSION_PREV"),
    ),
    (
        "plan",
        "builtins.ValueError",
        "Recipe template requires variable that is not set in BUILD_ENV_* or BUILD_ENGINE_* "
        "environment variables: 'BUILD_ENV_YEAR' is undefined.",
        ("recipe.yml uses the variable BUILD_ENV_YEAR", "Set it where Dagster is started"),
    ),
    (
        "plan",
        "builtins.ValueError",
        "Recipe contains invalid Jinja2 template syntax at line 3: unexpected char '\"' at 59",
        ("recipe.yml is not valid Jinja in line 3", "unexpected char", "Mend the recipe"),
    ),
    (
        "plan",
        "pydantic_core._pydantic_core.ValidationError < ValueError",
        "1 validation error for Recipe\ninputs.datasets.0.file_type\n  Input should be 'pg_dump' "
        "or 'csv' [type=enum, input_value='nosuch', input_type=str]\n    For further ...",
        ("(inputs.datasets.0.file_type: Input should be 'pg_dump' or 'csv';", "Mend the recipe"),
    ),
    (
        "plan",
        "builtins.TypeError",
        "dcpy.lifecycle.builds.models.Recipe() argument after ** must be a mapping, not NoneType",
        ("recipe.yml is empty", "Mend the recipe"),
    ),
    (
        "plan",
        "builtins.Exception",
        "No version or version_strategy provided",
        ("The build has no version", "Use a key such as 2026.1-first"),
    ),
    (
        "plan",
        "builtins.Exception",
        "Dataset parks requires version var 'PARKS_VERSION' in environment variables",
        ("dataset parks comes from the variable PARKS_VERSION", "Set it"),
    ),
    (
        "plan",
        "builtins.Exception",
        "Dataset parks requires version var 'VERSION_PREV' in environment variables",
        ("parks is that of the product's release before", "Give VERSION_PREV under `env` in"),
    ),
    (
        "plan",
        "builtins.Exception",
        "build.plan requires missing env var: NO_SUCH_ENV",
        ("the variable NO_SUCH_ENV, which is not set", "Set it"),
    ),
    (
        "plan",
        "builtins.ValueError",
        "Cannot pin build version to dataset 'nope' as it is not an input dataset",
        ("dataset nope, which is not among the inputs", "Mend the recipe"),
    ),
    (
        "plan",
        "builtins.IndexError",
        "No versions found for 'own'",
        ("takes the latest release of own", "never published", "Use a key that begins with"),
    ),
    (
        "plan",
        "requests.exceptions.SSLError < requests.exceptions.ConnectionError",
        "HTTPSConnectionPool(host='apps.nyc.gov', port=443): Max retries exceeded with url: /x",
        ("host apps.nyc.gov cannot be reached", "give that input a version"),
    ),
    (
        "load",
        "builtins.FileNotFoundError",
        "Source path s3://recipes/datasets/parks/1999/parks.parquet does not exist",
        ("1999 of dataset parks is not archived as parquet", "Materialize ingest/city_parks for"),
    ),
    (
        "load",
        "builtins.NotADirectoryError",
        "[Errno 20] Not a directory: '/data/points.csv/1'",
        ("`source: local_file`", "leave `source` out"),
    ),
    (
        "load",
        "builtins.KeyError",
        "'BUILD_ENGINE_DB'",
        ("BUILD_ENGINE_DB is not set", "Set BUILD_ENGINE_SERVER"),
    ),
    (
        "load",
        "builtins.KeyError",
        "'GITHUB_EVENT_NAME'",
        ("GITHUB_EVENT_NAME is not", "Unset CI"),
    ),
    (
        "load",
        "sqlalchemy.exc.OperationalError",
        '(psycopg2.OperationalError) connection to server at "127.0.0.1", port 5999 failed: '
        "Connection refused\n\tIs the server running on that host and accepting TCP/IP "
        "connections?\n",
        ("at 127.0.0.1, port 5999 cannot be used: Connection refused", "a running server"),
    ),
    (
        "load",
        "sqlalchemy.exc.OperationalError",
        '(psycopg2.OperationalError) connection to server at "127.0.0.1", port 5544 failed: FATAL: '
        ' password authentication failed for user "me"\n',
        ("refuses the user or the password", "Mend them in BUILD_ENGINE_SERVER"),
    ),
    (
        "load",
        "sqlalchemy.exc.OperationalError",
        '(psycopg2.OperationalError) connection to server at "127.0.0.1", port 5544 failed: FATAL: '
        ' database "nosuch" does not exist\n',
        ("no database nosuch", "Create it"),
    ),
    (
        "load",
        "sqlalchemy.exc.OperationalError",
        '(psycopg2.OperationalError) could not translate host name "nohost.invalid" to address: '
        "Name or service not known\n",
        ("no host nohost.invalid", "Set BUILD_ENGINE_SERVER"),
    ),
    (
        "load",
        "sqlalchemy.exc.OperationalError",
        '(psycopg2.OperationalError) connection to server at "127.0.0.1", port 5544 failed: FATAL: '
        ' invalid value for parameter "search_path": ",public"\n',
        ("BUILD_ENGINE_SCHEMA", "Use lower-case letters"),
    ),
    (
        "load",
        "sqlalchemy.exc.ArgumentError",
        "Could not parse SQLAlchemy URL from given URL string",
        ("not the address of a Postgres server", "Set BUILD_ENGINE_SERVER"),
    ),
    (
        "load",
        "sqlalchemy.exc.NoSuchModuleError < sqlalchemy.exc.ArgumentError",
        "Can't load plugin: sqlalchemy.dialects:postgres",
        ("not the address of a Postgres server", "postgresql://"),
    ),
    (
        "load",
        "sqlalchemy.exc.ProgrammingError",
        '(psycopg2.errors.UndefinedObject) type "geometry" does not exist\nLINE 7:  geom ...',
        ("no PostGIS", "create extension postgis"),
    ),
    (
        "load",
        "sqlalchemy.exc.ProgrammingError",
        '(psycopg2.errors.SyntaxError) syntax error at or near "-"\nLINE 1: CREATE SCHEMA '
        "my-schema",
        ("BUILD_ENGINE_SCHEMA", "Use lower-case letters"),
    ),
    (
        "load",
        "psycopg2.errors.SyntaxError < psycopg2.Error",
        'syntax error at or near "-"\nLINE 1: COPY mine.my-points FROM STDIN',
        ("a table's name", "Give the input an `import_as`"),
    ),
    (
        "load",
        "builtins.ModuleNotFoundError",
        "No module named 'psycopg'",
        ("{python} has SQLAlchemy 2.1 or later", "Install `sqlalchemy<2.1`"),
    ),
    (
        "load",
        "sqlalchemy.exc.ProgrammingError",
        "(psycopg.ProgrammingError) cannot adapt type 'AsIs' using placeholder '%s' (format: AUTO)",
        ("psycopg 3", "Install `sqlalchemy<2.1`"),
    ),
    (
        "load",
        "builtins.ModuleNotFoundError",
        "No module named 'facdb'",
        ("the module facdb, neither", "Install it"),
    ),
    (
        "load",
        "subprocess.CalledProcessError",
        "Command 'psql postgresql://me:secret@127.0.0.1:5544/own -f x.sql' returned non-zero exit "
        "status 127.",
        ("The program psql is not installed", "Install it"),
    ),
    (
        "load",
        "_duckdb.IOException",
        'IO Error: Failed to download extension "spatial" at URL '
        '"http://extensions.duckdb.org/v1.5.5/linux_amd64/spatial.duckdb_extension.gz"\n',
        ("DuckDB has not the extension spatial", "INSTALL spatial", "same HOME"),
    ),
    (
        "load",
        "_duckdb.IOException",
        "IO Error: Can't find the home directory at ''\nSpecify a home directory using ...",
        ("HOME is not set", "Set it"),
    ),
    (
        "load",
        "_duckdb.IOException",
        'IO Error: Could not set lock on file "/data/own_26Q1.duckdb": Conflicting lock is held',
        ("/data/own_26Q1.duckdb open", "End it"),
    ),
    (
        "load",
        "_duckdb.ParserException",
        'Parser Error: syntax error at or near "order"\n\nLINE 1: CREATE SCHEMA ... order',
        ("BUILD_ENGINE_SCHEMA", "Use lower-case letters"),
    ),
    (
        "load",
        "_duckdb.BinderException",
        'Binder Error: Ambiguous reference to catalog or schema "own_26q1" - use a fully qualified '
        'path like "own_26Q1.own_26q1"',
        ("BUILD_ENGINE_SCHEMA is own_26q1", "Set another one"),
    ),
    (
        "load",
        "builtins.Exception",
        "Recipe has unresolved versions! Can't write source data versions [...]",
        ("inputs without a version", "Materialize plan again"),
    ),
    (
        "load",
        "builtins.AssertionError",
        "Recipe version must be resolved before loading",
        ("without a version", "Materialize plan again"),
    ),
    (
        "load",
        "builtins.ValueError",
        "Recipe template requires variable that is not set in BUILD_ENV_* or BUILD_ENGINE_* "
        "environment variables: 'HELLO' is undefined.",
        ("the variable HELLO", "materialize plan again"),
    ),
    (
        "load",
        "requests.exceptions.ConnectionError < OSError",
        "HTTPSConnectionPool(host='apps.nyc.gov', port=443): Max retries exceeded with url: /x",
        ("host apps.nyc.gov", "Check the network"),
    ),
    (
        "ingest",
        "builtins.FileNotFoundError",
        "[Errno 2] No such file or directory: 'data/points.xls'",
        (
            "{root}/data/points.xls does not exist (the version is '1')",
            "looked for in the checkout",
        ),
    ),
    (
        "ingest",
        "builtins.FileNotFoundError",
        "[Errno 2] No such file or directory: '/srv/points.xls'",
        ("file /srv/points.xls does not exist (the version is '1'). Put it there",),
    ),
    (
        "ingest",
        "builtins.IsADirectoryError",
        "[Errno 21] Is a directory: '/srv/data'",
        ("/srv/data is a folder", "Mend the template"),
    ),
    (
        "ingest",
        "builtins.FileNotFoundError",
        "[Errno 2] No such file or directory: '/home/me/.ssh/known_hosts'",
        ("own.yml is an SFTP server", "no /home/me/.ssh/known_hosts", "ssh-keyscan"),
    ),
    (
        "ingest",
        "builtins.Exception",
        "Connector 'sftp' is missing required config fields",
        ("own.yml is an SFTP server", "Set AXWAY_SFTP_USER and AXWAY_SFTP_PASSWORD"),
    ),
    (
        "ingest",
        "socket.gaierror < OSError",
        "[Errno -2] Name or service not known",
        ("SFTP server", "cannot be reached ([Errno -2] Name", "Check the network"),
    ),
    (
        "ingest",
        "paramiko.ssh_exception.NoValidConnectionsError < OSError",
        "[Errno None] Unable to connect to port 4 on 127.0.0.1",
        ("SFTP server", "Unable to connect to port 4", "Check the network"),
    ),
    (
        "ingest",
        "paramiko.ssh_exception.AuthenticationException < paramiko.ssh_exception.SSHException",
        "Authentication failed.",
        ("refuses the user", "Mend AXWAY_SFTP_USER"),
    ),
    (
        "ingest",
        "paramiko.ssh_exception.SSHException",
        "Server 'sftp.example.org' not found in known_hosts",
        ("'sftp.example.org' not found in known_hosts", "Check the server's key"),
    ),
    (
        "ingest",
        "builtins.FileNotFoundError",
        "[Errno 2] No such file",
        ("The SFTP server has not the file", "for version '1' (bucket inbox, key a/1/b.csv)"),
    ),
    (
        "ingest",
        "builtins.FileNotFoundError",
        "Source path s3://recipes/datasets/parks/25B/parks.parquet does not exist",
        ("own.yml is version 25B of dataset parks", "Materialize ingest/city_parks for that"),
    ),
    (
        "ingest",
        "builtins.FileNotFoundError",
        "Source path s3://recipes/datasets/zoos/25B/zoos.parquet does not exist",
        ("own.yml is version 25B of dataset zoos", "no template here gives it"),
    ),
    (
        "ingest",
        "builtins.FileNotFoundError",
        "File db-own/publish/25B/own.csv not found\n\nVersion 25B not found.\n\nAvailable "
        "versions for db-own:\n  - 25A",
        ("own.csv of db-own, version 25B, which was never published", "The log lists versions"),
    ),
    (
        "ingest",
        "builtins.FileNotFoundError",
        "GIS dataset dcp_address_points has no version 25B",
        ("the GIS team's dcp_address_points, which has no version 25B", "a version that is there"),
    ),
    (
        "load",
        "builtins.FileNotFoundError",
        "GIS dataset dcp_address_points has no version 25B",
        ("dcp_address_points, an input of {root}/products/own/recipe.yml", "Mend the version"),
    ),
    (
        "plan",
        "builtins.FileNotFoundError",
        "No versions found for GIS dataset dcp_address_points",
        ("dcp_address_points, an input of", "is not in the storage", "Mend its name"),
    ),
    (
        "ingest",
        "builtins.AssertionError",
        "'PUBLISHING_BUCKET' must be defined to use edm.recipes connector",
        ("own.yml is in the team's storage", "PUBLISHING_BUCKET", "Set it", "AWS_ACCESS_KEY_ID"),
    ),
    (
        "ingest",
        "builtins.KeyError",
        "'AWS_ACCESS_KEY_ID'",
        ("own.yml needs the team's storage", "Set AWS_ACCESS_KEY_ID", "AWS_S3_ENDPOINT"),
    ),
    (
        "plan",
        "builtins.KeyError",
        "'AWS_SECRET_ACCESS_KEY'",
        ("AWS_SECRET_ACCESS_KEY is not set. Set AWS_ACCESS_KEY_ID",),
    ),
    (
        "ingest",
        "builtins.OSError",
        "USPS_LOCATIONS_SESSION_HEADERS is unset. In CI it comes from elsewhere.\nCapture ...",
        ("needs the variable USPS_LOCATIONS_SESSION_HEADERS", "Set it where Dagster is started"),
    ),
    (
        "ingest",
        "requests.exceptions.InvalidURL < requests.exceptions.RequestException",
        "Invalid URL 'http://': No host supplied",
        ("does not answer as it should (Invalid URL", "Check the source"),
    ),
    (
        "ingest",
        "builtins.Exception",
        "Error fetching ESRI Server metadata: {'code': 400, 'message': 'Invalid URL'}",
        ("ArcGIS server of", "answers with an error: {{'code': 400", "Check the source"),
    ),
    (
        "ingest",
        "builtins.LookupError",
        "Layer with id 7 not found in feature server own. Found layers: ['a', 'b']",
        ("not one of the ArcGIS server's: Layer with id 7", "Mend the template"),
    ),
    (
        "ingest",
        "builtins.AssertionError",
        "❌ own.csv is not present in unzipped files after extraction. Aborting...",
        ("an archive without the file own.csv", "Mend `unzipped_filename`"),
    ),
    (
        "ingest",
        "builtins.AttributeError",
        "'DataFrame' object has no attribute 'crs'",
        ("has no geometry", "mend it or the template"),
    ),
    (
        "ingest",
        "zipfile.BadZipFile",
        "File is not a zip file",
        ("not what `file_format` there says (File is not a zip file)", "Check what it holds"),
    ),
    (
        "ingest",
        "json.decoder.JSONDecodeError < ValueError",
        "Expecting value: line 1 column 1 (char 0)",
        ("not what `file_format` there says (Expecting value", "Check what it holds"),
    ),
    (
        "ingest",
        "pyogrio.errors.DataLayerError < RuntimeError",
        "Layer 'AddressPoint' could not be opened",
        ("has no layer AddressPoint", "Mend `layer`"),
    ),
    (
        "ingest",
        "pyarrow.lib.ArrowInvalid < ValueError",
        "Could not open Parquet input source '<Buffer>': Parquet magic bytes not found in footer.",
        ("not the Parquet file", "Mend the source"),
    ),
    (
        "ingest",
        "builtins.ValueError",
        "Usecols do not match columns, columns expected but not found: ['BIN']",
        ("no columns ['BIN']", "Mend the step"),
    ),
    (
        "ingest",
        "builtins.KeyError",
        "'bbl'",
        ("no column bbl", "Mend the step"),
    ),
    (
        "ingest",
        "builtins.ValueError",
        "Module 'own.geocode' not found: No module named 'geosupport'",
        ("the script own.geocode", "{python} does not find the module geosupport", "Install it"),
    ),
    (
        "ingest",
        "builtins.ImportError",
        "`Import html5lib` failed.  Use pip or conda to install the html5lib package.",
        ("{python} does not find the module html5lib", "Install it"),
    ),
    (
        "plan",
        "builtins.FileNotFoundError",
        "Source path s3://recipes/datasets/zoos/latest/config.json does not exist",
        ("zoos was never archived as the latest", "no template here gives it", "RECIPES_BUCKET"),
    ),
    (
        "plan",
        "builtins.FileNotFoundError",
        "Source path s3://recipes/raw/parks/latest/config.json does not exist",
        ("parks was never archived as the latest", "Materialize ingest/city_parks with `push"),
    ),
    (
        "plan",
        "builtins.FileNotFoundError",
        "Source path s3://recipes/raw/parks/2024-01-01T00:00:00/config.json does not exist",
        ("parks as it was read at 2024-01-01T00:00:00 is not archived", "Mend the version"),
    ),
    (
        "plan",
        "builtins.FileNotFoundError",
        "No files found for dataset zoos 19990101.",
        ("Version 19990101 of dataset zoos", "no template here gives it", "mend the version"),
    ),
    (
        "plan",
        "builtins.ValueError",
        "To use 'pin to source dataset' version strategy, source input dataset must either be ...",
        ("neither a version nor `missing_versions_strategy", "Mend the recipe"),
    ),
    (
        "plan",
        "builtins.KeyError",
        "'parks'",
        ("which has none of dataset parks", "Give it a version"),
    ),
    (
        "plan",
        "builtins.Exception",
        "No registered connector named: edm.nowhere. Registered connectors: dict_keys(['bytes'])",
        ("`source` dcpy does not know: edm.nowhere.", "Mend the recipe"),
    ),
    (
        "plan",
        "builtins.FileNotFoundError",
        "[Errno 2] No such file or directory: '/srv/products/own/base.yml'",
        ("recipe.yml needs /srv/products/own/base.yml", "mend `base_recipe`"),
    ),
    (
        "plan",
        "yaml.scanner.ScannerError < yaml.error.MarkedYAMLError",
        'mapping values are not allowed here\n  in "<unicode string>", line 3, column 11:',
        ("recipe.yml is not valid YAML, near line 3", "Mend the recipe"),
    ),
    (
        "load",
        "builtins.FileNotFoundError",
        "Source path s3://recipes/datasets/zoos/1999/zoos.parquet does not exist",
        ("zoos is not archived as parquet", "no template here gives it", "materialize plan again"),
    ),
    (
        "load",
        "builtins.FileNotFoundError",
        "Source path s3://recipes/raw/parks/2024-01-01T00:00:00/parks.gdb.zip does not exist",
        ("parks as it was read at 2024-01-01T00:00:00", "no file parks.gdb.zip", "Mend `version`"),
    ),
    (
        "load",
        "builtins.FileNotFoundError",
        "File db-own/draft/25B/own.csv not found",
        ("db-own has no file own.csv in version 25B", "Mend `version`"),
    ),
    (
        "load",
        "builtins.FileNotFoundError",
        "Directory db-own/publish/25B not found\n\nVersion 25B not found.",
        ("db-own has not published version 25B. Mend `version`",),
    ),
    (
        "load",
        "builtins.FileNotFoundError",
        "Directory dcas_lift/25B not found",
        ("dcas_lift, an input of", "no version 25B in the team's private", "PRIVATE_BUCKET"),
    ),
    (
        "load",
        "builtins.AssertionError",
        "'PUBLISHING_BUCKET' must be defined to use edm connectors",
        ("is what the team published, and PUBLISHING_BUCKET", "Set it where Dagster is started"),
    ),
    (
        "load",
        "builtins.TypeError",
        "SocrataConnector._pull() missing 2 required keyword-only arguments: 'org' and 'format'",
        ("needs 'org' and 'format' under `custom`", "Mend the recipe"),
    ),
    (
        "load",
        "builtins.Exception",
        "No bucket defined",
        ("needs bucket under `custom`", "Mend the recipe"),
    ),
    (
        "load",
        "builtins.ValueError",
        "Version '25B' should be in format 'version.revision'",
        ("is a draft", "and not 25B", "Mend the recipe"),
    ),
    (
        "load",
        "pydantic_core._pydantic_core.ValidationError < ValueError",
        "1 validation error for Recipe\ninputs.datasets.0.file_type\n  Input should be 'pg_dump' "
        "or 'csv' [type=enum, input_value='nosuch', input_type=str]\n    For further ...",
        ("lock file does not fit", "(inputs.datasets.0.file_type: Input", "Materialize plan again"),
    ),
]
SAMPLE_RECORDED = [
    (
        "ingest",
        "builtins.ValueError",
        """{'malformatted yml': "unknown field 'colour'"}""",
        ("own.yml does not fit dcpy's schema (unknown field 'colour')", "Mend the template"),
    ),
    (
        "ingest",
        "dcpy.errors.EndpointConnectionError",
        "Could not connect to 'data.example.org' (socrata): the sample reads local files only",
        ("the source of {root}/ingest_templates/own.yml is socrata data.example.org",),
    ),
    (
        "plan",
        "builtins.ValueError",
        "inputs: unknown field 'colour'",
        ("(inputs: unknown field 'colour')", "Mend the recipe"),
    ),
    (
        "plan",
        "dcpy.errors.EndpointConnectionError",
        "Could not connect to 'bytes' for dataset 'parks': the sample has no network",
        ("dataset parks of", "comes from bytes", "Leave `source` out"),
    ),
    (
        "load",
        "builtins.ConnectionError",
        "Dataset 'parks' goes to 'postgres', and the sample has none",
        ("dataset parks goes to postgres", "`destination: duckdb`"),
    ),
]


def exception(kinds: str, text: str) -> Exception:
    """An exception of the named class (and, after `<`, its base), which need not be installed."""
    base: type[Exception] = Exception
    for kind in reversed(kinds.split(" < ")):
        module, _, name = kind.rpartition(".")
        if module == "builtins":
            base = getattr(builtins, name)
        base = type(name, (base,), {"__module__": module, "__str__": lambda _: text})
    return base.__new__(base)


@pytest.mark.parametrize(
    ("stage", "kinds", "text", "says"),
    RECORDED + SAMPLE_RECORDED,
    ids=[f"{r[0]}: {r[1]}" for r in RECORDED + SAMPLE_RECORDED],
)
def test_what_dcpy_raised_is_explained(
    stage: str, kinds: str, text: str, says: tuple[str, ...], tmp_path: Path
) -> None:
    root = "/srv/data-engineering"
    source = {"type": "s3", "bucket": "inbox", "key": "a/1/b.csv"}
    (tmp_path / "definition.lock.json").write_text(json.dumps({"source": source}))
    of_stage = {
        "ingest": {
            "version": "1",
            "templates": f"{root}/ingest_templates",
            "folder": str(tmp_path),
        },
        "plan": {"version": "1", "build_name": "first"},
        "load": {},
    }
    parameters = {
        "stage": stage,
        "subject": "Product 'own'",
        "name": "own",
        "checkout": root,
        "recipe": f"{root}/products/own/recipe.yml",
        "templates_of": {"parks": "city_parks"},
        **of_stage[stage],
    }
    version = ".".join(map(str, sys.version_info[:3]))
    known = {"root": root, "python": sys.executable, "version": version}

    sentence, _ = explain(exception(kinds, text.replace("{root}", root)), parameters)

    assert sentence.startswith("Product 'own': ")
    assert [part for part in says if part.format_map(known) not in sentence] == []
    assert "\n" not in sentence
    assert Redactor({}).text(sentence) == sentence
    assert not any(secret in sentence for secret in ("secret", "abc"))


# What a sentence can say of a step, whatever was raised. failures.toml lists it.
KNOWN = {"name", "checkout", "python", "python_version", "text"}
KNOWN_OF_STAGE = {
    "ingest": {"version", "templates", "template", "source"},
    "plan": {"recipe", "build_name"},
    "load": {"recipe"},
    "any": {"version", "template", "source", "recipe"},
}


@pytest.mark.parametrize("stage", KNOWN_OF_STAGE)
def test_every_row_of_the_table_is_well_formed(stage: str) -> None:
    table = tomllib.loads(TABLE.read_text())
    assert set(table) == {"fragments", *KNOWN_OF_STAGE}
    known = KNOWN | KNOWN_OF_STAGE[stage]
    for row in table[stage]:
        assert set(row) <= {"error", "text", "say", "transient"}, row
        assert all(re.fullmatch(r"(\w+\.)?\w+", name) for name in row["error"].split()), row
        groups = {name.rstrip("_") for name in re.compile(row.get("text", "")).groupindex}
        assert not groups & {*known, *table["fragments"]}, "one name for two things"
        if "dataset" in groups:
            groups.add("ingested_by")
        said = [row["say"]] if isinstance(row["say"], str) else row["say"]
        for sentence in said:
            names = {name for _, name, *_ in Formatter().parse(sentence) if name is not None}
            assert names <= known | groups | set(table["fragments"]), sentence
            assert "\n" not in sentence
            assert sentence.endswith((".", "}")), sentence


def test_every_row_of_the_table_is_reached_by_what_dcpy_raised() -> None:
    reached = []
    for stage, kinds, text, _ in RECORDED + SAMPLE_RECORDED:
        error = exception(kinds, text.replace("{root}", "/srv"))
        reached.append(next(row for row in rows(stage) if found(row, error, text)))
    never = [
        row
        for stage in ("ingest", "plan", "load")
        for row in rows(stage)
        # the place where it was raised is a test of its own, below
        if row not in reached and row.get("text") != "^in archive_transformed_datasets$"
    ]
    assert never == []


def archive_transformed_datasets() -> None:
    raise AssertionError


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ("ingest", "templates/own.yml has no `acl`, without which nothing is pushed. Add one"),
        ("load", "dcpy raised AssertionError: in archive_transformed_datasets"),
    ],
)
def test_an_exception_without_a_message_is_told_by_its_place(stage: str, says: str) -> None:
    parameters = {"stage": stage, "subject": "It", "name": "own", "templates": "templates"}
    parameters["folder"] = "nowhere"
    with pytest.raises(AssertionError) as raised:
        archive_transformed_datasets()
    assert explain(raised.value, parameters)[0].startswith(f"It: {says}")


@pytest.mark.parametrize("text", ["something new\nand more", ""])
def test_what_nobody_has_met_before_is_told_as_it_is(text: str) -> None:
    parameters = {"stage": "load", "subject": "Product 'own', load", "name": "own"}
    sentence, is_transient = explain(exception("new.StrangeError", text), parameters)
    told = text.partition("\n")[0] or "no message"
    assert sentence == f"Product 'own', load: dcpy raised StrangeError: {told}"
    assert is_transient


@pytest.mark.parametrize(
    ("error", "may"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (OSError(errno.EROFS, "Read-only file system"), False),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), False),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EIO, "Input/output error"), True),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), True),
    ],
)
def test_what_only_somebody_can_put_right_does_not_pass(error: OSError, may: bool) -> None:
    parameters = {"stage": "load", "subject": "Product 'own', load", "name": "own"}
    assert explain(error, parameters)[1] is may
    with pytest.raises(StageFailed) as raised, failing("It"):
        raise error
    assert raised.value.is_transient is may


@pytest.fixture
def pypi(tmp_path: Path) -> Path:
    """A folder with the package that PyPI calls dcpy, as far as its files go; it tells of its
    import."""
    package = tmp_path / "site-packages" / "dcpy"
    package.mkdir(parents=True)
    (package / "widget.py").touch()
    (package / "__init__.py").write_text(
        f"open({str(tmp_path / 'imported')!r}, 'w')\nfrom dcpy.widget import *\n"
    )
    return package.parent


def bare_python(tmp_path: Path, *packages: Path) -> str:
    """An interpreter that has the standard library and the packages of these folders."""
    path = ":".join(map(str, packages))
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{path}" exec "{sys.executable}" -S "$@"\n')
    script.chmod(0o755)
    return str(script)


def complaint(checkout: Path, lifecycle: Path) -> str:
    """What is wrong with the interpreter: the asset says it, and `up` can say it before."""
    asset = build_ingest_asset(template=read_template(checkout / TEMPLATE))
    said = failure_of([asset], "1")
    problem = problem_with_dcpy(dcpy_python(None), root=checkout, lifecycle=lifecycle)
    assert said == f"Template 'qpl_libraries', version '1': {problem}"
    assert not (lifecycle / "ingest" / "qpl_libraries" / "1").exists()
    return said


def test_an_interpreter_that_does_not_exist_is_told(
    sample: Path, lifecycle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCPY_PYTHON", "/nowhere/bin/python")
    said = complaint(sample, lifecycle)
    assert "The interpreter /nowhere/bin/python does not exist. Set DCPY_PYTHON" in said


def test_an_interpreter_without_dcpy_is_told(
    sample: Path, lifecycle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCPY_PYTHON", bare_python(tmp_path))
    said = complaint(sample, lifecycle)
    assert f"dcpy is not installed in {sys.executable}: install the checkout's" in said


def test_the_dcpy_of_pypi_is_told_and_never_imported(
    sample: Path, lifecycle: Path, tmp_path: Path, pypi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCPY_PYTHON", bare_python(tmp_path, pypi))
    said = complaint(sample, lifecycle)
    assert f"The dcpy in {pypi}/dcpy is not NYC Planning's" in said
    assert "Uninstall it, and install the checkout's with" in said
    assert not (tmp_path / "imported").exists()


def test_the_dcpy_of_another_checkout_is_told(sample: Path, lifecycle: Path) -> None:
    shutil.copytree(SAMPLE_ROOT / "dcpy", sample / "dcpy")
    said = complaint(sample, lifecycle)
    assert f"belongs to the checkout {SAMPLE_ROOT}, not to {sample}: install" in said


def test_a_checkout_may_have_its_dcpy_by_a_symbolic_link(sample: Path, lifecycle: Path) -> None:
    (sample / "dcpy").symlink_to(SAMPLE_ROOT / "dcpy")
    assert problem_with_dcpy(dcpy_python(None), root=sample, lifecycle=lifecycle) is None


def test_the_sample_dcpy_does_not_pass_for_that_of_a_checkout_without_one(
    sample: Path, lifecycle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DCPY_PYTHON")
    said = complaint(sample, lifecycle)
    assert f"The checkout {sample} has no dcpy. Set DCPY_PYTHON" in said


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("not a program\n", "cannot be used: [Errno 8] Exec format error"),
        ("#!/bin/sh\necho 'SyntaxError: invalid syntax' >&2; exit 1\n", "(SyntaxError: invalid"),
    ],
)
def test_what_is_no_interpreter_is_told_before_a_stage_starts(
    content: str, says: str, tmp_path: Path, lifecycle: Path
) -> None:
    python = tmp_path / "python"
    python.write_text(content)
    python.chmod(0o755)
    problem = problem_with_dcpy((python, True), root=SAMPLE_ROOT, lifecycle=lifecycle)
    assert problem and says in problem and "et DCPY_PYTHON to" in problem
