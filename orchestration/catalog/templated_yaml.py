"""YAML files that are Jinja templates, as recipes and ingest templates are, read without dcpy."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from orchestration import OrchestrationError

# Recipes and templates are Jinja; a variable's value is not known here and does not matter.
UNKNOWN = "UNKNOWN_VARIABLE"
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# The C loader ends the whole process on deep nesting, which takes this many of the characters that
# open something.
MAX_OPENINGS = 10_000


class NeedsVariables(OrchestrationError):
    """A file that cannot be read without its variables: with them it may be valid."""


def templated_mapping(path: Path) -> dict[Any, Any]:
    """What a Jinja-templated YAML file holds, with every variable replaced by a placeholder.

    Raises OrchestrationError when it cannot be read, and NeedsVariables when that may be for want
    of its variables only.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise OrchestrationError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise OrchestrationError(f"{path} is not UTF-8 text: {error.reason}") from error
    except ValueError as error:
        raise OrchestrationError(f"{path} cannot be read: {error}") from error
    if not any(opening in text for opening in ("{{", "{%", "{#")):
        return _mapping(path, text)
    for known in _without_variables(path, text):
        try:
            return _mapping(path, known)
        except OrchestrationError as error:
            problem = error
    raise NeedsVariables(f"{problem} (as far as is known without its variables)")


def _mapping(path: Path, text: str) -> dict[Any, Any]:
    openings = sum(map(text.count, "[{-?"))
    try:
        data = yaml.load(text, YAML_LOADER if openings < MAX_OPENINGS else yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise OrchestrationError(f"{path}{line}: not valid YAML: {error.problem}") from error
    except yaml.reader.ReaderError as error:
        place = f"{path}:{text.count(chr(10), 0, error.position) + 1}"
        message = f"the character {chr(error.character)!r} is not allowed"
        raise OrchestrationError(f"{place}: not valid YAML: {message}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise OrchestrationError(f"{path}: not valid YAML: {error}") from error
    except Exception as error:
        # A value with a YAML tag of another type raises whatever comes: IndexError, KeyError, …
        message = f"{type(error).__name__}: {error}"
        raise OrchestrationError(f"{path}: not valid YAML: {message}") from error
    if not isinstance(data, dict):
        raise OrchestrationError(f"{path}: it must be a mapping")
    return data


def _without_variables(path: Path, text: str) -> Iterator[str]:
    """The text as it is rendered with placeholders, where that succeeds; then without rendering."""
    # Imported only where there is something to render: it is a good part of a location's load time.
    import jinja2
    import jinja2.sandbox

    class Placeholder(jinja2.ChainableUndefined):
        def __str__(self) -> str:
            return UNKNOWN

    environment = jinja2.sandbox.SandboxedEnvironment(undefined=Placeholder)
    try:
        template = environment.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise OrchestrationError(
            f"{path}:{error.lineno}: not valid Jinja: {error.message}"
        ) from error
    except Exception as error:
        raise OrchestrationError(f"{path}: not valid Jinja: {error}") from error
    try:
        rendered = template.render()
    except Exception:
        # An expression is a program. That it fails on a placeholder says nothing about it.
        rendered = None
    if rendered is not None:
        yield rendered
    yield "".join(
        {"data": part, "variable_begin": UNKNOWN}.get(kind, "")
        for _, kind, part in environment.lex(text)
    )
