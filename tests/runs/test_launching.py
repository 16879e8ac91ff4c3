"""Jobs that ingest many templates: a run for each, whatever becomes of the others."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import pytest
import yaml

from orchestration.definitions.following import INTERVAL_SECONDS
from orchestration.definitions.launching import LAUNCHED_BY_TAG, launch_config
from tests.harness.processes import PATIENCE
from tests.harness.up_server import LAUNCH, Server, copy_project, selector, serving

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, sample_dcpy: Mapping[str, str]
) -> Iterator[Server]:
    project = copy_project(tmp_path_factory.mktemp("groups"))
    products = project / "sample" / "data-engineering" / "products" / "products.yml"
    data = yaml.safe_load(products.read_text())
    for product in data["products"]:
        if product["id"] == "libraries":
            product["schedule"] = "on_new_inputs"
    groups = [
        {"name": "Weekly look", "templates": ["[bq]pl_*", "dcp_*"]},
        {"name": "Systems", "templates": ["[bnq]*pl_libraries", "library_systems*"]},
    ]
    systems = project / "sample" / "data-engineering" / "ingest_templates" / "library_systems.yml"
    template = yaml.safe_load(systems.read_text())
    further = {**template, "id": "library_systems_again", "depends_on": ["library_systems"]}
    systems.with_stem("library_systems_again").write_text(yaml.safe_dump(further))
    products.write_text(yaml.safe_dump({**data, "ingest": {"groups": groups}}))
    with serving(project, env=sample_dcpy) as server:
        yield server


def launch(server: Server, location: str, job: str, config: Mapping[str, Any]) -> str:
    parameters = {
        "selector": {**selector(location), "pipelineName": job},
        "runConfigData": config,
        "mode": "default",
    }
    answer = server.query(LAUNCH, parameters=parameters)["launchPipelineExecution"]
    run_id: str = answer["run"]["runId"]
    return run_id


def launched_by(server: Server, run_id: str) -> list[str]:
    tags = {each: server.run_tags(each) for each in server.runs()}
    return [each for each, own in tags.items() if own.get(LAUNCHED_BY_TAG) == run_id]


def versions(server: Server, template: str) -> set[str]:
    asset = server.asset("ingest", template)
    assert asset
    return {each["partition"] for each in asset["assetMaterializations"]}


def test_a_look_at_the_sources_ingests_what_is_new_and_tells_of_the_source_that_is_not_known(
    server: Server,
) -> None:
    today = f"{datetime.now():%Y%m%d}"
    look = launch(server, "ingest", "ingest_Weekly_look", {})
    server.wait_for_run(look, "FAILURE")
    runs = launched_by(server, look)
    assert len(runs) == 2
    for run in runs:
        server.wait_for_run(run)
    assert versions(server, "bpl_libraries") == versions(server, "qpl_libraries") == {today}
    assert versions(server, "dcp_capital_projects") == set()
    again = launch(server, "ingest", "ingest_Weekly_look", {})
    server.wait_for_run(again, "FAILURE")
    assert launched_by(server, again) == []
    assert "0 of 3 templates were launched." in server.events(again)


def test_a_products_inputs_are_ingested_as_one_version_and_it_is_built_once_all_of_them_are(
    server: Server,
) -> None:
    job = "ingest_for_libraries"
    run = launch(server, "libraries", job, launch_config(job, "20260101"))
    server.wait_for_run(run)
    inputs = ("bpl_libraries", "nypl_libraries", "qpl_libraries")
    for each in launched_by(server, run):
        server.wait_for_run(each)
    assert all("20260101" in versions(server, template) for template in inputs)

    def builds() -> list[str]:
        tags = {each: server.run_tags(each) for each in server.runs()}
        return [each for each, own in tags.items() if own.get("dagster/partition") == "nightly_qa"]

    # The daemon looks every two minutes.
    server.wait_for(builds, seconds=INTERVAL_SECONDS + PATIENCE)
    [build] = builds()
    server.wait_for_run(build)


def test_a_version_that_cannot_be_one_is_refused(server: Server) -> None:
    job = "ingest_for_libraries"
    run = launch(server, "libraries", job, launch_config(job, "../x"))
    server.wait_for_run(run, "FAILURE")
    assert launched_by(server, run) == []


def test_what_depends_on_one_that_failed_is_not_launched_however_far_away(server: Server) -> None:
    template = server.checkout / "ingest_templates" / "bpl_libraries.yml"
    before = template.read_text()
    template.write_text(before.replace("clean_column_names", "no_such_step"))
    assert template.read_text() != before
    job = "ingest_Systems"
    run = launch(server, "ingest", job, launch_config(job, "20240101"))
    server.wait_for_run(run, "FAILURE")
    template.write_text(before)
    assert len(launched_by(server, run)) == 3
    assert "3 of 5 templates were launched." in server.events(run)


def test_as_many_jobs_at_once_as_runs_may_go_on_leave_room_for_those_that_they_wait_for(
    server: Server,
) -> None:
    keys = [f"2025010{number}" for number in range(1, 5)]
    job = "ingest_Systems"
    looks = [launch(server, "ingest", job, launch_config(job, key)) for key in keys]
    for look in looks:
        server.wait_for_run(look)
    for each in launched_by(server, looks[-1]):
        server.wait_for_run(each)
    assert versions(server, "library_systems") >= {*keys}
