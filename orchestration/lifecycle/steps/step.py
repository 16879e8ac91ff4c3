"""What the steps share: the channel back to Dagster, the call of dcpy, and errors in a sentence.

Runs in dcpy's interpreter: the standard library, dcpy, and `dagster_pipes`, which is found in the
folder that the command line names.
"""

import importlib
import inspect
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


def run(work: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Runs a step: `work` gets what Dagster sent, and what it returns is sent back.

    An exception becomes a sentence for Dagster, with the traceback below it on standard error, and
    the process ends with an exit code other than 0.
    """
    # Python put this folder first, where its `plan` and `load` would pass for somebody else's.
    sys.path.remove(str(Path(__file__).parent))
    with _dagster_pipes(sys.argv[1]).open_dagster_pipes() as context:
        report, code = _outcome(work, context.extras)
        context.report_custom_message(report)
    sys.stdout.flush()
    sys.exit(code)


def _dagster_pipes(folder: str) -> Any:
    sys.path.append(folder)
    try:
        return importlib.import_module("dagster_pipes")
    finally:
        sys.path.remove(folder)


def _outcome(
    work: Callable[[dict[str, Any]], dict[str, Any]], parameters: dict[str, Any]
) -> tuple[dict[str, Any], int]:
    checkout = Path(parameters["checkout"])
    try:
        if problem := problem_with_dcpy(checkout, is_chosen=parameters["python_is_chosen"]):
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
        sentence = explain(error, parameters)
        print(f"{sentence}\n\n{traceback.format_exc()}", file=sys.stderr)
        return {"problem": sentence, "traceback": traceback.format_exc()}, 1


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
