"""Jobs that launch a run of its own for each of many ingest templates.

Their versions are partitions of as many sets, of which one run can have but one. A template that
fails does not stop the others.
"""

import time
from collections.abc import Callable, Mapping, Sequence, Set
from graphlib import TopologicalSorter
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetKey,
    DagsterRunStatus,
    Definitions,
    Failure,
    JobDefinition,
    OpExecutionContext,
    RunsFilter,
    job,
    op,
)
from dagster import Field as ConfigField

from orchestration import OrchestrationError
from orchestration.catalog.checkout import checkout_root, templates_folder
from orchestration.catalog.ingest_groups import SOURCE
from orchestration.catalog.ingest_templates import read_templates
from orchestration.catalog.names import (
    INGEST,
    LAUNCHES_TAG,
    PARTITION_TAG,
    REPOSITORY_TAG,
    ingest_partition_set,
)
from orchestration.catalog.partition_keys import check_key
from orchestration.catalog.schedules import checked_version, key_at, now
from orchestration.definitions.metadata import table
from orchestration.definitions.partitions import add_partition
from orchestration.definitions.schedules import UNFINISHED
from orchestration.lifecycle.child import StageFailed
from orchestration.lifecycle.results import ingest_result, lifecycle_dir
from orchestration.lifecycle.source_versions import source_versions

# Of a run: the run that has launched it.
LAUNCHED_BY_TAG = "orchestration/launched_by"
LAUNCH = "launch"
POLL_SECONDS = 2.0


def build_launch_job(
    *,
    name: str,
    templates: Sequence[str],
    version: str,
    description: str,
    ingest: Callable[[], Definitions],
) -> JobDefinition:
    """A job that ingests one version of all the templates, or of each what its source has now.

    `version` is that where the run's config names none, and `ingest` gives the definitions of the
    ingest location.
    """

    @op(
        name=f"{name}__{LAUNCH}",
        config_schema={
            "version": ConfigField(
                str,
                default_value=version,
                is_required=False,
                description="The version to ingest; or `source`: of each the one that its source "
                "has now, where that is not ingested yet.",
            )
        },
    )
    def launch(context: OpExecutionContext) -> None:
        Launch(context, ingest()).launch_all(templates, context.op_config["version"])

    @job(name=name, description=description, tags={LAUNCHES_TAG: "true"})
    def launching() -> None:
        launch()

    return launching


def launch_config(job_name: str, version: str) -> dict[str, Any]:
    """The run config with which the job ingests that version."""
    return {"ops": {f"{job_name}__{LAUNCH}": {"config": {"version": version}}}}


class Launch:
    """The runs that one run launches in the ingest location."""

    def __init__(self, context: OpExecutionContext, ingest: Definitions) -> None:
        self._context, self._instance = context, context.instance
        self._job = ingest.resolve_implicit_global_asset_job_def()
        self._runs: dict[str, str] = {}
        self._done: dict[str, str] = {}
        self._problems: dict[str, str] = {}
        self._failed: dict[str, str] = {}

    def launch_all(self, templates: Sequence[str], version: str) -> None:
        """Launches a run for each template, after those of the templates that it depends on.

        Raises Failure, having launched all others, where it could not for some.
        """
        versions = self._versions(templates, version)
        every = read_templates(templates_folder(checkout_root()))
        depends_on = {template.id: template.depends_on for template in every}
        for name in TopologicalSorter(depends_on).static_order():
            if name in versions and self._are_ingested(depends_on[name], name):
                self._runs[name] = self._launch(name, versions[name])
                self._done[name] = f"launched: run {self._runs[name]}"
        rows = [
            {"template": name, "version": versions.get(name, ""), "done": done}
            for name, done in sorted((self._done | self._problems).items())
        ]
        shown = table(rows, ("template", "version", "done"))
        self._context.add_output_metadata({"templates": shown})
        self._context.log.info(f"{len(self._runs)} of {len(templates)} templates were launched.")
        if self._problems:
            raise Failure(
                f"{len(self._problems)} of {len(templates)} templates were not launched. "
                + " ".join(self._problems[name] for name in sorted(self._problems))
            )

    def _versions(self, templates: Sequence[str], version: str) -> Mapping[str, str]:
        """Which version of which template is to be ingested."""
        if version != SOURCE:
            try:
                key = key_at(checked_version(version), now("UTC"))
            except ValueError as error:
                raise Failure(f"The version {version!r} {error}.") from error
            return dict.fromkeys(templates, key)
        try:
            asked = source_versions(self._context.job_name, templates, self._context.log)
        except StageFailed as failed:
            raise Failure(str(failed)) from failed
        self._problems.update(asked.problems)
        new = {}
        for name, key in asked.versions.items():
            try:
                check_key(key)
            except OrchestrationError as error:
                self._problems[name] = f"Template {name!r}: {error}"
                continue
            if ingest_result(lifecycle_dir(), name, key).exists():
                self._done[name] = f"version {key} is there"
            elif run := self._unfinished_run(name, key):
                self._done[name] = f"version {key} is being ingested: run {run}"
            else:
                new[name] = key
        return new

    def _unfinished_run(self, name: str, key: str) -> str | None:
        runs = self._instance.get_runs(RunsFilter(tags={PARTITION_TAG: key}, statuses=UNFINISHED))
        asset = AssetKey([INGEST, name])
        return next((run.run_id for run in runs if asset in (run.asset_selection or ())), None)

    def _are_ingested(self, needed: Sequence[str], name: str) -> bool:
        """Waits for those templates of which there is a run; False where one has failed.

        So has one that was not launched since what it depends on itself has failed.
        """
        for other in needed:
            if failed := self._failed.get(other) or self._failed_run(other):
                self._failed[name] = failed
                self._problems[name] = (
                    f"Template {name!r}: what it depends on failed, run {failed}."
                )
                return False
        return True

    def _failed_run(self, name: str) -> str | None:
        """The run of a template once it has ended, if it has failed."""
        if not (run_id := self._runs.get(name)):
            return None
        while not (run := self._instance.get_run_by_id(run_id)) or not run.is_finished:
            time.sleep(POLL_SECONDS)
        return None if run.status is DagsterRunStatus.SUCCESS else run_id

    def _launch(self, name: str, key: str) -> str:
        return launch_run(
            self._context,
            self._job,
            location=INGEST,
            assets={AssetKey([INGEST, name])},
            partition_set=ingest_partition_set(name),
            partition=key,
        )


def launch_run(
    context: OpExecutionContext | AssetExecutionContext,
    job: JobDefinition,
    *,
    location: str,
    partition_set: str,
    partition: str,
    assets: Set[AssetKey] | None = None,
) -> str:
    """Has a run queued of a job of that location; gives its id. The partition's key is made.

    Raises Failure where there is no server that would run it.
    """
    instance, own = context.instance, context.run
    if own.remote_job_origin is None or own.job_code_origin is None:
        raise Failure("Only a run of `up` can launch others.")
    add_partition(instance, partition_set, partition)
    run = instance.create_run_for_job(
        job,
        asset_selection=assets,
        tags={
            PARTITION_TAG: partition,
            REPOSITORY_TAG: f"__repository__@{location}",
            LAUNCHED_BY_TAG: own.run_id,
        },
        remote_job_origin=_place(own.remote_job_origin, location, job.name),
        job_code_origin=_code(own.job_code_origin, location, job.name),
    )
    # With a queue of runs nothing is asked of the locations.
    nothing: Any = None
    instance.submit_run(run.run_id, nothing)
    return run.run_id


def _place(origin: Any, location: str, job_name: str) -> Any:
    """Where Dagster finds the job: at its location's name, whatever the address."""
    repository = origin.repository_origin
    there = repository.code_location_origin._replace(location_name=location)
    here = repository._replace(code_location_origin=there)
    return origin._replace(repository_origin=here, job_name=job_name)


def _code(origin: Any, location: str, job_name: str) -> Any:
    """What the run's process loads: the location's module, which lies beside this one's."""
    repository = origin.repository_origin
    pointer = repository.code_pointer
    module = f"{pointer.module.rpartition('.')[0]}.{location}"
    there = repository._replace(code_pointer=pointer._replace(module=module))
    return origin._replace(repository_origin=there, job_name=job_name)
