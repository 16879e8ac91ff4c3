"""What is wrong with a value of products.yml, in words."""

import difflib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from orchestration.catalog.yaml_file import Place, Problem


def problems_of(
    error: ValidationError, data: Any, lines: Mapping[Place, int], model: type[BaseModel]
) -> list[Problem]:
    """All that `model` does not take of the data, each once, with its line and what it is of."""
    problems = [_problem(dict(each), data, lines, model) for each in error.errors()]
    return list(dict.fromkeys(problems))


def _problem(
    error: dict[str, Any], data: Any, lines: Mapping[Place, int], model: type[BaseModel]
) -> Problem:
    place = _place_in(data, error["loc"])
    known = place
    while known not in lines:
        known = known[:-1]
    return Problem(lines[known], _name_of(place, data) + _wording(error, place, model))


def _place_in(data: Any, location: Place) -> Place:
    """Where in the file it is that pydantic means."""
    place: list[str | int] = []
    for part in location:
        if isinstance(data, str) or (isinstance(part, int) and not isinstance(data, list)):
            # One schedule can stand for a list of them, and its time for the whole.
            continue
        if part != "[key]":  # pydantic's word for what is wrong with a key, not with its value
            place.append(part)
            with suppress(LookupError, TypeError):
                data = data[part]
    return tuple(place)


def _name_of(place: Place, data: Any) -> str:
    match place:
        case ("products", int(index), *_):
            kind, key, entry = "product", "id", data["products"][index]
        case ("ingest", "groups", int(index), *_):
            kind, key, entry = "ingest group", "name", data["ingest"]["groups"][index]
        case _:
            return ""
    name = entry.get(key) if isinstance(entry, dict) else None
    entry_name = "entry" if kind == "product" else kind
    return f"{kind} {name!r}: " if name is not None else f"{entry_name} {index + 1}: "


def _wording(error: dict[str, Any], place: Place, root: type[BaseModel]) -> str:
    field = next((part for part in reversed(place) if isinstance(part, str)), "products")
    given = error.get("input")
    match error["type"]:
        case "missing":
            return f"`{field}` is missing"
        case "extra_forbidden":
            model = _model_at(place, root)
            close = difflib.get_close_matches(field, model.model_fields, n=1)
            known = ", ".join(model.model_fields)
            return f"unknown key `{field}`; " + (
                f"did you mean `{close[0]}`?" if close else f"known keys: {known}"
            )
        case "string_type":
            if given is None:
                return f"`{field}` is empty"
            if isinstance(given, dict | list):
                kind = "mapping" if isinstance(given, dict) else "list"
                return f"`{field}` must be text, not a {kind}"
            return f"`{field}`: YAML reads this as {given!r}, not as text; put it in quotes"
        case "value_error":
            return f"`{field}` {error['ctx']['error']} (it is {given!r})"
        case "tuple_type":
            return f"`{field}` must be a list"
        case "model_type" | "model_attributes_type":
            fields = _model_at(place, root).model_fields
            if required := [name for name, each in fields.items() if each.is_required()]:
                return f"must be a mapping with the keys {' and '.join(required)}"
            return f"`{field}` must be a mapping"
        case _:
            return f"`{field}`: {error['msg']}"


def _model_at(place: Place, model: type[BaseModel]) -> type[BaseModel]:
    for part in place:
        if isinstance(part, str) and (field := model.model_fields.get(part)):
            model = next(_models_in(field.annotation), model)
    return model


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
