"""Between an asset and the work of its stage: how the run sees what was done, or why it was not."""

import time
from collections.abc import Callable
from typing import Any

from dagster import (
    AssetExecutionContext,
    Backoff,
    Failure,
    MaterializeResult,
    MetadataValue,
    RetryPolicy,
    RetryRequested,
)

from orchestration.catalog.retries import Retries
from orchestration.definitions.metadata import metadata_of, tail_of
from orchestration.lifecycle.child import StageFailed
from orchestration.lifecycle.outcomes import Outcome

BACKOFFS = {"constant": None, "linear": Backoff.LINEAR, "exponential": Backoff.EXPONENTIAL}


def execute(
    work: Callable[[], Outcome], context: AssetExecutionContext, retries: Retries, stage: str
) -> MaterializeResult[None]:
    """Does the work of the stage, and gives the materialization with its metadata.

    Raises Failure with the sentence that says why the work was not done, or RetryRequested where
    that may pass.
    """
    attempt, times = context.op_execution_context.retry_number, retries.times(stage)
    if attempt:
        # Here, since Dagster's own wait is one that nobody can cancel.
        policy = RetryPolicy(times, delay=retries.delay, backoff=BACKOFFS[retries.backoff])
        seconds = policy.calculate_delay(attempt)
        context.log.info(f"Trying again in {seconds:g} seconds ({attempt} of {times}).")
        time.sleep(seconds)
    try:
        return MaterializeResult(metadata=metadata_of(work()))
    except StageFailed as failed:
        metadata: dict[str, Any] = {}
        if failed.finished:
            metadata = {
                "exit_code": failed.finished.returncode,
                "log": MetadataValue.path(str(failed.log)),
                "log_tail": tail_of(failed.finished.tail),
            }
        if failed.workspace:
            metadata["workspace"] = MetadataValue.path(str(failed.workspace))
        failure = Failure(str(failed), metadata=metadata)
        failure.__cause__ = failed.__cause__
        if failed.is_transient and attempt < times:
            # Not by a policy of the asset's, by which what is cancelled is tried again, too.
            raise RetryRequested(max_retries=times) from failure
        raise failure from failed.__cause__


def partition_of(context: AssetExecutionContext) -> str:
    """The run's partition key; empty, which no stage takes, where the run has none."""
    return context.partition_key if context.has_partition_key else ""
