"""YAML files that are Jinja templates, as recipes and ingest templates are, read without dcpy."""

from pathlib import Path
from typing import Any

import yaml

from orchestration import OrchestrationError

# Recipes and templates are Jinja; a variable's value is not known here and does not matter.
UNKNOWN = "UNKNOWN"
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# The C loader ends the whole process on deep nesting, which takes this many of the characters that
# open something.
MAX_OPENINGS = 10_000


def rendered_yaml(path: Path) -> Any:
    """What a Jinja-templated YAML file holds, with every variable replaced by a placeholder.

    Raises OrchestrationError when it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if "{{" in text or "{%" in text or "{#" in text:
            text = _rendered(text)
        openings = sum(map(text.count, "[{-?"))
        return yaml.load(text, YAML_LOADER if openings < MAX_OPENINGS else yaml.SafeLoader)
    except OSError as error:
        raise OrchestrationError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise OrchestrationError(f"{path} is not UTF-8 text: {error.reason}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise OrchestrationError(f"{path}{line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise OrchestrationError(f"{path}: not valid YAML: {error}") from error
    except Exception as error:
        # A value with a YAML tag of another type raises whatever comes: IndexError, KeyError, …
        message = f"{type(error).__name__}: {error}"
        raise OrchestrationError(f"{path}: not valid YAML: {message}") from error


def _rendered(text: str) -> str:
    # Imported only where there is something to render: it is a good part of a location's load time.
    import jinja2
    import jinja2.sandbox

    class Placeholder(jinja2.ChainableUndefined):
        def __str__(self) -> str:
            return UNKNOWN

    environment = jinja2.sandbox.SandboxedEnvironment(undefined=Placeholder)
    try:
        return environment.from_string(text).render()
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"Jinja in line {error.lineno}: {error.message}") from error
    except Exception as error:
        # An expression is a program, which can fail in any way.
        raise ValueError(f"Jinja: {error}") from error
