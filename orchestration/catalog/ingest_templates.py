"""The checkout's ingest templates, read without dcpy."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from orchestration import OrchestrationError
from orchestration.catalog.fields import checked_owner
from orchestration.catalog.templated_yaml import UNKNOWN, NeedsVariables, templated_mapping

ID = re.compile(rb"""\bid: *["']?([^\s"',}]+)""")
OWN_ID = re.compile(rb"""^id: *["']?([^\s"',}]+)["']? *\r?$""", re.MULTILINE)
# The one variable that a template can use.
VERSION = "{{ version }}"
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
    source_id: str | None = None
    """As what ingest archives the source as it was read: a dataset's id where it gives one only."""
    datasets: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    group: str | None = None
    """The group that it wants to be shown in."""
    owners: tuple[str, ...] = ()
    """Who it says owns it."""
    warnings: tuple[str, ...] = ()
    """What is wrong with it that does not keep it from running."""
    problem: str | None = None
    """Why it cannot run, where that is known already."""

    @property
    def gives(self) -> set[str]:
        """The ids of the datasets that an ingest leaves, and of the source as it was read.

        One that cannot be read is taken for what its name says.
        """
        if self.problem:
            return {self.id}
        return {*self.datasets, *filter(None, [self.source_id])}


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
    # Every location lists them when it loads: paths are slow to find, and to compare.
    names = os.listdir(folder) if folder.is_dir() else []
    return [folder / n for n in sorted(names) if n.endswith(".yml") and not n.startswith(".")]


def templates_of(folder: Path, datasets: Iterable[str]) -> dict[str, str]:
    """The id of the template that gives a dataset (or raw source), where there is one.

    Most templates give one dataset of their own name, which their text shows: parsing all of them
    takes longer than anything else that a location does when it loads.
    """
    files = {path.stem: path for path in _files(folder)}
    wanted = dict.fromkeys(datasets)
    found = {name: name for name in wanted if name in files and _gives_itself(files[name])}
    rest = {name for name in wanted if name not in found}
    for path in files.values() if rest else []:
        if rest & _ids_in(path):
            given = rest & read_template(path).gives
            found.update(dict.fromkeys(given, path.stem))
            rest -= given
    return {name: found[name] for name in wanted if name in found}


def _gives_itself(path: Path) -> bool:
    # Its id is what it gives, or the file cannot be read.
    if path.stem.encode() in OWN_ID.findall(_bytes(path)):
        return True
    return path.stem in read_template(path).gives


def _ids_in(path: Path) -> set[str]:
    return {match.decode(errors="replace") for match in ID.findall(_bytes(path))}


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def read_template(path: Path) -> IngestTemplate:
    """The template in the file, with its `problem` set where it cannot be read."""
    try:
        return _template(path, templated_mapping(path))
    except NeedsVariables as error:
        return IngestTemplate(id=path.stem, warnings=(f"Nothing can be shown of it: {error}",))
    except OrchestrationError as error:
        return IngestTemplate(id=path.stem, problem=str(error))


def _template(path: Path, data: Mapping[Any, Any]) -> IngestTemplate:
    attributes = _mapping(data.get("attributes"))
    # `custom` is where dcpy has room for what it does not know itself.
    custom = _mapping(attributes.get("custom"))
    owners, warnings = _owners(custom.get("owners"))
    source = _mapping(data.get("source") or _mapping(data.get("ingestion")).get("source"))
    datasets = data.get("datasets")
    return IngestTemplate(
        id=path.stem,
        name=_text(attributes.get("name")),
        description=_text(attributes.get("description")),
        url=_text(attributes.get("url")),
        source_type=_text(source.get("type")),
        source=next((_text(source[key]) for key in SOURCE_PLACES if key in source), None),
        source_id=_text(data.get("id")),
        datasets=tuple(
            str(dataset["id"])
            for dataset in (datasets if isinstance(datasets, list) else [data])
            if isinstance(dataset, dict) and "id" in dataset
        ),
        depends_on=_names(path, data.get("depends_on")),
        group=_text(custom.get("group")),
        owners=owners,
        warnings=warnings,
    )


def _owners(value: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The owners, and what is wrong with those that cannot be shown."""
    owners, warnings = [], []
    for owner in value if isinstance(value, list) else [] if value is None else [value]:
        try:
            owners.append(checked_owner(str(owner)))
        except ValueError as error:
            warnings.append(f"attributes.custom.owners: {owner!r} {error}")
    return tuple(dict.fromkeys(owners)), tuple(warnings)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return None if value is None else str(value).replace(UNKNOWN, VERSION)


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
