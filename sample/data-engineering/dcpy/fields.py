"""What a mapping read from YAML may hold, and what an absent field means."""

from copy import deepcopy
from typing import Any

REQUIRED = object()


def fill(given: Any, fields: dict[str, Any], where: str) -> dict[str, Any]:
    """Give a mapping every field it may have; ValueError if one is missing, unknown or a misfit."""
    match given:
        case dict():
            filled = {**fields, **given}
        case _:
            raise ValueError(f"{where}: expected fields, not {given!r}")
    problems = [f"'{name}' is no field" for name in given if name not in fields]
    for name, default in fields.items():
        if default is REQUIRED and given.get(name) is None:
            problems.append(f"'{name}' is required")
        if isinstance(default, (list, dict)) and not isinstance(filled[name], type(default)):
            problems.append(f"'{name}' is no {type(default).__name__}")
    if problems:
        raise ValueError(f"{where}: {', '.join(problems)}")
    return deepcopy(filled)


def lean(value: Any) -> Any:
    """Leave out what is empty, at every level of nested mappings and lists."""
    if isinstance(value, dict):
        leaned = {key: lean(item) for key, item in value.items()}
        return {key: item for key, item in leaned.items() if item not in (None, [], {})}
    return [lean(item) for item in value] if isinstance(value, list) else value
