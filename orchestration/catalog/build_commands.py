"""The `build_command` of a product: one command, or several that may have names."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import PlainValidator
from pydantic_core import PydanticCustomError

from orchestration.catalog.fields import checked_text


@dataclass(frozen=True)
class Command:
    """One command of the build stage."""

    name: str
    run: str


def _build_command(value: Any) -> Any:
    if not isinstance(value, str | list):
        raise PydanticCustomError("string_type", "must be text")
    if isinstance(value, list) and not value:
        raise ValueError("is an empty list")
    entries = value if isinstance(value, list) else [value]
    for number, entry in enumerate(entries, 1):
        where = f"entry {number} " if isinstance(value, list) else ""
        pairs = list(entry.items()) if isinstance(entry, dict) else [("", entry)]
        if len(pairs) != 1 or not all(isinstance(part, str) for part in pairs[0]):
            raise ValueError(f"{where}must be a command, or `name: command`, as text")
        try:
            checked_text(pairs[0][1])
        except ValueError as error:
            raise ValueError(f"{where}{error}") from error
    names = [command.name for command in commands_of(value)]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"has two commands called {twice.pop()!r}")
    return value


def commands_of(value: Any) -> tuple[Command, ...]:
    """The commands of a `build_command`, in their order; one without a name has its number."""
    entries = value if isinstance(value, list) else [value]
    return tuple(
        Command(*next(iter(entry.items())))
        if isinstance(entry, dict)
        else Command(str(number), entry)
        for number, entry in enumerate(entries, 1)
    )


BuildCommand = Annotated[
    Any,
    PlainValidator(_build_command, json_schema_input_type=str | list[str | dict[str, str]]),
]
