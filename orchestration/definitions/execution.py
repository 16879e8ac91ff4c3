"""Between an asset and the work of its stage: how the run sees what was done, or why it was not."""

from collections.abc import Callable
from typing import Any

from dagster import AssetExecutionContext, Failure, MaterializeResult, MetadataValue

from orchestration.definitions.metadata import metadata_of, tail_of
from orchestration.lifecycle.child import StageFailed
from orchestration.lifecycle.outcomes import Outcome


def execute(work: Callable[[], Outcome]) -> MaterializeResult[None]:
    """Does the work, and gives the materialization with its metadata.

    Raises Failure with the sentence that says why the work was not done.
    """
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
        raise Failure(str(failed), metadata=metadata) from failed.__cause__


def partition_of(context: AssetExecutionContext) -> str:
    """The run's partition key; empty, which no stage takes, where the run has none."""
    return context.partition_key if context.has_partition_key else ""
