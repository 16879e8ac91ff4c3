"""Between an asset and the work of its stage: how the run sees what was done, or why it was not."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dagster import (
    AssetCheckEvaluation,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetKey,
    Backoff,
    MaterializeResult,
    MetadataValue,
    Output,
    RetryPolicy,
)

from orchestration.catalog.retries import Retries
from orchestration.definitions.abandoned_runs import ending_when_abandoned
from orchestration.definitions.failure import StageFailure, StageRetry
from orchestration.definitions.metadata import metadata_of, metadata_of_check, tail_of
from orchestration.lifecycle.child import StageFailed
from orchestration.lifecycle.outcomes import Built, CheckResult, Ingested, Outcome

Event = MaterializeResult[None] | AssetCheckResult | AssetCheckEvaluation | Output[None]

BACKOFFS = {"constant": None, "linear": Backoff.LINEAR, "exponential": Backoff.EXPONENTIAL}


def execute(
    work: Callable[..., Outcome], context: AssetExecutionContext, retries: Retries, stage: str
) -> Iterator[Event]:
    """Does the work of the stage, and gives the materialization, and the results of its checks.

    `work` calls what it is given as `before_publishing` when its result is complete. Raises
    Failure with the sentence that says why the work was not done, or RetryRequested where that may
    pass.
    """
    attempt, times = context.op_execution_context.retry_number, retries.times(stage)
    if attempt:
        # Here, since Dagster's own wait is one that nobody can cancel.
        policy = RetryPolicy(times, delay=retries.delay, backoff=BACKOFFS[retries.backoff])
        seconds = policy.calculate_delay(attempt)
        context.log.info(f"Trying again in {seconds:g} seconds ({attempt} of {times}).")
        time.sleep(seconds)
    try:
        with ending_when_abandoned(context.instance, context.run.run_id) as check:
            outcome = work(before_publishing=check)
    except StageFailed as failed:
        if failed.checks:
            yield from check_events(failed.checks, context)
        metadata: dict[str, Any] = {}
        if failed.finished:
            metadata = {
                "exit_code": failed.finished.returncode,
                "log": MetadataValue.path(str(failed.log)),
            }
        if failed.workspace:
            metadata["workspace"] = MetadataValue.path(str(failed.workspace))
        if failed.finished:
            metadata["log_tail"] = tail_of(failed.finished.tail)
        failure = StageFailure(str(failed), metadata)
        failure.__cause__ = failed.__cause__
        if failed.is_transient and attempt < times:
            # Not by a policy of the asset's, by which what is cancelled is tried again, too.
            raise StageRetry(str(failed), times) from failure
        raise failure from failed.__cause__
    yield MaterializeResult(metadata=metadata_of(outcome))
    if isinstance(outcome, Ingested | Built):
        yield from check_events(outcome.checks, context)


def check_specs(key: AssetKey, checks: Mapping[str, str]) -> list[AssetCheckSpec]:
    """Declares the checks, names and what they check, of the asset with that key."""
    return [
        AssetCheckSpec(name, asset=key, description=description)
        for name, description in checks.items()
    ]


def check_events(results: Sequence[CheckResult], context: AssetExecutionContext) -> Iterator[Event]:
    """The results of the asset's checks, also of those that it was not known to have."""
    by_name = {result.name: result for result in results}
    # A run that had to wait is of the checks that there were when it was launched.
    planned = {output.name for output in context.get_step_execution_context().step.step_outputs}
    for output, spec in context.assets_def.node_check_specs_by_output_name.items():
        if output not in planned:
            continue
        if result := by_name.pop(spec.name, None):
            yield AssetCheckResult(
                check_name=result.name, asset_key=spec.asset_key, **_of_check(result, context)
            )
        else:
            # Dagster expects an output for each check; of one without a result nothing is said.
            yield Output(None, output_name=output)
    for name, result in by_name.items():
        yield AssetCheckEvaluation(
            asset_key=context.asset_key, check_name=name, **_of_check(result, context)
        )


def _of_check(result: CheckResult, context: AssetExecutionContext) -> dict[str, Any]:
    return {
        "passed": result.passed,
        "severity": AssetCheckSeverity.ERROR if result.is_error else AssetCheckSeverity.WARN,
        "description": result.said,
        "metadata": metadata_of_check(result, partition_of(context)),
    }


def partition_of(context: AssetExecutionContext) -> str:
    """The run's partition key; empty, which no stage takes, where the run has none."""
    return context.partition_key if context.has_partition_key else ""
