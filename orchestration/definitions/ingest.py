"""The ingest location: one asset per ingest template."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from dagster import (
    AssetDep,
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    AssetSpec,
    Config,
    Definitions,
    Failure,
    LastPartitionMapping,
    MaterializeResult,
    MetadataValue,
    get_dagster_logger,
    in_process_executor,
    multi_asset,
)
from pydantic import Field

from orchestration.catalog.checkout import checkout_root, templates_folder
from orchestration.catalog.ingest_templates import IngestTemplate, read_templates
from orchestration.catalog.partition_keys import check_key
from orchestration.definitions.metadata import of_process, table
from orchestration.definitions.partitions import ingest_partitions
from orchestration.lifecycle.environment import base_environment, dcpy_python
from orchestration.lifecycle.results import ingest_result, lifecycle_dir, locked, staged
from orchestration.lifecycle.step_runner import failing, run_step


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


def ingest_definitions() -> Definitions:
    """The code location of all ingest templates of the checkout, as they are when it loads.

    Raises OrchestrationError when the checkout has no ingest_templates.
    """
    templates = read_templates(templates_folder(checkout_root()))
    for template in templates:
        for complaint in filter(None, (template.problem, *template.warnings)):
            get_dagster_logger().warning(f"Ingest template {template.id}: {complaint}")
    return Definitions(
        assets=[build_ingest_asset(template=template) for template in templates],
        executor=in_process_executor,
    )


def build_ingest_asset(*, template: IngestTemplate) -> AssetsDefinition:
    """The asset of one template; its partition key is the version handed to dcpy's `ingest`."""
    name = f"ingest__{_identifier(template.id)}"

    @multi_asset(
        name=name,
        specs=[
            AssetSpec(
                key=AssetKey(["ingest", template.id]),
                deps=[
                    AssetDep(AssetKey(["ingest", other]), partition_mapping=LastPartitionMapping())
                    for other in template.depends_on
                ],
                description=_description(template),
                group_name="ingest",
                tags={"lifecycle_stage": "ingest"},
                kinds={"dcpy", "parquet"},
                metadata=_metadata(template),
            )
        ],
        partitions_def=ingest_partitions(template.id),
        pool=name,
    )
    def ingest_asset(
        context: AssetExecutionContext, config: IngestConfig
    ) -> MaterializeResult[None]:
        return MaterializeResult(metadata=_ingest(context, template, config))

    return ingest_asset


def _identifier(template_id: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_]+", template_id):
        return template_id
    digest = hashlib.sha256(template_id.encode(errors="surrogateescape")).hexdigest()[:8]
    return re.sub(r"[^A-Za-z0-9_]+", "_", template_id) + f"_{digest}"


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


def _ingest(
    context: AssetExecutionContext, template: IngestTemplate, config: IngestConfig
) -> Mapping[str, Any]:
    subject = f"Template {template.id!r}"
    if template.problem:
        raise Failure(f"{subject} cannot be read: {template.problem}")
    for warning in template.warnings:
        context.log.warning(f"{subject}: {warning}")
    with failing(subject):
        version = check_key(context.partition_key if context.has_partition_key else "")
        root, lifecycle, python = checkout_root(), lifecycle_dir(), dcpy_python(None)
        result = ingest_result(lifecycle, template.id, version)
        with (
            locked(
                result,
                waiting=lambda: context.log.warning(
                    f"Another run is ingesting version {version!r}; waiting for it to end."
                ),
            ),
            staged(result, "ingest") as staging,
        ):
            step = run_step(
                context,
                stage="ingest",
                subject=f"{subject}, version {version!r}",
                parameters={
                    "name": template.id,
                    "version": version,
                    "folder": str(staging.folder),
                    "templates": str(templates_folder(root)),
                    "options": config.model_dump(),
                },
                env=base_environment(root=root, lifecycle=lifecycle, python=python[0]),
                root=root,
                python=python,
                result=result,
                staging=staging,
            )
    datasets = [
        {**dataset, "columns": len(dataset["columns"])} for dataset in step.data["datasets"]
    ]
    columns = [
        {"dataset": dataset["id"], **column}
        for dataset in step.data["datasets"]
        for column in dataset["columns"]
    ]
    return {
        "version": version,
        "datasets": table(datasets, ("id", "version", "rows", "columns", "file")),
        "columns": table(columns, ("dataset", "name", "type")),
        "dagster/row_count": sum(dataset["rows"] for dataset in datasets),
        **of_process(step.finished, result),
    }
