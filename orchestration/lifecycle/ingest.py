"""The ingest of one version of a template."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from orchestration.catalog.checkout import checkout_root, templates_folder
from orchestration.catalog.checks import Checks
from orchestration.catalog.ingest_templates import IngestTemplate, templates_of
from orchestration.catalog.partition_keys import check_key
from orchestration.lifecycle.checks import check_tables, publishable
from orchestration.lifecycle.child import StageFailed
from orchestration.lifecycle.outcomes import Ingested
from orchestration.lifecycle.results import in_use, ingest_result, lifecycle_dir, staged
from orchestration.lifecycle.step_runner import Steps, failing
from orchestration.lifecycle.tables import (
    keep_tables,
    map_parameters,
    version_before,
    with_maps,
)


def ingest(
    template: IngestTemplate,
    version: str,
    options: Mapping[str, Any],
    checks: Checks,
    logger: logging.Logger,
    *,
    before_publishing: Callable[[], None] = lambda: None,
) -> Ingested:
    """Ingests the version, with dcpy's `options`, in a process of its own, and checks it.

    Another run on that version is waited for. `before_publishing` is called when the result is
    complete. Raises StageFailed, whose text names the template.
    """
    subject = f"Template {template.id!r}"
    if template.problem:
        raise StageFailed(f"{subject} cannot be read: {template.problem}")
    for warning in template.warnings:
        logger.warning(f"{subject}: {warning}")
    with failing(subject):
        version = check_key(version)
        lifecycle, templates = lifecycle_dir(), templates_folder(checkout_root())
        result = ingest_result(lifecycle, template.id, version)
        with (
            in_use(
                lifecycle,
                result,
                waiting=lambda: logger.warning(
                    f"Another run is ingesting version {version!r}; waiting for it to end."
                ),
            ),
            staged(result, "ingest", before_publishing=before_publishing) as staging,
        ):
            before = version_before(result, "ingest")
            step = Steps.of_checkout(result, staging).run(
                logger,
                stage="ingest",
                subject=f"{subject}, version {version!r}",
                parameters={
                    "name": template.id,
                    "version": version,
                    "folder": str(staging.folder),
                    "templates": str(templates),
                    "templates_of": templates_of(templates, [template.source or ""]),
                    "options": dict(options),
                    **map_parameters(before, staging),
                },
            )
            tables = with_maps(step.data["datasets"])
            keep_tables(staging.folder, "ingest", version, tables)
            results = check_tables(tables, version, checks, {"": before})
            publishable(results, subject, staging, logger)
    return Ingested(version, tables, results, step.process)
