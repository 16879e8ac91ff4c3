"""When a product that follows its inputs is built."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import (
    AssetKey,
    AssetMaterialization,
    AssetSpec,
    DagsterInstance,
    Definitions,
    DynamicPartitionsDefinition,
    evaluate_automation_conditions,
)
from dagster._core.definitions.asset_daemon_cursor import AssetDaemonCursor

from orchestration.catalog.schedules import Schedule
from orchestration.definitions.following import build_follower

FOLLOWER = AssetKey(["a", "new_inputs"])


class Inputs:
    """Two inputs of product `a`, as Dagster's daemon would look at them."""

    def __init__(self, instance: DagsterInstance) -> None:
        self._instance = instance
        schedule = Schedule(cron="on_new_inputs")
        follower, self.sensor = build_follower(slug="a", templates=["x", "y"], schedules=[schedule])
        inputs = [
            AssetSpec(
                ["ingest", name], partitions_def=DynamicPartitionsDefinition(name=f"ingest_{name}")
            )
            for name in "xy"
        ]
        self._definitions = Definitions(assets=[follower, *inputs], sensors=[self.sensor])
        self._cursor: AssetDaemonCursor | None = None

    def ingest(self, name: str, version: str) -> None:
        if not self._instance.has_dynamic_partition(f"ingest_{name}", version):
            self._instance.add_dynamic_partitions(f"ingest_{name}", [version])
        event = AssetMaterialization(["ingest", name], partition=version)
        self._instance.report_runless_asset_event(event)

    def build(self) -> None:
        self._instance.report_runless_asset_event(AssetMaterialization(FOLLOWER))

    def is_due(self) -> bool:
        """Whether the daemon launches a build now."""
        result = evaluate_automation_conditions(
            self._definitions, self._instance, cursor=self._cursor
        )
        self._cursor = result.cursor
        return result.total_requested > 0


@pytest.fixture
def inputs(tmp_path: Path) -> Iterator[Inputs]:
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield Inputs(instance)


def test_a_product_that_was_never_built_is_as_soon_as_all_inputs_are_there(inputs: Inputs) -> None:
    assert not inputs.is_due()
    inputs.ingest("x", "1")
    assert not inputs.is_due()
    inputs.ingest("y", "1")
    assert inputs.is_due()
    inputs.build()
    assert not inputs.is_due()


def test_inputs_that_were_there_before_it_followed_them_are_enough(inputs: Inputs) -> None:
    for name in "xy":
        inputs.ingest(name, "1")
    assert inputs.is_due()


def test_then_it_waits_for_every_input_to_be_ingested_again(inputs: Inputs) -> None:
    inputs.ingest("x", "2")
    inputs.ingest("y", "2")
    assert inputs.is_due()
    inputs.build()
    assert not inputs.is_due()
    inputs.ingest("x", "3")
    inputs.ingest("x", "4")
    assert not inputs.is_due()
    # Newer is what was ingested later, whichever its version.
    inputs.ingest("y", "1")
    assert inputs.is_due()
    inputs.build()
    assert not inputs.is_due()
    assert not inputs.is_due()


def test_the_same_version_again_is_something_newer(inputs: Inputs) -> None:
    for name in "xy":
        inputs.ingest(name, "1")
    assert inputs.is_due()
    inputs.build()
    assert not inputs.is_due()
    for name in "xy":
        assert not inputs.is_due()
        inputs.ingest(name, "1")
    assert inputs.is_due()


def test_what_is_materialized_by_hand_counts_as_the_last_one(inputs: Inputs) -> None:
    for name in "xy":
        inputs.ingest(name, "1")
    assert inputs.is_due()
    inputs.build()
    assert not inputs.is_due()
    inputs.ingest("x", "2")
    assert not inputs.is_due()
    inputs.build()
    assert not inputs.is_due()
    inputs.ingest("y", "2")
    assert not inputs.is_due()


def test_the_daemon_decides_without_the_products_code(inputs: Inputs) -> None:
    assert inputs.sensor.default_status.value == "RUNNING"
    assert inputs.sensor.sensor_type.value == "AUTO_MATERIALIZE"
