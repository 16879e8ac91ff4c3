"""What goes wrong in dcpy, in sentences: the cause, and what to do about it.

Each row of a table is: the exception's types, a pattern in its text, and the sentence. A type is a
class's name, with the package that has it in front where the bare name is ambiguous; the exception
may be of a subclass. A sentence can use the step's parameters and the pattern's named groups. The
first row that fits is used, those of the stage before those of all stages.
"""

import re
import sys
import traceback
from collections.abc import Mapping
from typing import Any

Rows = list[tuple[str, str, str]]

MEND_TEMPLATE = "Mend the template, then run this again."
MEND_RECIPE = "Mend the recipe, then materialize plan again."
PUSH = "with `push: true` and `latest: true` in the run's config"
NO_POSTGRES = "Set BUILD_ENGINE_SERVER to postgresql://user:password@host:port of a running server."
PINS = (
    "Install `sqlalchemy<2.1` there; the checkout's pins are in "
    "admin/run_environment/constraints.txt."
)
SCHEMA = (
    "BUILD_ENGINE_SCHEMA is not a name that the database takes ({text}). Use lower-case letters, "
    "digits and _ only; the recipe's `env` may set it."
)
YAML = "is not valid YAML, near line {line}."
LAST_LINE_NUMBER = r"(?s).*line (?P<line>\d+)"
PYDANTIC = r"(\\n|\n)(?P<field>[\w.\[\],]+)(\\n|\n)  (?P<what>.+?)( \[type=|\\n|\n|$)"
HOST = r"host='(?P<host>[^']+)'"
PATH = r"'(?P<path>[^']+)'"

INGEST: Rows = [
    (
        "FileNotFoundError",
        r"/ingest_templates/[^/]+\.yml'",
        "There is no template {name} in {templates}. Check the name, or reload the ingest location "
        "if the template is gone.",
    ),
    (
        "FileNotFoundError",
        r"'(?P<path>[^']*(?<![a-zA-Z])None(?![a-z])[^']*)'",
        "The template needs a version: without one its source is {path}. Materialize a partition "
        "whose key is the version.",
    ),
    (
        "FileNotFoundError",
        PATH,
        "The source file {path} does not exist (the version is {version!r}). Put it there, or mend "
        "`path` in {template}.",
    ),
    (
        "IsADirectoryError",
        PATH,
        "The source {path} is a folder, not a file. " + MEND_TEMPLATE,
    ),
    (
        "yaml.MarkedYAMLError",
        LAST_LINE_NUMBER,
        "{template} " + YAML + " " + MEND_TEMPLATE,
    ),
    (
        "jinja2.TemplateSyntaxError",
        "",
        "{template} is not valid Jinja: {text}. " + MEND_TEMPLATE,
    ),
    (
        "ValueError",
        r"(Vars in definition: |may use 'version' only, not )[\[{](?P<variables>[^\]}]+)[\]}]",
        "{template} uses {variables}, and `version` is the only variable that a template may use. "
        + MEND_TEMPLATE,
    ),
    (
        "ValueError",
        r"'malformatted yml'.*?" + PYDANTIC,
        "{template} does not fit dcpy's schema ({field}: {what}; all of it is below). "
        + MEND_TEMPLATE,
    ),
    (
        "ValueError",
        r"""'malformatted yml': ["'](?P<what>.*)["']}""",
        "{template} does not fit dcpy's schema ({what}). " + MEND_TEMPLATE,
    ),
    (
        "ValueError",
        r"'invalid source type': (?P<what>[^}]+)",
        "{template} has a source that dcpy does not know: {what}. " + MEND_TEMPLATE,
    ),
    (
        "ValueError",
        r"'invalid arguments': {(?P<what>[^}]+)",
        "{template} has a source with wrong arguments: {what}. " + MEND_TEMPLATE,
    ),
    (
        "ValueError",
        r"'processing steps': {'(?P<dataset>[^']+)': {'(?P<step>[^']+)': {?(?P<what>[^}]+)",
        "The processing step {step} of dataset {dataset} in {template} is wrong: {what}. "
        + MEND_TEMPLATE,
    ),
    (
        "ValueError",
        r"^(mode|No processing step).*'(?P<mode>[^']+)'",
        "No processing step of the template has mode {mode!r}. Give another `mode` in the run's "
        "config, or none.",
    ),
    (
        "ValueError",
        r"ataset\S* [\[{](?P<wrong>[^\]}]+)[\]}] not found.*[\[{](?P<known>[^\]}]+)[\]}]",
        "The template has no dataset {wrong}; it has {known}. Mend `datasets_filter` in the run's "
        "config.",
    ),
    (
        "FileExistsError",
        r"ataset (id=)?'(?P<dataset>[^']+)'.* version[= ]'(?P<archived>[^']+)'",
        "Version {archived} of dataset {dataset} is archived already, with other data. Ingest it "
        "as another version, or set `overwrite_okay: true` in the run's config to replace it.",
    ),
    (
        "AssertionError",
        "^in archive_transformed_datasets$",
        "{template} has no `acl`, without which nothing is pushed. Add one (`acl: public-read`), "
        "or run without `push`.",
    ),
    (
        "AssertionError",
        "Longitude or latitude columns",
        "The data has not the longitude and latitude columns that `geometry` in {template} names. "
        "Mend the names there, or the data.",
    ),
    (
        "requests.HTTPError",
        r"(?P<status>\d{3}) .* for url: (?P<url>\S*None[^\s?]*)",
        "The template needs a version: without one its source is {url}, which answers {status}. "
        "Materialize a partition whose key is the version.",
    ),
    (
        "requests.HTTPError",
        r"(?P<status>\d{3}) .* for url: (?P<url>[^\s?]+)",
        "The source {url} answers {status} (the version is {version!r}). Check the version and the "
        "address in {template}.",
    ),
    (
        "requests.ConnectionError requests.Timeout",
        HOST,
        "The source's host {host} cannot be reached. Check the network and the address in "
        "{template}, then run this again.",
    ),
    (
        "EndpointConnectionError",
        r"Could not connect to '(?P<place>[^']+)' \((?P<kind>.+)\): the sample",
        "The sample's dcpy reads local files only, and the source of {template} is {kind} "
        "{place}. Give it a `local_file` source, or use the real checkout.",
    ),
    (
        "EmptyDataError",
        "",
        "The source of {template} is empty. Check what it holds, then run this again.",
    ),
    (
        "pandas.ParserError",
        r"(?P<what>Expected .*|.*)",
        "The source of {template} is not the CSV that `file_format` says: {what}. Mend the source "
        "or the template.",
    ),
    (
        "UnicodeDecodeError",
        r"'(?P<codec>[^']+)' codec",
        "The source of {template} is not {codec} text. Give its `encoding` under `file_format`.",
    ),
    (
        "ValueError",
        "Excel file format cannot be determined",
        "The source of {template} is not the Excel file that `file_format` says. Mend the source "
        "or the template.",
    ),
    (
        "KeyError",
        r"(?P<columns>\[.*?\]) not found in",
        "The data has no columns {columns}, which a processing step of {template} needs. Mend the "
        "step, or the source.",
    ),
]

PLAN: Rows = [
    (
        "FileNotFoundError",
        r"datasets/(?P<dataset>[^/]+)/latest/config\.json does not exist",
        "Dataset {dataset} was never archived as the latest version. Materialize ingest/{dataset} "
        + PUSH
        + ", or give the dataset a version in {recipe}.",
    ),
    (
        "FileNotFoundError",
        r"(datasets/(?P<dataset>[^/]+)/(?P<archived>[^/]+)/config\.json does not exist"
        r"|files? (types )?found for dataset (?P<dataset_>\S+) (?P<archived_>\S+?)\.(\s|$))",
        "Version {archived} of dataset {dataset} is not archived in a form that a build can load. "
        "Materialize ingest/{dataset} for that version with `push: true`, or mend the version in "
        "{recipe}.",
    ),
    (
        "FileNotFoundError",
        r"File (?P<product>[^/]+)/publish/latest/source_data_versions\.csv not found",
        "The recipe copies the versions of the latest release, and {product} was never published. "
        "Use `missing_versions_strategy: find_latest` in {recipe}, or give the versions.",
    ),
    (
        "FileNotFoundError",
        PATH,
        "{recipe} needs {path}, which does not exist. Add it, or mend `base_recipe`.",
    ),
    (
        "AssertionError",
        "PUBLISHING_BUCKET",
        "dcpy looks up published versions of the product, and PUBLISHING_BUCKET is not set. Set "
        "it, or give VERSION_PREV (and a version) in {recipe}.",
    ),
    (
        "ValueError",
        r"'(?P<variable>\w+)' is undefined",
        "{recipe} uses the variable {variable}, which is not set. Set it where Dagster is started; "
        "a recipe sees only BUILD_ENV_* and BUILD_ENGINE_* variables.",
    ),
    (
        "ValueError",
        r"line (?P<line>\d+): (?P<what>.+)",
        "{recipe} is not valid Jinja in line {line}: {what}. " + MEND_RECIPE,
    ),
    (
        "ValidationError",
        "for Recipe" + PYDANTIC,
        "{recipe} does not fit the schema of the checkout's dcpy ({field}: {what}; all of it is "
        "below). " + MEND_RECIPE,
    ),
    (
        "ValueError",
        r"^(?P<field>recipe|inputs|input dataset|dataset_defaults|version_strategy|exports?"
        r"|builds\.\w+): (?P<what>.+)",
        "{recipe} does not fit the schema of the checkout's dcpy ({field}: {what}). " + MEND_RECIPE,
    ),
    (
        "TypeError",
        r"Recipe\(\) argument after \*\* must be a mapping, not (?P<kind>\w+)",
        "{recipe} is empty, or not a mapping ({kind}). " + MEND_RECIPE,
    ),
    (
        "yaml.MarkedYAMLError",
        LAST_LINE_NUMBER,
        "{recipe} " + YAML + " " + MEND_RECIPE,
    ),
    (
        "Exception",
        "(No|neither a) version (or|nor a) version_strategy",
        "The build has no version: neither does its key begin with one, nor has {recipe} a "
        "`version` or `version_strategy`. Use a key such as 2026.1-{build_name}, or add one there.",
    ),
    (
        "Exception",
        r"Dataset (?P<dataset>\S+) (requires|needs) .*'(?P<variable>\w+)'",
        "The version of dataset {dataset} comes from the variable {variable}, which is not set. "
        "Set it where Dagster is started, or give the version in {recipe}.",
    ),
    (
        "Exception",
        r"requires missing env var: (?P<variable>\w+)",
        "`stage_config` of {recipe} takes a value from the variable {variable}, which is not set. "
        "Set it where Dagster is started.",
    ),
    (
        "ValueError",
        r"pin(ned)? .*to (dataset )?'(?P<dataset>[^']+)'",
        "The build's version is that of dataset {dataset}, which is not among the inputs of "
        "{recipe}, or has no version there. " + MEND_RECIPE,
    ),
    (
        "IndexError",
        r"No versions found for '(?P<product>[^']+)'",
        "The build's version follows the latest release, and {product} was never published. Use a "
        "key that begins with a version, such as 2026.1-{build_name}.",
    ),
    (
        "EndpointConnectionError",
        r"Could not connect to '(?P<place>[^']+)' for dataset '(?P<dataset>[^']+)': the sample",
        "The sample's dcpy has the source edm.recipes.datasets only, and dataset {dataset} of "
        "{recipe} comes from {place}. Leave `source` out, or use the real checkout.",
    ),
    (
        "requests.ConnectionError requests.Timeout",
        HOST,
        "The host {host} cannot be reached, where the version of an input is looked up. Check the "
        "network, or give that input a version in {recipe}.",
    ),
]

LOAD: Rows = [
    (
        "FileNotFoundError",
        r"datasets/(?P<dataset>[^/]+)/(?P<archived>[^/]+)/[^/]+\.(?P<kind>\w+) does not exist",
        "Version {archived} of dataset {dataset} is not archived as {kind}. Materialize "
        "ingest/{dataset} for that version with `push: true`, or mend `version` and `file_type` in "
        "{recipe} and materialize plan again.",
    ),
    (
        "NotADirectoryError",
        "",
        "An input of {recipe} has `source: local_file`, which dcpy plans but cannot load. Ingest "
        f"the file {PUSH}, and leave `source` out.",
    ),
    (
        "KeyError",
        r"'(?P<variable>BUILD_ENGINE_(SERVER|DB|SCHEMA))'",
        "An input goes to Postgres, and {variable} is not set. Set BUILD_ENGINE_SERVER "
        "(postgresql://user:password@host:port) and BUILD_ENGINE_DB where Dagster is started, or "
        "under `env` in {recipe}.",
    ),
    (
        "KeyError",
        r"'(?P<variable>GITHUB_\w+)'",
        "CI is set, by which dcpy takes this for a GitHub workflow, and {variable} is not. Unset "
        "CI where Dagster is started, and in the recipe's `env`.",
    ),
    (
        "OperationalError",
        r'at "(?P<host>[^"]+)",? port (?P<port>\d+) failed: FATAL: +password authentication failed',
        "Postgres at {host}, port {port} refuses the user or the password. Mend them in "
        "BUILD_ENGINE_SERVER.",
    ),
    (
        "OperationalError",
        r'database "(?P<database>[^"]+)" does not exist',
        "Postgres has no database {database}. Create it, or mend BUILD_ENGINE_DB.",
    ),
    (
        "OperationalError",
        r'could not translate host name "(?P<host>[^"]+)"',
        "There is no host {host} for Postgres. " + NO_POSTGRES,
    ),
    ("OperationalError ProgrammingError", "search_path|InvalidSchemaName|CREATE SCHEMA", SCHEMA),
    (
        "OperationalError",
        r'at "(?P<host>[^"]+)".*port (?P<port>\d+) failed: (?P<what>.+)',
        "Postgres at {host}, port {port} cannot be used: {what}. " + NO_POSTGRES,
    ),
    (
        "sqlalchemy.ArgumentError",
        "",
        "BUILD_ENGINE_SERVER is not the address of a Postgres server. " + NO_POSTGRES,
    ),
    (
        "ProgrammingError",
        'type "geometry" does not exist',
        "An input has geometry, and the database has no PostGIS. Run `create extension postgis` in "
        "it, then run this again.",
    ),
    (
        "psycopg2.Error",
        r"syntax error at or near|relation .* does not exist",
        "Postgres does not take a table's name ({text}). Give the input an `import_as` of "
        "lower-case letters, digits and _ in {recipe}, then materialize plan again.",
    ),
    (
        "CalledProcessError",
        r"Command '(?P<program>\S+) .* non-zero exit status 127",
        "The program {program} is not installed, which this input needs. Install it on the PATH "
        "that Dagster is started with, or use another `load_engine` or `file_type` in {recipe}.",
    ),
    (
        "IOException HTTPException",
        'Failed to (down|)load extension "(?P<extension>[^"]+)"|extension "?(?P<extension_>\\w+)"? '
        "(?i:not found)",
        "DuckDB has not the extension {extension}, and cannot download it. Install it once with "
        "network: `{python} -c \"import duckdb; duckdb.sql('INSTALL {extension}')\"`, with the "
        "same HOME.",
    ),
    (
        "IOException",
        "home directory",
        "DuckDB keeps its extensions in the home directory, and HOME is not set. Set it where "
        "Dagster is started.",
    ),
    (
        "IOException",
        r'Could not set lock on file "(?P<path>[^"]+)"',
        "Another process has the DuckDB file {path} open. End it, then run this again.",
    ),
    ("ParserException", "", SCHEMA),
    (
        "BinderException",
        r'Ambiguous reference to catalog or schema "(?P<schema>[^"]+)"',
        "BUILD_ENGINE_SCHEMA is {schema}, as the DuckDB file is called. Set another one, under "
        "`env` in {recipe}.",
    ),
    (
        "ConnectionError",
        r"Dataset '(?P<dataset>[^']+)' goes to '(?P<place>[^']+)', and the sample",
        "The sample's dcpy has no Postgres and no pandas, and dataset {dataset} goes to {place}. "
        "Give it `destination: duckdb` or `file` in {recipe}, or use the real checkout.",
    ),
    (
        "AssertionError Exception",
        "unresolved versions|resolved (file type|version)|version must be resolved",
        "The lock file has inputs without a version or a file type. Materialize plan again.",
    ),
    (
        "ValueError",
        r"'(?P<variable>\w+)' is undefined",
        "The lock file holds the variable {variable}, which is not set. Set it where Dagster is "
        "started, as it was for plan, or materialize plan again.",
    ),
    (
        "requests.ConnectionError requests.Timeout",
        HOST,
        "The host {host} of an input cannot be reached. Check the network, then run this again.",
    ),
]

ANY: Rows = [
    (
        # DuckDB, GDAL and Postgres have errors of their own for it.
        "Exception",
        r"\[Errno (28|122)\]|No space left on device|[Dd]isk quota exceeded",
        "The disk is full ({text}). Free some space, then run this again.",
    ),
    (
        "ModuleNotFoundError",
        r"No module named 'psycopg'",
        "{python} has SQLAlchemy 2.1 or later, with which dcpy cannot use Postgres. " + PINS,
    ),
    (
        "ProgrammingError",
        "cannot adapt type 'AsIs'",
        "{python} has psycopg 3, with which dcpy cannot use Postgres. " + PINS,
    ),
    (
        "ModuleNotFoundError",
        r"No module named '(?P<module>[^']+)'",
        "{python} does not find the module {module}, neither installed nor in the checkout. "
        "Install it there; dcpy's own: `{python} -m pip install -e {checkout}`.",
    ),
    (
        "TypeError PydanticUserError",
        r"'str' and 'EnumType'|Python < 3\.12",
        "dcpy needs Python 3.12 or later, and {python} is {python_version}. Set DCPY_PYTHON to a "
        "newer interpreter with dcpy installed.",
    ),
    (
        "PartialCredentialsError",
        r"missing: (?P<variable>.+)",
        "Only a part of the storage's credentials is set: {variable} is missing. Set both "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or neither.",
    ),
    (
        "NoCredentialsError",
        "",
        "The team's storage is needed, and there are no credentials for it. Set AWS_ACCESS_KEY_ID "
        "and AWS_SECRET_ACCESS_KEY where Dagster is started.",
    ),
    (
        "NoSuchBucket",
        "",
        "The storage has no such bucket. Set RECIPES_BUCKET and PUBLISHING_BUCKET to buckets that "
        "exist.",
    ),
    (
        "EndpointConnectionError",
        r'endpoint URL: "(?P<url>[^"?]+)',
        "The storage does not answer at {url}. Check the network and AWS_S3_ENDPOINT.",
    ),
    (
        "ProxyConnectionError",
        r'proxy URL: "(?P<url>[^"?]+)',
        "The proxy {url} does not answer. Start it, or mend HTTPS_PROXY.",
    ),
    (
        "botocore.SSLError",
        r"for (?P<url>https://[^\s/]+)",
        "The certificate of {url} is not trusted. Set AWS_CA_BUNDLE to an existing file of the "
        "certificates to trust, or unset it.",
    ),
    (
        "ClientError",
        r"\((?P<code>AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|403)\)",
        "The storage refuses the credentials ({code}). Check AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, and what they give access to.",
    ),
    (
        "ClientError",
        r"\(404\) when calling the (?P<operation>\w+) operation",
        "The storage has not what was asked for ({operation}: 404). Check AWS_S3_ENDPOINT, the "
        "buckets, and the path of an `s3` source.",
    ),
    (
        "PermissionError",
        PATH,
        "There is no permission to use {path}. Give it to the user that Dagster runs as.",
    ),
]

TABLES: dict[str, Rows] = {"ingest": INGEST, "plan": PLAN, "load": LOAD}


def explain(error: Exception, parameters: Mapping[str, Any]) -> str:
    """The exception as a sentence or two, beginning with the step's subject."""
    names = {
        name
        for kind in type(error).__mro__
        for name in (kind.__name__, f"{kind.__module__.partition('.')[0]}.{kind.__name__}")
    }
    text = str(error).strip() or _place(error)
    first = text.partition("\n")[0]
    for types, pattern, sentence in TABLES[parameters["stage"]] + ANY:
        if names.intersection(types.split()) and (match := re.search(pattern, text)):
            fields = {**parameters, **_groups(match), **_more(parameters), "text": first}
            return f"{parameters['subject']}: {sentence.format_map(fields)}"
    return f"{parameters['subject']}: dcpy raised {type(error).__name__}: {first}"


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"in {frames[-1].name}" if frames else "no message"


def _groups(match: re.Match[str]) -> dict[str, str]:
    # A pattern with two alternatives for one thing calls it `x` and `x_`.
    return {name.rstrip("_"): text for name, text in match.groupdict().items() if text is not None}


def _more(parameters: Mapping[str, Any]) -> dict[str, str]:
    return {
        "template": f"{parameters.get('templates')}/{parameters['name']}.yml",
        "python": sys.executable,
        "python_version": ".".join(map(str, sys.version_info[:3])),
    }
