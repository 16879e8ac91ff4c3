"""Schedules of products.yml in a running `up`: on, switched off, missed, and gone."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from dagster import DagsterInstance
from dagster._core.scheduler.instigation import InstigatorState, ScheduleInstigatorData

from orchestration.definitions.schedules import MISSED_TAG
from tests.harness.up_server import Server, copy_project, selector, serving, write_products

SCHEDULES = """
query Schedules($location: RepositorySelector!) {
  schedulesOrError(repositorySelector: $location) { ... on Schedules { results {
    name
    scheduleState { id status ticks { status runIds skipReason } }
  } } }
}
"""
STOP = """
mutation Stop($id: String!) { stopRunningSchedule(id: $id) { __typename } }
"""
DAY = 86_400


def set_schedules(products: Path, schedules: dict[str, Any]) -> None:
    data = yaml.safe_load(products.read_text())
    for product in data["products"]:
        product.pop("schedule", None)
        if product["id"] in schedules:
            product["schedule"] = schedules[product["id"]]
    products.write_text(yaml.safe_dump(data))


def schedules(server: Server, location: str) -> dict[str, dict[str, Any]]:
    results = server.query(SCHEDULES, location=selector(location))["schedulesOrError"]["results"]
    return {each["name"]: each["scheduleState"] for each in results}


def status(server: Server, location: str) -> dict[str, str]:
    return {name: state["status"] for name, state in schedules(server, location).items()}


@contextmanager
def dagsters_state(project: Path) -> Iterator[DagsterInstance]:
    home = project / ".dagster"
    with DagsterInstance.from_config(str(home)) as instance:
        yield instance


def remembered(project: Path) -> dict[str, InstigatorState]:
    with dagsters_state(project) as instance:
        return {state.instigator_name: state for state in instance.all_instigator_state()}


def as_if_it_had_been_down(project: Path, seconds: float) -> None:
    """Has Dagster remember that it looked at the schedules so long ago for the last time."""
    with dagsters_state(project) as instance:
        for state in instance.all_instigator_state():
            data = ScheduleInstigatorData("@daily", time.time() - seconds)
            instance.update_instigator_state(state.with_data(data))


def test_a_schedule_from_the_first_to_the_last(tmp_path: Path) -> None:
    project = copy_project(tmp_path)
    write_products(project, {"on": "true", "off": "true"})
    products = project / "sample" / "data-engineering" / "products" / "products.yml"
    set_schedules(products, {"on": "@daily", "off": "@daily"})
    locations = ("ingest", "on", "off")
    with serving(project, locations=locations) as server:
        assert status(server, "on") == {"build_on_nightly_qa": "RUNNING"}
        # While the daemon notes that there is one, Dagster can lose that it was switched off.
        server.wait_for(lambda: len(remembered(project)) == 2)
        [state] = schedules(server, "off").values()
        stopped = server.query(STOP, id=state["id"])["stopRunningSchedule"]
        assert stopped == {"__typename": "ScheduleStateResult"}
        server.reload("off")
        assert status(server, "off") == {"build_off_nightly_qa": "STOPPED"}

    as_if_it_had_been_down(project, 3 * DAY)
    with serving(project, locations=locations) as server:
        assert status(server, "off") == {"build_off_nightly_qa": "STOPPED"}

        def launched() -> list[str]:
            [state] = schedules(server, "on").values()
            return [run for tick in state["ticks"] for run in tick["runIds"]]

        server.wait_for(launched)
        # The last of the nights is made up for, and it says so of the others.
        [run] = server.runs()
        tags = server.run_tags(run)
        assert tags["dagster/partition"] == "nightly_qa"
        assert tags[MISSED_TAG].count(" 00:00 UTC") == 2
        assert schedules(server, "off")["build_off_nightly_qa"]["ticks"] == []

        set_schedules(products, {"on": "@daily"})
        server.wait_for(lambda: status(server, "off") == {})
        server.wait_for(lambda: set(remembered(project)) == {"build_on_nightly_qa"})
        set_schedules(products, {"off": "@daily"})
        server.wait_for(lambda: status(server, "off") == {"build_off_nightly_qa": "RUNNING"})
        server.wait_for(lambda: "build_on_nightly_qa" not in remembered(project))
