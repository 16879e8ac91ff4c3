"""A product that follows its inputs: built when all of them are newer than it was built from."""

from collections.abc import Sequence
from typing import Any

from dagster import (
    AllPartitionMapping,
    AssetDep,
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    AutomationCondition,
    AutomationConditionSensorDefinition,
    DefaultSensorStatus,
    MaterializeResult,
    asset,
)

from orchestration.catalog.names import (
    INGEST,
    build_job,
    build_partition_set,
    following_sensor,
)
from orchestration.catalog.schedules import Schedule, now
from orchestration.definitions.launching import launch_run

NEW_INPUTS = "new_inputs"
# Each look takes the daemon a tenth of a second; Dagster's own interval is 30.
INTERVAL_SECONDS = 120
DESCRIPTION = """\
Builds {partitions} whenever each of the product's inputs was ingested again since this was \
materialized last, as whichever version. A build by hand does not count; materialize this to have \
one that does.
"""


def build_follower(
    *, slug: str, templates: Sequence[str], schedules: Sequence[Schedule]
) -> tuple[AssetsDefinition, AutomationConditionSensorDefinition]:
    """The asset that launches the builds of these schedules, and the sensor that watches for it.

    It has no partitions, so that Dagster decides about it alone, and not about every build there
    ever was. It is evaluated by the daemon, which wakes no code server for it.
    """
    key = AssetKey([slug, NEW_INPUTS])
    partitions = [schedule.partition for schedule in schedules]

    @asset(
        key=key,
        deps=[
            AssetDep(AssetKey([INGEST, template]), partition_mapping=AllPartitionMapping())
            for template in templates
        ],
        group_name=slug,
        description=DESCRIPTION.format(partitions=" and ".join(partitions)),
        automation_condition=all_newer_than(key),
        tags={"product": slug},
        kinds={"dagster"},
    )
    def new_inputs(context: AssetExecutionContext) -> MaterializeResult[None]:
        job = context.repository_def.get_job(build_job(slug))
        launched = {}
        for schedule in schedules:
            partition = schedule.key_at(now(schedule.timezone))
            launched[partition] = launch_run(
                context,
                job,
                location=slug,
                partition_set=build_partition_set(slug),
                partition=partition,
            )
        return MaterializeResult(metadata={f"run of {key}": run for key, run in launched.items()})

    return new_inputs, AutomationConditionSensorDefinition(
        following_sensor(slug),
        target=[key],
        default_status=DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=INTERVAL_SECONDS,
        description=f"Builds {slug} when all of its inputs are new.",
    )


def all_newer_than(key: AssetKey) -> AutomationCondition[Any]:
    """Each dependency of the asset was materialized since the asset was, or was asked for.

    Where the asset never was, it is enough that they ever were.
    """
    handled = AutomationCondition.asset_matches(
        key, AutomationCondition.newly_requested() | AutomationCondition.newly_updated()
    )
    all_newer = AutomationCondition.all_deps_match(
        AutomationCondition.newly_updated().since(handled)
    ).with_label("every input was ingested since")
    first = (
        AutomationCondition.missing()
        & ~AutomationCondition.execution_failed()
        & AutomationCondition.all_deps_match(~AutomationCondition.missing())
    ).with_label("every input is there, and nothing was built of them")
    return (all_newer | first) & ~AutomationCondition.in_progress()
