"""Which version the sources of templates have now."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestration.catalog.checkout import checkout_root, templates_folder
from orchestration.lifecycle.results import in_use, lifecycle_dir, staged
from orchestration.lifecycle.step_runner import Steps, failing

VERSIONS = "versions"


@dataclass(frozen=True)
class SourceVersions:
    """What the sources said, each by its template's id."""

    versions: Mapping[str, str]
    problems: Mapping[str, str]
    """Why one is not known, in a sentence that names the template."""


def source_versions(
    whose: str, template_ids: Sequence[str], logger: logging.Logger
) -> SourceVersions:
    """Asks all sources, in a process of dcpy's.

    `whose` is a name for those who ask together: what was printed last lies below it. Raises
    StageFailed where nothing could be asked at all.
    """
    with failing(f"The versions of {whose}"):
        lifecycle = lifecycle_dir()
        result = lifecycle / VERSIONS / whose
        waiting = f"Somebody else asks for the versions of {whose}; waiting for that to end."
        with (
            in_use(lifecycle, result, waiting=lambda: logger.warning(waiting)),
            staged(result, VERSIONS) as staging,
        ):
            asked = Steps.of_checkout(result, staging).run(
                logger,
                stage=VERSIONS,
                subject=f"The versions of {whose}",
                parameters={
                    "names": list(template_ids),
                    "templates": str(templates_folder(checkout_root())),
                },
            )
        return SourceVersions(asked.data["versions"], asked.data["problems"])
