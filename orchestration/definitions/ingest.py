"""The ingest location: one asset per ingest template."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from dagster import (
    AssetDep,
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    AssetSpec,
    Config,
    Definitions,
    JobDefinition,
    LastPartitionMapping,
    MetadataValue,
    RunRequest,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    get_dagster_logger,
    in_process_executor,
    multi_asset,
)
from pydantic import Field

from orchestration.catalog.checkout import checkout_root, product_folder, templates_folder
from orchestration.catalog.checks import Checks
from orchestration.catalog.ingest_groups import Ingest, IngestGroup
from orchestration.catalog.ingest_templates import IngestTemplate, read_templates
from orchestration.catalog.names import INGEST
from orchestration.catalog.retries import Retries
from orchestration.catalog.schedules import schedule_names
from orchestration.catalog.template_groups import template_groups
from orchestration.catalog.template_owners import template_owners
from orchestration.definitions.execution import Event, check_specs, execute, partition_of
from orchestration.definitions.launching import build_launch_job, launch_config
from orchestration.definitions.partitions import ingest_partitions
from orchestration.definitions.schedules import build_schedule
from orchestration.lifecycle.checks import INGEST_CHECKS
from orchestration.lifecycle.ingest import ingest

RETRIES = Retries()
CHECKS = Checks()


class IngestConfig(Config):
    """How a template is ingested: the options of dcpy's `ingest`, everything kept local."""

    push: bool = Field(False, description="Archive the result in the team's storage.")
    latest: bool = Field(False, description="With push: make this the latest version there.")
    mode: str | None = Field(None, description="Run the processing steps of this mode, too.")
    datasets_filter: list[str] | None = Field(
        None, description="Only these datasets of a template that gives several."
    )
    output_csv: bool = Field(False, description="Write a CSV beside each parquet file.")
    overwrite_okay: bool = Field(
        False, description="With push: replace a version that is archived already."
    )


def ingest_definitions(
    *, owned_recipes: Mapping[str, Sequence[str]] | None = None, **fields: Any
) -> Definitions:
    """The code location of all ingest templates of the checkout, as they are when it loads.

    `owned_recipes` are recipes, by their paths below products/, with the owners of their products;
    the other arguments are the fields of `ingest` in products.yml. Raises OrchestrationError when
    the checkout has no ingest_templates.
    """
    settings, root = Ingest(**fields), checkout_root()
    templates = read_templates(templates_folder(root))
    ids = [template.id for template in templates]
    for template in templates:
        for complaint in filter(None, (template.problem, *template.warnings)):
            get_dagster_logger().warning(f"Ingest template {template.id}: {complaint}")
    # Of a template that is in several, the first is the one that it is shown in.
    named = {name: group.name for group in reversed(settings.groups) for name in group.members(ids)}
    groups = template_groups(templates, named)
    recipes = {product_folder(root, path): of for path, of in (owned_recipes or {}).items()}
    owners = template_owners(templates, settings.groups, recipes)
    again = partial(ingest_definitions, **fields)
    jobs = [_build_group(group, ids, again) for group in settings.groups]
    return Definitions(
        assets=[
            build_ingest_asset(
                template=template,
                group=groups[template.id],
                owners=owners.get(template.id, ()),
                retries=settings.retries,
                checks=settings.checks_of(template.id),
            )
            for template in templates
        ],
        jobs=[job for job, _ in jobs],
        schedules=[schedule for _, schedules in jobs for schedule in schedules],
        executor=in_process_executor,
    )


def _build_group(
    group: IngestGroup, templates: Sequence[str], ingest: Callable[[], Definitions]
) -> tuple[JobDefinition, list[ScheduleDefinition]]:
    """The job that ingests all of the group's templates, and its schedules."""
    job = build_launch_job(
        name=group.job,
        templates=group.members(templates),
        version=group.version,
        description=f"Ingests {group.name}: {', '.join(group.templates)}.",
        ingest=ingest,
    )

    def request(context: ScheduleEvaluationContext) -> RunRequest:
        version = group.version
        if not group.asks_source:
            version = group.version_at(context.scheduled_execution_time)
        return RunRequest(run_config=launch_config(group.job, version))

    return job, [
        build_schedule(
            name=name,
            schedule=schedule,
            job=job,
            description=f"Ingests {group.name}, version: {group.version}.",
            request=request,
        )
        for name, schedule in schedule_names(group.job, group.schedule).items()
    ]


def build_ingest_asset(
    *,
    template: IngestTemplate,
    group: str = INGEST,
    owners: Sequence[str] = (),
    retries: Retries = RETRIES,
    checks: Checks = CHECKS,
) -> AssetsDefinition:
    """The asset of one template; its partition key is the version handed to dcpy's `ingest`."""
    name = f"ingest__{_identifier(template.id)}"
    key = AssetKey(["ingest", template.id])

    @multi_asset(
        name=name,
        specs=[
            AssetSpec(
                key=key,
                deps=[
                    AssetDep(AssetKey(["ingest", other]), partition_mapping=LastPartitionMapping())
                    for other in template.depends_on
                ],
                description=_description(template),
                group_name=group,
                owners=owners,
                tags={"lifecycle_stage": "ingest"},
                kinds=_kinds(template),
                metadata=_metadata(template),
            )
        ],
        check_specs=check_specs(key, INGEST_CHECKS),
        partitions_def=ingest_partitions(template.id),
        pool=name,
    )
    def ingest_asset(context: AssetExecutionContext, config: IngestConfig) -> Iterator[Event]:
        options = config.model_dump()
        version = partition_of(context)
        work = partial(ingest, template, version, options, checks, context.log)
        yield from execute(work, context, retries, INGEST)

    return ingest_asset


def _identifier(template_id: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_]+", template_id):
        return template_id
    digest = hashlib.sha256(template_id.encode(errors="surrogateescape")).hexdigest()[:8]
    return re.sub(r"[^A-Za-z0-9_]+", "_", template_id) + f"_{digest}"


def _kinds(template: IngestTemplate) -> set[str]:
    # Where Dagster has a picture for the word, as for s3, it shows that.
    source = re.sub(r"[^A-Za-z0-9_.-]+", "_", template.source_type or "")[:63]
    return {"parquet", source} if source else {"parquet"}


def _description(template: IngestTemplate) -> str:
    if template.problem:
        return f"**This template cannot be read:** {template.problem}"
    warnings = [f"**Warning:** {warning}" for warning in template.warnings]
    return "\n\n".join(filter(None, [template.name, template.description, *warnings]))


def _metadata(template: IngestTemplate) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "template": f"ingest_templates/{template.id}.yml",
        "name": template.name,
        "source_type": template.source_type,
        "source": template.source,
        "url": MetadataValue.url(template.url) if template.url else None,
        "datasets": ", ".join(template.datasets) or None,
        "problem": template.problem,
    }
    return {name: value for name, value in shown.items() if value is not None}
