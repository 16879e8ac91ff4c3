"""What values of products.yml have in common, whatever field they are in."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, StrictStr

# Dagster's own rule for owners: dagster/_core/definitions/utils.py, is_valid_owner.
EMAIL = re.compile(r"\b[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,7}")


def checked_text(value: str) -> str:
    """The text itself. Raises ValueError where it says nothing, or no file could hold it."""
    if not value.strip():
        raise ValueError("is empty")
    if "\0" in value:
        raise ValueError("holds a NUL character")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("holds half of a character")
    return value


def checked_owner(value: str) -> str:
    """The owner itself. Raises ValueError where Dagster would refuse it."""
    if EMAIL.fullmatch(value) or (
        value.startswith("team:") and value.removeprefix("team:").strip()
    ):
        return value
    raise ValueError("must be an e-mail address or `team:` and a name, such as team:housing")


def rendered(template: str, variables: dict[str, Any]) -> str:
    """The Jinja template with its variables filled in. Raises ValueError where it cannot be."""
    # Imported only where there is something to render, since it takes time.
    import jinja2
    import jinja2.sandbox

    environment = jinja2.sandbox.SandboxedEnvironment(undefined=jinja2.StrictUndefined)
    try:
        return environment.from_string(template).render(variables)
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError) as error:
        known = " and ".join(f"`{name}`" for name in variables)
        raise ValueError(f"is not a template over {known}: {error}") from error


Owner = Annotated[StrictStr, AfterValidator(checked_owner)]
Text = Annotated[StrictStr, AfterValidator(checked_text)]
