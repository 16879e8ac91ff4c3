"""A team's own Dagster definitions, kept beside its product as `definitions.py`."""

import importlib.util
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FunctionType
from typing import Any

from dagster import DagsterError, Definitions
from dagster.components.definitions import LazyDefinitions
from dagster_shared.libraries import DagsterLibraryRegistry

from orchestration import OrchestrationError
from orchestration.catalog.checkout import checkout_root
from orchestration.catalog.names import TEAM_FILE
from orchestration.definitions.broken import place_and_text
from orchestration.lifecycle.child import ending

NAME = "defs"
PROBLEM = "problem_with_definitions"
"""In the metadata of definitions without those of the team: why they are without them."""
GIVEN_UP = "ORCHESTRATION_DEFINITIONS_GIVEN_UP"
"""The variable that says why a process is not to try them, as one before has not survived it.

It is empty where somebody looks after the process, and starts another if need be."""
LOAD_SECONDS = 25
"""For how long a location's code may load."""


def with_team_definitions(definitions: Definitions, folder: Path, slug: str) -> Definitions:
    """The location's definitions with those of `definitions.py` in the product's folder, if any.

    The file must have a `Definitions` called `defs`, or a function that gives one; it can import
    what lies beside it. One that cannot be used takes nothing away but itself: what is wrong is
    printed, shown with the location, and told in the metadata. So is why it was given up. Where
    nobody looks after this process, another tries first whether it is survived.

    Raises MemoryError, of which the whole location has but so much.
    """
    path = folder / TEAM_FILE
    if not path.is_file():
        return definitions
    given_up = os.environ.get(GIVEN_UP)
    if given_up is None:
        given_up = _fatality_of(lambda: _merged(definitions, _load(path, slug)))
    if given_up:
        return _without(definitions, slug, str(path), None, given_up)
    try:
        return _merged(definitions, _load(path, slug))
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:
        place, said = place_and_text(error)
    file, line = place or (str(path), None)
    return _without(definitions, slug, file, line, said)


def _fatality_of(work: Callable[[], object]) -> str:
    """How a process ends that does this, and ends of it; empty where it survives."""
    process = os.fork()
    if not process:
        with suppress(BaseException):
            os.setsid()
            # Whatever it hangs in, and whether or not this process is still there to end it.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(LOAD_SECONDS)
            nothing = os.open(os.devnull, os.O_RDWR)
            for standard in range(3):
                os.dup2(nothing, standard)
            work()
        os._exit(0)
    try:
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process, signal.SIGKILL)
    if status == -signal.SIGALRM:
        return f"It did not load within {LOAD_SECONDS} seconds"
    return f"Its process {ending(status)} while loading" if status else ""


def _without(
    definitions: Definitions, slug: str, file: str, line: int | None, said: str
) -> Definitions:
    text = " ".join(said.split())
    shown = file.removeprefix(f"{checkout_root()}/") + (f":{line}" if line else "")
    print(f"{shown}: {text}; {slug} is without what its team defines there.", flush=True)
    # Dagster's page of a location that is served shows these, and else nothing that can be said.
    DagsterLibraryRegistry.register(
        TEAM_FILE, f"not used: {shown}: {text}", is_dagster_package=False
    )
    problem = {"problem": f"{TEAM_FILE} is not used: {text}", "file": file, "line": line}
    return Definitions.merge(definitions, Definitions(metadata={PROBLEM: problem}))


def _merged(definitions: Definitions, team: Definitions) -> Definitions:
    try:
        merged = Definitions.merge(definitions, team)
        Definitions.validate_loadable(merged)
    except DagsterError as error:
        raise OrchestrationError(f"does not go with the product's own: {error}") from error
    return merged


def _load(path: Path, slug: str) -> Definitions:
    name = f"{slug}_definitions"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.append(str(path.parent))
    spec.loader.exec_module(module)
    candidates = [getattr(module, NAME, None)]
    if candidates == [None]:
        candidates = [each for each in vars(module).values() if _gives_definitions(each, name)]
    if len(candidates) > 1:
        raise OrchestrationError(f"has several dagster.Definitions; call one of them `{NAME}`")
    team = next(iter(candidates), None)
    if isinstance(team, LazyDefinitions | FunctionType):
        team = team()
    if not isinstance(team, Definitions):
        raise OrchestrationError(f"has no `{NAME}` that is a dagster.Definitions")
    return team


def _gives_definitions(value: Any, module: str) -> bool:
    if isinstance(value, FunctionType):
        gives = value.__annotations__.get("return")
        return value.__module__ == module and (
            gives is Definitions or str(gives).rpartition(".")[2] == Definitions.__name__
        )
    return isinstance(value, Definitions | LazyDefinitions)
