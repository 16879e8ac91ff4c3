"""Runs in this process, which `up` and its UI show as any others."""

import difflib
import importlib
import logging
import os
import sys
import textwrap

from dagster import (
    AssetKey,
    DagsterEvent,
    DagsterEventType,
    Definitions,
    InitLoggerContext,
    logger,
)

from orchestration import OrchestrationError
from orchestration.catalog.names import INGEST, STAGES, build_job
from orchestration.catalog.partition_keys import check_key, read_build_key
from orchestration.cli.selection import Selection
from orchestration.instance.home import open_instance
from orchestration.instance.partitions import add_partition
from orchestration.instance.workers import WORKER_TAG, process_identity

# Dagster's own names: of the job that runs any asset, and of the tag by which the UI finds a run's
# location.
ASSET_JOB = "__ASSET_JOB"
REPOSITORY_TAG = ".dagster/repository"


def materialize(selection: Selection, partition: str) -> bool:
    """Runs the selection for the partition in this process; True when all of it succeeded.

    A new partition key is added. The run and its events are kept in the instance, as of any run.
    Raises OrchestrationError for what cannot be run at all.
    """
    read_key = check_key if selection.location == INGEST else read_build_key
    read_key(partition)
    definitions = _load(selection)
    name = selection.partition_set
    with open_instance(lambda instance: add_partition(instance, name, partition)) as instance:
        # A logger's name is part of the run's config, which the UI offers to run again: it has to
        # be one that every job knows.
        definitions = Definitions.merge(definitions, Definitions(loggers={"console": _progress}))
        is_whole = selection.assets == STAGES
        job = build_job(selection.location) if is_whole else ASSET_JOB
        result = definitions.resolve_job_def(job).execute_in_process(
            instance=instance,
            partition_key=partition,
            asset_selection=[AssetKey([selection.location, name]) for name in selection.assets],
            raise_on_error=False,
            run_config={"loggers": {"console": {}}},
            # As runs are tagged that `up` launches: it is how the UI finds their location, and how
            # `up` finds out that this process was killed.
            tags={
                REPOSITORY_TAG: f"__repository__@{selection.location}",
                WORKER_TAG: process_identity(os.getpid()),
            },
        )
    return result.success


@logger
def _progress(_: InitLoggerContext) -> logging.Logger:
    """A run's stages, their output and errors, for a person at a terminal."""
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(lambda record: bool(_wording(record)))
    handler.setFormatter(_ProgressFormatter())
    progress = logging.Logger("progress")
    progress.addHandler(handler)
    return progress


class _ProgressFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return _wording(record)


def _wording(record: logging.LogRecord) -> str:
    meta = record.__dict__["dagster_meta"]
    event: DagsterEvent | None = meta["dagster_event"]
    if event is None:
        return textwrap.indent(meta["orig_message"], "    ")
    step = event.step_key or ""
    product, _, stage = step.rpartition("__")
    asset = f"{product}/{stage}" if stage in STAGES else step.replace("__", "/", 1)
    match event.event_type:
        case DagsterEventType.RUN_START:
            return f"Run {event.job_name} {meta['run_id']}"
        case DagsterEventType.STEP_START:
            return f"{asset} …"
        case DagsterEventType.STEP_SUCCESS:
            return f"{asset} succeeded in {event.step_success_data.duration_ms / 1000:.1f} s"
        case DagsterEventType.STEP_FAILURE:
            data = event.step_failure_data
            if data.error and data.error.cls_name == "DagsterExecutionInterruptedError":
                return f"{asset} was interrupted, and what it had started was ended."
            said = data.user_failure_data and data.user_failure_data.description
            return f"{asset} failed. {said or (data.error and data.error.to_string()) or ''}"
        case DagsterEventType.RUN_SUCCESS:
            return "Succeeded."
        case DagsterEventType.RUN_FAILURE | DagsterEventType.RUN_CANCELED:
            return f"Not done. {meta['orig_message']}"
        case _:
            return ""


def _load(selection: Selection) -> Definitions:
    module = f"orchestration.locations.{selection.location}"
    try:
        definitions: Definitions = importlib.import_module(module).defs
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise OrchestrationError(
            f"There is no {module} yet. Run `python -m orchestration generate`."
        ) from error
    known = {key.path[-1] for key in definitions.resolve_all_asset_keys()}
    if missing := [name for name in selection.assets if name not in known]:
        close = difflib.get_close_matches(missing[0], known)
        hint = f" Did you mean {selection.location}/{close[0]}?" if close else ""
        raise OrchestrationError(f"There is no asset {selection.location}/{missing[0]}.{hint}")
    return definitions
