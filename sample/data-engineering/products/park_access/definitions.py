"""What the team of park access adds to its product's location in Dagster."""

import csv
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

BUILD = dg.AssetKey(["park_access", "build"])
BOROUGHS = {"Bronx", "Brooklyn", "Manhattan", "Queens", "Staten Island"}


def rows_of_last_build(instance: dg.DagsterInstance) -> list[dict[str, str]]:
    """The product's table as it was built last, whichever the partition."""
    event = instance.get_latest_materialization_event(BUILD)
    folder = Path(event.asset_materialization.metadata["path"].value)
    with next(folder.glob("**/park_access.csv")).open(newline="") as lines:
        return list(csv.DictReader(lines))


@dg.asset_check(asset=BUILD)
def every_borough_is_there(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """Each of the five boroughs has a row."""
    missing = BOROUGHS - {row["borough"] for row in rows_of_last_build(context.instance)}
    return dg.AssetCheckResult(passed=not missing, metadata={"missing": sorted(missing)})


@dg.asset(
    key=["park_access", "acres_per_borough"],
    group_name="park_access",
    deps=[dg.AssetDep(BUILD, partition_mapping=dg.LastPartitionMapping())],
    automation_condition=dg.AutomationCondition.eager(),
)
def acres_per_borough(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """The acres of each borough, made anew whenever the partition that was added last is built."""
    acres = {
        row["borough"]: float(row["park_acres"]) for row in rows_of_last_build(context.instance)
    }
    return dg.MaterializeResult(metadata=acres)


@dg.schedule(cron_schedule="0 6 1 * *", job_name="build_park_access")
def first_of_the_month(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
    """Builds the month's own version; it is off until somebody switches it on in the UI."""
    key = f"{context.scheduled_execution_time:%Y.%m}-monthly"
    context.instance.add_dynamic_partitions("build_park_access", [key])
    yield dg.RunRequest(partition_key=key)


defs = dg.Definitions(
    assets=[acres_per_borough],
    asset_checks=[every_borough_is_there],
    schedules=[first_of_the_month],
    sensors=[
        dg.AutomationConditionSensorDefinition(
            "follow_park_access",
            target=[acres_per_borough],
            default_status=dg.DefaultSensorStatus.RUNNING,
        )
    ],
)
