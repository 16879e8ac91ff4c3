"""What failed is tried again where that may help: with a delay, which a cancelled run does not wait
for."""

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from dagster import AssetKey, DagsterInstance, Definitions, ExecuteInProcessResult, materialize

from orchestration.catalog.checkout import SAMPLE_ROOT
from orchestration.catalog.ingest_templates import read_template
from orchestration.catalog.products import read_products_file
from orchestration.catalog.retries import Retries
from orchestration.definitions.ingest import build_ingest_asset
from orchestration.definitions.product import product_definitions
from orchestration.generator.render import LOCATIONS, render
from tests.harness.processes import ORCHESTRATION, wait_until
from tests.harness.up_server import checkout_of, copy_project

TEMPLATE = SAMPLE_ROOT / "ingest_templates" / "qpl_libraries.yml"
OF_BUILDS = {"number": 1, "stages": ["build"], "delay": 0.05}
KINDS = ("STEP_START", "STEP_UP_FOR_RETRY", "STEP_RESTARTED", "STEP_SUCCESS", "STEP_FAILURE")


def shaky(python: str, folder: Path, failures: int) -> str:
    """An interpreter that dies so often before it does its work."""
    path = folder / "shaky"
    path.write_text(
        f"""#!/bin/bash
cd {folder}
echo once >> starts
if [ $(wc -l < starts) -le {failures} ]; then kill -9 $$; fi
cd "$OLDPWD"
exec {python} "$@"
"""
    )
    path.chmod(0o755)
    return str(path)


def run(definitions: Definitions, *key: str) -> tuple[ExecuteInProcessResult, list[str]]:
    """The result of materializing the asset, and the kinds of the events of its step."""
    asset = definitions.get_assets_def(AssetKey(key))
    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(asset.partitions_def.name, ["2026-a"])  # type: ignore[union-attr]
        result = materialize(
            [asset], instance=instance, partition_key="2026-a", raise_on_error=False
        )
        kinds = [event.event_type_value for event in result.all_events if event.step_key]
        return result, [kind for kind in kinds if kind in KINDS]


def ingest(retries: Mapping[str, Any]) -> Definitions:
    template = read_template(TEMPLATE)
    return Definitions([build_ingest_asset(template=template, retries=Retries(**retries))])


@pytest.mark.parametrize(("failures", "succeeds"), [(2, True), (3, False)])
def test_an_ingest_that_dies_is_tried_again_as_often_as_is_said(
    failures: int,
    succeeds: bool,
    lifecycle: Path,
    sample_dcpy: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    python = shaky(sample_dcpy["DCPY_PYTHON"], tmp_path, failures)
    monkeypatch.setenv("DCPY_PYTHON", python)
    result, kinds = run(ingest({"delay": 0.05}), "ingest", "qpl_libraries")
    assert result.success is succeeds
    assert kinds.count("STEP_UP_FOR_RETRY") == 2
    assert (tmp_path / "starts").read_text().count("once") == 3
    if not succeeds:
        [failed] = result.get_step_failure_events()
        said = failed.step_failure_data.user_failure_data
        assert said and str(said.description).startswith("Template 'qpl_libraries'")


def test_what_defaults_say_of_retries_is_for_ingest_too(tmp_path: Path) -> None:
    text = "defaults: {retries: {number: 7}}\nproducts: [{id: a, build_command: b}]\n"
    path = tmp_path / "products.yml"
    path.write_text(text)
    assert read_products_file(path).ingest.retries.number == 7
    path.write_text("ingest: {retries: {number: 1}}\n" + text)
    file = read_products_file(path)
    assert (file.ingest.retries.number, file.products[0].retries.number) == (1, 7)
    text = render(file)[LOCATIONS / "ingest.py"]
    assert "retries={'number': 1}" in text


def test_what_cannot_get_better_is_not_tried_again(
    checkout: Path,
    lifecycle: Path,
    sample_dcpy: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATA_ENGINEERING_ROOT", str(checkout))
    monkeypatch.setenv("DCPY_PYTHON", sample_dcpy["DCPY_PYTHON"])
    (checkout / "ingest_templates" / "qpl_libraries.yml").unlink()
    result, kinds = run(ingest({"delay": 0.05}), "ingest", "qpl_libraries")
    assert (result.success, kinds) == (False, ["STEP_START", "STEP_FAILURE"])
    # It cannot even start.
    python = checkout / "python"
    python.write_text("#!/bin/sh\necho no encodings >&2; exit 1\n")
    python.chmod(0o700)
    monkeypatch.setenv("DCPY_PYTHON", str(python))
    result, kinds = run(ingest({"delay": 0.05}), "ingest", "qpl_libraries")
    assert (result.success, kinds) == (False, ["STEP_START", "STEP_FAILURE"])
    # There is no plan.
    product = product_definitions(id="own", build_command="true", retries={"delay": 0.05})
    result, kinds = run(product, "own", "load")
    assert (result.success, kinds) == (False, ["STEP_START", "STEP_FAILURE"])


@pytest.mark.parametrize(
    ("retries", "command", "times"),
    [
        ({}, "exit 3", 0),
        (OF_BUILDS, "exit 3", 1),
        (OF_BUILDS, "set -e; nobody-has-such-a-command; true", 0),
        (OF_BUILDS, "/", 0),
    ],
)
def test_a_build_is_tried_again_where_that_is_said_only(
    retries: Mapping[str, Any],
    command: str,
    times: int,
    checkout: Path,
    lifecycle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATA_ENGINEERING_ROOT", str(checkout))
    (checkout / "products" / "own").mkdir()
    load = lifecycle / "builds" / "own" / "2026-a" / "load"
    load.mkdir(parents=True)
    (load / "recipe.lock.yml").write_text("product: own\n")
    product = product_definitions(id="own", build_command=command, retries=retries)
    result, kinds = run(product, "own", "build")
    assert not result.success
    assert kinds.count("STEP_UP_FOR_RETRY") == times


def test_a_run_that_is_cancelled_does_not_wait_for_its_next_attempt(
    tmp_path: Path, sample_dcpy: dict[str, str]
) -> None:
    project = copy_project(tmp_path)
    process = subprocess.Popen(
        [*ORCHESTRATION, "materialize", "ingest/qpl_libraries", "2026"],
        cwd=project,
        env={
            **os.environ,
            "DATA_ENGINEERING_ROOT": str(checkout_of(project)),
            "DCPY_LIFECYCLE_DATA_DIR": str(tmp_path / "lifecycle"),
            "DAGSTER_HOME": str(tmp_path / "dagster"),
            "DCPY_PYTHON": shaky(sample_dcpy["DCPY_PYTHON"], tmp_path, 9),
        },
        stdout=(tmp_path / "output").open("w"),
        stderr=subprocess.STDOUT,
    )
    with process:
        assert wait_until(lambda: "Trying again in 60 seconds" in (tmp_path / "output").read_text())
        process.send_signal(signal.SIGINT)
        process.wait(20)
    assert process.returncode == 128 + signal.SIGINT
    assert "was interrupted" in (tmp_path / "output").read_text()
    assert (tmp_path / "starts").read_text().count("once") == 1
