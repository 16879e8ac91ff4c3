"""The checkout's ingest templates, read without dcpy."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from orchestration import OrchestrationError
from orchestration.catalog.templated_yaml import rendered_yaml

ID = re.compile(rb"""\bid: *["']?([^\s"',}]+)""")
# What the source types call the place they read from. Source: dcpy/lifecycle/ingest/models.py.
SOURCE_PLACES = ("url", "path", "endpoint", "key", "uid", "dataset", "product", "name", "server")


@dataclass(frozen=True)
class IngestTemplate:
    """One file of ingest_templates/, as far as Dagster shows it."""

    id: str
    """The file's name without `.yml`: what `ingest` is called with."""
    name: str | None = None
    description: str | None = None
    url: str | None = None
    source_type: str | None = None
    source: str | None = None
    datasets: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """What is wrong with it that does not keep it from running."""
    problem: str | None = None
    """Why it cannot run, where that is known already."""


def read_templates(folder: Path) -> list[IngestTemplate]:
    """All templates of the folder, by id. One that cannot be read carries its problem.

    Raises OrchestrationError when there is no such folder.
    """
    if not folder.is_dir():
        raise OrchestrationError(
            f"There are no ingest templates: {folder} is missing. "
            "Set DATA_ENGINEERING_ROOT to a data-engineering checkout."
        )
    templates = {path.stem: read_template(path) for path in _files(folder)}
    _check_dependencies(templates)
    return list(templates.values())


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.yml") if not path.name.startswith("."))


def templates_of(folder: Path, datasets: Sequence[str]) -> list[str]:
    """The ids of the templates that give these datasets, where there are any, each once.

    Most templates give one dataset of their own name. The others are looked for by text first:
    parsing all of them takes longer than anything else that a location does when it loads.
    """
    files = _files(folder)
    stems = {path.stem for path in files}
    found = [name for name in datasets if name in stems]
    wanted = set(datasets) - stems
    for path in files if wanted else []:
        if wanted & _ids_in(path) and wanted & set(read_template(path).datasets):
            found.append(path.stem)
    return list(dict.fromkeys(found))


def _ids_in(path: Path) -> set[str]:
    try:
        return {match.decode(errors="replace") for match in ID.findall(path.read_bytes())}
    except OSError:
        return set()


def read_template(path: Path) -> IngestTemplate:
    """The template in the file, with its `problem` set where it cannot be read."""
    try:
        return _template(path, rendered_yaml(path))
    except OrchestrationError as error:
        return IngestTemplate(id=path.stem, problem=str(error))


def _template(path: Path, data: Any) -> IngestTemplate:
    if not isinstance(data, dict):
        raise OrchestrationError(f"{path}: a template must be a mapping")
    attributes = _mapping(data.get("attributes"))
    source = _mapping(data.get("source") or _mapping(data.get("ingestion")).get("source"))
    datasets = data.get("datasets")
    return IngestTemplate(
        id=path.stem,
        name=_text(attributes.get("name")),
        description=_text(attributes.get("description")),
        url=_text(attributes.get("url")),
        source_type=_text(source.get("type")),
        source=next((_text(source[key]) for key in SOURCE_PLACES if key in source), None),
        datasets=tuple(
            str(dataset["id"])
            for dataset in (datasets if isinstance(datasets, list) else [data])
            if isinstance(dataset, dict) and "id" in dataset
        ),
        depends_on=_names(path, data.get("depends_on")),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _names(path: Path, value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise OrchestrationError(f"{path}: depends_on must be a list of template ids")
    # Dagster refuses an asset that names a dependency twice.
    return tuple(dict.fromkeys(value))


def _check_dependencies(templates: dict[str, IngestTemplate]) -> None:
    for template in list(templates.values()):
        unknown = [name for name in template.depends_on if name not in templates]
        if unknown:
            templates[template.id] = _without(
                template, unknown, f"depends_on names no template: {', '.join(unknown)}"
            )
    while cycle := _cycle(templates):
        shown = " -> ".join(cycle)
        for name in set(cycle):
            templates[name] = _without(
                templates[name], cycle, f"depends_on leads back to the template itself: {shown}"
            )


def _cycle(templates: Mapping[str, IngestTemplate]) -> Sequence[str]:
    try:
        TopologicalSorter({t.id: t.depends_on for t in templates.values()}).prepare()
    except CycleError as error:
        # Each name in it is a dependency of the next one.
        cycle: Sequence[str] = error.args[1]
        return cycle[::-1]
    return ()


def _without(template: IngestTemplate, names: Sequence[str], warning: str) -> IngestTemplate:
    return replace(
        template,
        depends_on=tuple(name for name in template.depends_on if name not in names),
        warnings=(*template.warnings, warning),
    )
