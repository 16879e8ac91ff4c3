"""Runs as Dagster has them, executed here: `up` and its UI show them as any others."""

import importlib
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dagster import (
    AssetKey,
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    Definitions,
    InitLoggerContext,
    LoggerDefinition,
    RunsFilter,
    logger,
)

from orchestration import OrchestrationError
from orchestration.catalog.names import (
    ASSET_JOB,
    INGEST,
    PARTITION_TAG,
    REPOSITORY_TAG,
    STAGES,
    build_job,
)
from orchestration.cli.forks import Tell
from orchestration.cli.interpreters import do_there
from orchestration.cli.runs import Run, State, check_options
from orchestration.definitions.broken import where_and_why
from orchestration.definitions.interpreter import Interpreter
from orchestration.definitions.partitions import add_partition
from orchestration.instance.deaths import note_death, note_deaths
from orchestration.instance.home import open_instance
from orchestration.instance.workers import WORKER_TAG, mark_host, process_identity
from orchestration.lifecycle.results import locked

# Dagster's own: of the tags that a run has for its pools.
POOL_TAG = ".dagster/pool/"
POOL_SECONDS = 1.0
UNFINISHED = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
STATES = {
    DagsterRunStatus.SUCCESS: State.SUCCEEDED,
    DagsterRunStatus.CANCELED: State.CANCELLED,
}


def execute(run: Run, tell: Tell, interpreter: Interpreter | None = None) -> None:
    """Executes the run in this process, telling what it does; in `interpreter`, where it has one.

    A new partition key is added. The run and its events are kept in the instance, as of any run.
    """
    try:
        if interpreter:
            do_there(interpreter, execute, run)
        else:
            tell({"ended": _executed(run, tell).value})
    except OrchestrationError as error:
        tell({"ended": State.FAILED.value, "error": str(error)})
    except KeyboardInterrupt:
        with open_instance(lambda _: None) as instance:
            found = instance.get_run_by_id(run.id)
            if found and not found.is_finished:
                instance.report_run_canceled(found, "It was cancelled before it had started.")
        tell({"ended": State.CANCELLED.value})


def _executed(run: Run, tell: Tell) -> State:
    selection = run.selection
    definitions = _load(selection.location)
    keys = [AssetKey([selection.location, name]) for name in selection.assets]
    ops = op_config(definitions, keys, run.config)
    set_name = selection.partition_set
    with ExitStack() as stack:
        stack.enter_context(mark_host())
        instance = stack.enter_context(
            open_instance(lambda instance: add_partition(instance, set_name, run.partition))
        )
        for pool in sorted({_pool(definitions, key) for key in keys}):
            _wait_for_pool(instance, pool, stack, tell)
        # A logger's name is part of the run's config, which the UI offers to run again: it has to
        # be one that every job knows.
        definitions = Definitions.merge(
            definitions, Definitions(loggers={"console": _telling(run, tell)})
        )
        job = build_job(selection.location) if selection.is_whole else ASSET_JOB
        result = definitions.resolve_job_def(job).execute_in_process(
            instance=instance,
            run_id=run.id,
            partition_key=run.partition,
            asset_selection=keys,
            raise_on_error=False,
            run_config={
                "loggers": {"console": {}},
                "ops": ops,
            },
            # As runs are tagged that `up` launches: it is how the UI finds their location, and how
            # `up` finds out that this process was killed.
            tags={
                REPOSITORY_TAG: f"__repository__@{selection.location}",
                WORKER_TAG: process_identity(os.getpid()),
            },
        )
        return STATES.get(result.dagster_run.status, State.FAILED)


def _load(location: str) -> Definitions:
    module = f"orchestration.locations.{location}"
    try:
        definitions: Definitions = importlib.import_module(module).defs
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            raise OrchestrationError(
                f"There is no {module} yet. Run `python3 -m orchestration generate`."
            ) from error
        # What a team's own definitions raise can be anything.
        raise OrchestrationError(f"{location} cannot be loaded: {where_and_why(error)}") from error
    return definitions


def op_config(
    definitions: Definitions, keys: Iterable[AssetKey], config: Mapping[str, Any]
) -> dict[str, Any]:
    """The run config of the assets' ops: each gets those of the options in `config` that it has.

    Raises OrchestrationError for an option that none of them has.
    """
    found: dict[str, Any] = {}
    known: set[str] = set()
    for key in keys if config else ():
        op = definitions.get_assets_def(key).op
        fields = set(getattr(op.config_field.config_type, "fields", {}) if op.config_field else {})
        known |= fields
        if own := {name: value for name, value in config.items() if name in fields}:
            found[op.name] = {"config": own}
    check_options(config, known)
    return found


def _pool(definitions: Definitions, key: AssetKey) -> str:
    return definitions.get_assets_def(key).op.pool or ""


def _wait_for_pool(instance: DagsterInstance, pool: str, stack: ExitStack, tell: Tell) -> None:
    """Returns once no other run is in the pool; others from the command line wait until the end."""
    told = False

    def tell_once() -> None:
        nonlocal told
        if not told:
            tell({"waits": "Another run of it is going on."})
        told = True

    home = Path(os.environ["DAGSTER_HOME"])
    stack.enter_context(locked(home / "pools" / pool, waiting=tell_once))
    in_pool = RunsFilter(statuses=UNFINISHED, tags={f"{POOL_TAG}{pool}": "true"})
    while instance.get_runs(in_pool, limit=1):
        note_deaths(instance)
        if instance.get_runs(in_pool, limit=1):
            tell_once()
            time.sleep(POOL_SECONDS)


def mark_cancelling(runs: Sequence[Run]) -> None:
    """Has Dagster know that somebody wants these runs to end: else they would have failed."""
    with open_instance(lambda _: None) as instance:
        for run in runs:
            found = instance.get_run_by_id(run.id)
            if found and not found.is_finished:
                instance.report_run_canceling(found)


def note_lost(run: Run, how: str) -> None:
    """Has the run fail, or be cancelled, whose process ended without a word."""
    with open_instance(lambda _: None) as instance:
        if found := instance.get_run_by_id(run.id):
            note_death(instance, found, how)


def failed_assets(run: Run) -> tuple[str, ...]:
    """Of the run's assets those that their last run for the partition did not make."""
    selection = run.selection
    tags = {
        PARTITION_TAG: run.partition,
        REPOSITORY_TAG: f"__repository__@{selection.location}",
    }
    unknown, failed = set(selection.assets), set()
    with open_instance(lambda _: None) as instance:
        for last in instance.get_runs(RunsFilter(tags=tags)):
            # A job that was launched as a whole names none.
            planned = {key.path[-1] for key in last.asset_selection or ()} or set(STAGES)
            if last.is_finished and planned & unknown:
                made = planned if last.is_success else _made(instance, last)
                failed |= (planned & unknown) - made
                unknown -= planned
    return tuple(asset for asset in selection.assets if asset in failed)


def _made(instance: DagsterInstance, run: DagsterRun) -> set[str]:
    events = instance.get_records_for_run(
        run.run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION
    ).records
    return {record.asset_key.path[-1] for record in events if record.asset_key}


def _telling(run: Run, tell: Tell) -> LoggerDefinition:
    @logger
    def console(_: InitLoggerContext) -> logging.Logger:
        told = logging.Logger("console")
        told.addHandler(_Telling(run, tell))
        return told

    return console


class _Telling(logging.Handler):
    """Tells of a run's events, as Dagster logs them."""

    def __init__(self, run: Run, tell: Tell) -> None:
        super().__init__()
        self._run, self._tell = run, tell
        self._is_in_step = False

    def emit(self, record: logging.LogRecord) -> None:
        meta = record.__dict__["dagster_meta"]
        event: DagsterEvent | None = meta["dagster_event"]
        if event is None:
            # Of steps that it leaves out, Dagster says no more than what the end says.
            if self._is_in_step:
                self._tell({"output": meta["orig_message"]})
            return
        selection = self._run.selection
        stage = (event.step_key or "").rpartition("__")[2]
        name = selection.assets[0] if selection.location == INGEST else stage
        asset = f"{selection.location}/{name}"
        match event.event_type:
            case DagsterEventType.RUN_START:
                self._tell({"run": meta["run_id"]})
            case DagsterEventType.STEP_UP_FOR_RETRY:
                self._tell({"failed for now": asset})
            case DagsterEventType.STEP_START | DagsterEventType.STEP_RESTARTED:
                self._is_in_step = True
                self._tell({"began": asset})
            case DagsterEventType.ASSET_MATERIALIZATION:
                self._tell(_materialized(asset, event))
            case DagsterEventType.STEP_SUCCESS:
                self._is_in_step = False
                self._tell({"done": asset, "seconds": event.step_success_data.duration_ms / 1000})
            case DagsterEventType.STEP_FAILURE:
                self._is_in_step = False
                self._tell(_failed(asset, event))


def _materialized(asset: str, event: DagsterEvent) -> dict[str, Any]:
    metadata = event.step_materialization_data.materialization.metadata
    shown = {"path": metadata.get("path"), "rows": metadata.get("dagster/row_count")}
    return {
        "materialized": asset,
        **{name: value.value for name, value in shown.items() if value is not None},
    }


def _failed(asset: str, event: DagsterEvent) -> dict[str, Any]:
    data = event.step_failure_data
    if data.error and data.error.cls_name == "DagsterExecutionInterruptedError":
        return {"interrupted": asset}
    said = data.user_failure_data
    log = said.metadata.get("log") if said and said.metadata else None
    return {
        "failed": asset,
        "error": (said and said.description) or (data.error and data.error.to_string()) or "",
        "log": log.value if log else None,
    }
