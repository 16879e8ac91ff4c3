"""`ingest`: what a product takes in, or a group of templates, in one command."""

import json
import subprocess
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from orchestration import OrchestrationError
from orchestration.catalog.checkout import SAMPLE_ROOT
from orchestration.cli.selection import Catalog
from tests.harness.processes import orchestration

LIBRARIES = ["bpl_libraries", "nypl_libraries", "qpl_libraries"]


@pytest.fixture
def env(sample_dcpy: Mapping[str, str], lifecycle: Path) -> dict[str, str]:
    home = str(lifecycle.parent / "dagster")
    return {**sample_dcpy, "DCPY_LIFECYCLE_DATA_DIR": str(lifecycle), "DAGSTER_HOME": home}


def described(result: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_what_the_source_has_is_ingested_once_and_a_version_as_often_as_is_said(
    env: dict[str, str],
) -> None:
    group = ("ingest", "--group", "city libraries", "--jobs", "3", "--json")
    runs = described(orchestration(*group, env=env))
    today = f"{datetime.now():%Y%m%d}"
    assert sorted((run["selection"], run["partition"], run["state"]) for run in runs) == [
        (f"ingest/{name}", today, "succeeded") for name in LIBRARIES
    ]
    again = orchestration(*group, env=env)
    assert (again.returncode, described(again)) == (0, [])
    assert f"ingest/bpl_libraries has version {today} already" in again.stderr


def test_a_source_that_does_not_say_its_version_is_a_failure_that_stops_no_other(
    env: dict[str, str],
) -> None:
    result = orchestration("ingest", "--for", "capital-projects", "--json", env=env)
    assert result.returncode == 1
    assert [run["selection"] for run in described(result)] == ["ingest/library_systems"]
    assert "Template 'dcp_capital_projects': it needs a version" in result.stderr


def test_a_group_of_no_template_is_not_ingested_in_silence(checkout: Path) -> None:
    products = checkout / "products" / "products.yml"
    text = products.read_text()
    assert '"*_libraries"' in text
    products.write_text(text.replace('"*_libraries"', '"*_librarie"'))
    with pytest.raises(
        OrchestrationError, match=r"no template in .* 'city libraries', which is of"
    ):
        list(Catalog(checkout).ingest_groups(["city libraries"]))
    result = orchestration("check", env={"DATA_ENGINEERING_ROOT": str(checkout)})
    assert "products/products.yml: ingest group 'city libraries': no template" in result.stdout
    assert result.returncode == 1


def test_a_group_is_selected_as_those_of_the_ui_are() -> None:
    assert [each.name for each in Catalog(SAMPLE_ROOT).group("city libraries")] == [
        f"ingest/{name}" for name in LIBRARIES
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"products": ["ingest/bpl_libraries"]}, "ingest/bpl_libraries is no product."),
        ({"groups": ["x"]}, "There is no ingest group 'x' in products.yml. There are: city libr"),
    ],
)
def test_what_cannot_be_selected_is_named(arguments: dict[str, list[str]], said: str) -> None:
    catalog = Catalog(SAMPLE_ROOT)
    with pytest.raises(OrchestrationError) as raised:
        [
            *catalog.inputs(arguments.get("products", [])),
            *catalog.ingest_groups(arguments.get("groups", [])),
        ]
    assert str(raised.value).startswith(said)
