"""Why a location cannot be loaded, in one line that names the place."""

import traceback

from orchestration import OrchestrationError
from orchestration.catalog.checkout import checkout_root


def where_and_why(error: BaseException) -> str:
    """The place in the checkout where the error comes from, its kind, and what it says."""
    place, text = place_and_text(error)
    return f"{place[0]}:{place[1]}: {text}" if place else text


def place_and_text(error: BaseException) -> tuple[tuple[str, int] | None, str]:
    """The file and line in the checkout where the error comes from, if it does, and what it is."""
    text = str(error) if isinstance(error, OrchestrationError) else _named(error)
    if isinstance(error, SyntaxError) and error.filename:
        return (error.filename, error.lineno or 1), f"{type(error).__name__}: {error.msg}"
    root = str(checkout_root())
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith(root):
            return (frame.filename, frame.lineno or 1), text
    return None, text


def _named(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
