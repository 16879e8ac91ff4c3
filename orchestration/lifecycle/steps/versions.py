"""Asks the sources of several templates which version they have now, by way of dcpy."""

import inspect
import queue
import threading
import time
import traceback
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import step
from failures import explain

# Sources are servers of several owners: a few are asked at a time, and none is waited for longer.
AT_A_TIME = 8
SECONDS = 120.0


def versions(parameters: dict[str, Any]) -> dict[str, Any]:
    """Of each template the version that its source has now, or why that is not known.

    A source that has no versions has that of the day, which dcpy gives it, too.
    """
    try:
        from dcpy.lifecycle.ingest.plan import resolve_definition
    except ImportError as error:
        raise step.StepProblem(
            "The checkout's dcpy cannot be asked which version a source has. Say in products.yml "
            "which `version` to ingest, or use a newer checkout."
        ) from error
    answers: queue.Queue[tuple[str, str | None, str | None]] = queue.Queue()
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in parameters["names"]:
        waiting.put(name)

    def ask() -> None:
        while True:
            try:
                name = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                call = bind(resolve_definition, {**parameters, "name": name})
                definition = resolve_definition(*call.args, **call.kwargs)
                template = Path(parameters["templates"], f"{name}.yml")
                answers.put((name, _version_of(definition, template), None))
            except Exception as error:
                answers.put((name, None, _sentence(error, name, parameters)))

    for _ in range(AT_A_TIME):
        # Not waited for at the end: one may ask a server that never answers.
        threading.Thread(target=ask, daemon=True).start()
    return _collected(parameters["names"], answers)


def bind(
    resolve_definition: Callable[..., Any], parameters: dict[str, Any]
) -> inspect.BoundArguments:
    """The call of dcpy's function that settles a template, its version left open."""
    call: inspect.BoundArguments = step.bind(
        resolve_definition,
        parameters["name"],
        None,
        definition_dir=Path(parameters["templates"]),
    )
    return call


def _collected(names: list[str], answers: "queue.Queue[Any]") -> dict[str, Any]:
    found: dict[str, str] = {}
    problems: dict[str, str] = {}
    end = time.monotonic() + SECONDS
    while len(found) + len(problems) < len(names):
        try:
            name, version, problem = answers.get(timeout=max(end - time.monotonic(), 0.0))
        except queue.Empty:
            break
        if problem:
            problems[name] = problem
        else:
            found[name] = version
    for name in set(names) - set(found) - set(problems):
        problems[name] = f"Template {name!r}: its source has not answered in {SECONDS:.0f} seconds."
    return {"versions": found, "problems": problems}


def _version_of(definition: Any, template: Path) -> str:
    version: Any = definition["version"] if isinstance(definition, dict) else definition.version
    if version is not None:
        return str(version)
    if "{{" in template.read_text(encoding="utf-8"):
        raise step.StepProblem(
            "it needs a version, and its source does not say which it has. Say which `version`."
        )
    return f"{datetime.now():%Y%m%d}"


def _sentence(error: Exception, name: str, parameters: dict[str, Any]) -> str:
    if isinstance(error, step.StepProblem):
        return f"Template {name!r}: {error}"
    known = {**parameters, "stage": "ingest", "name": name, "subject": f"Template {name!r}"}
    traceback.print_exception(error)
    sentence: str = explain(error, known)[0]
    return sentence


if __name__ == "__main__":
    step.run(versions)
