"""What the steps share: parameters and report, the call of dcpy, and errors in a sentence.

Runs in dcpy's interpreter, on the standard library and dcpy.
"""

import inspect
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from failures import explain
from installed import problem_with_dcpy

PROBLEM_EXIT = 3


class StepProblem(Exception):
    """Something found before dcpy was called; its text is the sentence for the user."""


def run(work: Callable[[dict[str, Any]], dict[str, Any]], *, needs_dcpy: bool = True) -> None:
    """Runs a step: `work` gets the parameters, and what it returns is reported.

    The command line names the file of the parameters and that of the report, both JSON. An
    exception becomes a sentence in the report, with the traceback above it on standard error, and
    the process ends with an exit code other than 0.
    """
    # Python put this folder first, where its `plan` and `load` would pass for somebody else's.
    sys.path.remove(str(Path(__file__).parent))
    parameters, report = map(Path, sys.argv[1:])
    given = json.loads(parameters.read_text(encoding="utf-8"))
    answer, code = _outcome(work, given, needs_dcpy=needs_dcpy)
    new = report.with_suffix(".new")
    new.write_text(json.dumps(answer), encoding="utf-8")
    new.rename(report)
    sys.stdout.flush()
    sys.exit(code)


def _outcome(
    work: Callable[[dict[str, Any]], dict[str, Any]],
    parameters: dict[str, Any],
    *,
    needs_dcpy: bool,
) -> tuple[dict[str, Any], int]:
    checkout = Path(parameters["checkout"])
    try:
        is_chosen = parameters["python_is_chosen"]
        if needs_dcpy and (problem := problem_with_dcpy(checkout, is_chosen=is_chosen)):
            raise StepProblem(problem)
        # Recipes name preprocessors by their path from the checkout, or from the product's folder.
        sys.path.append(str(checkout))
        if "recipe" in parameters:
            sys.path.append(str(Path(parameters["recipe"]).parent))
        return work(parameters), 0
    except StepProblem as problem:
        sentence = f"{parameters['subject']}: {problem}"
        print(sentence, file=sys.stderr)
        return {"problem": sentence}, PROBLEM_EXIT
    except Exception as error:
        sentence, is_transient = explain(error, parameters)
        print(f"{traceback.format_exc()}\n{sentence}", file=sys.stderr)
        return {"problem": sentence, "transient": is_transient}, 1


def bind(function: Callable[..., Any], *arguments: Any, **options: Any) -> inspect.BoundArguments:
    """The call of a function of dcpy, checked against its signature.

    Raises StepProblem where this checkout's dcpy does not take it.
    """
    signature = inspect.signature(function)
    try:
        return signature.bind(*arguments, **options)
    except TypeError as error:
        raise StepProblem(
            f"The checkout's dcpy has `{function.__name__}{signature}`, which does not take this "
            f"call: {error}. Use a checkout of December 2025 or later."
        ) from error


def takes(function: Callable[..., Any], option: str) -> bool:
    """Whether a function of dcpy has the option; dcpy gained some in 2026."""
    return option in inspect.signature(function).parameters
