"""A package hub for `dbt deps`, with packages of the names and versions that a checkout asks for.

They hold no more than the checks that the products of the tests make, in words of our own: the real
packages are on dbt's hub only. Where DBT_PACKAGE_HUB_URL is set, it is used instead.
"""

import io
import json
import tarfile
from pathlib import Path

import yaml

UNIQUE_COMBINATION = """\
{% test unique_combination_of_columns(model, combination_of_columns) %}
SELECT {{ combination_of_columns | join(", ") }}, count(*) AS times FROM {{ model }}
GROUP BY {{ combination_of_columns | join(", ") }} HAVING count(*) > 1
{% endtest %}
"""
AT_LEAST_ONE = """\
{% test at_least_one(model, column_name) %}
SELECT 1 AS missing FROM {{ model }} HAVING count({{ column_name }}) = 0
{% endtest %}
"""
EXPRESSION_IS_TRUE = """\
{% test expression_is_true(model, expression, column_name=none) %}
SELECT 1 AS wrong FROM {{ model }} WHERE NOT ({{ column_name or "" }} {{ expression }})
{% endtest %}
"""
AS_MANY_AS_ANOTHER_TABLE = """\
{% test expect_column_distinct_count_to_equal_other_table(model, compare_model, column_name) %}
SELECT 1 AS differs
WHERE (SELECT count(DISTINCT {{ column_name }}) FROM {{ model }})
    != (SELECT count(DISTINCT {{ column_name }}) FROM {{ compare_model }})
{% endtest %}
"""
CHECKS = {
    "dbt_utils": UNIQUE_COMBINATION + AT_LEAST_ONE + EXPRESSION_IS_TRUE,
    "dbt_expectations": AS_MANY_AS_ANOTHER_TABLE,
}


def write_hub(folder: Path, address: str, products: Path) -> None:
    """Writes what a web server at the address has to serve from the folder."""
    api = folder / "api" / "v1"
    api.mkdir(parents=True)
    wanted: dict[str, set[str]] = {}
    for path in products.glob("*/packages.yml"):
        for package in yaml.safe_load(path.read_text())["packages"]:
            wanted.setdefault(package["package"], set()).add(package["version"])
    for full_name, versions in wanted.items():
        namespace, name = full_name.split("/")
        described = {}
        for version in versions:
            archive = f"{name}-{version}.tar.gz"
            write_package(folder / archive, name, version)
            described[version] = {
                "name": name,
                "version": version,
                "packages": [],
                "downloads": {"tarball": f"{address}/{archive}"},
            }
        path = api / namespace / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            json.dumps({"name": name, "namespace": namespace, "versions": described, "assets": {}})
        )
    (api / "index.json").write_text(json.dumps(sorted(wanted)))


def write_package(path: Path, name: str, version: str) -> None:
    files = {
        "dbt_project.yml": f"name: {name}\nversion: {version}\n",
        "macros/checks.sql": CHECKS.get(name, ""),
    }
    with tarfile.open(path, "w:gz") as archive:
        for file, text in files.items():
            content = text.encode()
            entry = tarfile.TarInfo(f"{name}-{version}/{file}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
