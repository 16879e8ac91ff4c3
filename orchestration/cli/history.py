"""What has become of products and templates so far, as the instance knows it."""

from collections.abc import Iterable

from dagster import (
    AssetKey,
    DagsterInstance,
    DagsterRunStatus,
    RunsFilter,
)

from orchestration.alerts.runs import location_of, reasons_of
from orchestration.catalog.names import INGEST, PARTITION_TAG
from orchestration.cli.moments import Moment

MAX_FAILURES = 1000


def last_good(instance: DagsterInstance, keys: Iterable[AssetKey]) -> dict[AssetKey, Moment]:
    """Of each asset that was ever materialized, when it was last."""
    found = {}
    for record in instance.get_asset_records(list(keys)):
        materialized = record.asset_entry.last_materialization_record
        if materialized:
            found[record.asset_entry.asset_key] = Moment(
                materialized.partition_key, materialized.timestamp
            )
    return found


def last_failed(instance: DagsterInstance) -> dict[str, Moment]:
    """Of each product (by slug) and template (`ingest/<id>`) that ever failed, when it last did."""
    found: dict[str, Moment] = {}
    failures = RunsFilter(statuses=[DagsterRunStatus.FAILURE])
    for record in instance.get_run_records(failures, limit=MAX_FAILURES):
        run = record.dagster_run
        location = location_of(run)
        names = {location}
        if location == INGEST:
            names = {key.to_user_string() for key in run.asset_selection or ()}
        for name in names - set(found):
            when = record.end_time or record.update_timestamp.timestamp()
            why = next(reasons_of(instance, run.run_id), None)
            found[name] = Moment(run.tags.get(PARTITION_TAG), when, why)
    return found


def switched_schedules(instance: DagsterInstance) -> dict[tuple[str, str], bool]:
    """Whether a schedule or sensor is on, by location and name, where somebody has switched it."""
    return {
        (
            state.origin.repository_origin.code_location_origin.location_name,
            state.instigator_name,
        ): state.is_running
        for state in instance.all_instigator_state()
    }
