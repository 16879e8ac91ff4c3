"""A team's own Dagster definitions, kept beside its product as `definitions.py`."""

import importlib.util
import sys
from pathlib import Path

from dagster import DagsterError, Definitions

from orchestration import OrchestrationError

FILE_NAME = "definitions.py"


def with_team_definitions(definitions: Definitions, folder: Path, slug: str) -> Definitions:
    """The location's definitions with those of `definitions.py` in the product's folder, if any.

    The file must have a `Definitions` called `defs`; it can import what lies beside it. Raises what
    the file raises when it is imported, and OrchestrationError when it has no `defs`, or defines
    what the location has already.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return definitions
    team = _load(path, slug)
    try:
        merged = Definitions.merge(definitions, team)
        Definitions.validate_loadable(merged)
    except DagsterError as error:
        raise OrchestrationError(
            f"{path} does not go with its product's location: {error}"
        ) from error
    return merged


def _load(path: Path, slug: str) -> Definitions:
    name = f"{slug}_definitions"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.append(str(path.parent))
    spec.loader.exec_module(module)
    team = getattr(module, "defs", None)
    if not isinstance(team, Definitions):
        raise OrchestrationError(f"{path} has no `defs` that is a dagster.Definitions.")
    return team
