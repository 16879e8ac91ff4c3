"""The groups in which Dagster shows ingest templates, none too large to be looked at."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from orchestration.catalog.ingest_templates import IngestTemplate
from orchestration.catalog.names import INGEST

MOST = 30
OTHERS = "other"


def template_groups(
    templates: Sequence[IngestTemplate], named: Mapping[str, str]
) -> dict[str, str]:
    """The group of each template, by its id, as a path below `ingest`.

    It is the one that the template says, or `named`; else the first part of the id, which is the
    agency, unless there are so few templates that one group will do. More than there is room for
    in a group are divided by the alphabet.
    """
    said = {each.id: each.group or named.get(each.id) for each in templates}
    rest = [name for name, group in said.items() if not group]
    groups = defaultdict(list)
    for name, group in (said | _by_agency(rest)).items():
        groups[f"{INGEST}/{_word(group)}" if group else INGEST].append(name)
    return {
        name: group for shared, names in groups.items() for name, group in _parts(shared, names)
    }


def _by_agency(names: Sequence[str]) -> dict[str, str | None]:
    if len(names) <= MOST:
        return dict.fromkeys(names)
    agencies = [name.partition("_")[0] for name in names]
    return {
        name: agency if agency and agencies.count(agency) > 1 else OTHERS
        for name, agency in zip(names, agencies, strict=True)
    }


def _parts(group: str, names: Sequence[str]) -> list[tuple[str, str]]:
    if len(names) <= MOST:
        return [(name, group) for name in names]
    first, last = min(names), max(names)
    shared = next(n for n in range(len(first) + 1) if first[: n + 1] != last[: n + 1])
    by_letter = defaultdict(list)
    for name in sorted(names):
        by_letter[name[shared : shared + 1]].append(name)
    parts: list[list[str]] = []
    for letter, found in by_letter.items():
        if not parts or sum(len(by_letter[each]) for each in parts[-1]) + len(found) > MOST:
            parts.append([])
        parts[-1].append(letter)
    return [
        pair
        for part in parts
        for pair in _parts(
            f"{group}/{'_'.join(dict.fromkeys(_word(each) for each in (part[0], part[-1])))}",
            [name for letter in part for name in by_letter[letter]],
        )
    ]


def _word(text: str) -> str:
    # What Dagster takes in a group's name.
    return re.sub(r"[^A-Za-z0-9_]+", "_", text) or "_"
