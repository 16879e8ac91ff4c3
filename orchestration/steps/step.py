"""What the steps share: the channel back to Dagster, the right dcpy, and errors in a sentence.

Runs in dcpy's interpreter: the standard library, dcpy, and `dagster_pipes`, which is found where
Dagster has it.
"""

import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

PIPES_PARENT = "ORCHESTRATION_PIPES_PARENT"
PROBLEM_EXIT = 3

# stage, exception types, a pattern in the text, what it means and what to do
CAUSES: list[tuple[str, str, str, str]] = [
    (
        "ingest",
        "FileNotFoundError",
        r"ingest_templates/[^/]*\.yml|definition",
        "there is no such template in {templates}. Check the name, or reload the ingest location.",
    ),
    (
        "ingest",
        "ScannerError|ParserError|ComposerError|ConstructorError",
        "",
        "the template {templates}/{name}.yml is not valid YAML. Mend it, then run this again.",
    ),
]


class StepProblem(Exception):
    """Something found before dcpy was called; its text is the sentence for the user."""


def run(work: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Runs a step: `work` gets what Dagster sent, and what it returns is sent back.

    An exception becomes a sentence for Dagster and a traceback on standard error, and the process
    ends with an exit code other than 0.
    """
    # Python put this folder first, where its `plan` and `load` would pass for somebody else's.
    sys.path.remove(str(Path(__file__).parent))
    pipes = _dagster_pipes()
    with pipes.open_dagster_pipes() as context:
        parameters = context.extras
        try:
            check_dcpy(parameters)
            # Recipes name preprocessors by their path from the checkout.
            sys.path.append(parameters["checkout"])
            result = work(parameters)
        except StepProblem as problem:
            context.report_custom_message({"problem": str(problem)})
            sys.stderr.write(f"{problem}\n")
            code = PROBLEM_EXIT
        except Exception as error:
            traceback.print_exc()
            context.report_custom_message(
                {
                    "problem": explain(error, parameters),
                    "error": f"{type(error).__name__}: {error}",
                    "traceback": traceback.format_exc(),
                }
            )
            code = 1
        else:
            context.report_custom_message(result)
            code = 0
    sys.stdout.flush()
    sys.exit(code)


def _dagster_pipes() -> Any:
    parent = os.environ.pop(PIPES_PARENT)
    sys.path.append(parent)
    try:
        return importlib.import_module("dagster_pipes")
    finally:
        sys.path.remove(parent)


def check_dcpy(parameters: dict[str, Any]) -> None:
    """Makes sure that `import dcpy` gives the checkout's own.

    Raises StepProblem where it is missing, is another package of that name, or belongs to another
    checkout.
    """
    checkout = Path(parameters["checkout"])
    spec = importlib.util.find_spec("dcpy")
    mend = (
        f"Install it with `{sys.executable} -m pip install -e {checkout}`, or set DCPY_PYTHON to "
        "an interpreter that has it."
    )
    if not (checkout / "dcpy").is_dir() and not parameters["python_is_chosen"]:
        raise StepProblem(
            f"The checkout {checkout} has no dcpy. Set DCPY_PYTHON to an interpreter that has "
            "NYC Planning's dcpy installed, or DATA_ENGINEERING_ROOT to a whole checkout."
        )
    if spec is None or not spec.submodule_search_locations:
        raise StepProblem(f"dcpy is not installed in {sys.executable}. {mend}")
    package = Path(spec.submodule_search_locations[0]).resolve()
    if not (package / "lifecycle").is_dir():
        raise StepProblem(
            f"The dcpy in {package} is not NYC Planning's (PyPI has another package of that name). "
            f"Uninstall it. {mend}"
        )
    home = package.parent
    is_other_checkout = (home / "ingest_templates").is_dir() and home != checkout.resolve()
    if is_other_checkout and ((checkout / "dcpy").is_dir() or not parameters["python_is_chosen"]):
        raise StepProblem(
            f"The dcpy in {sys.executable} belongs to the checkout {home}, not to {checkout}. "
            + mend
        )


def explain(error: Exception, parameters: dict[str, Any]) -> str:
    """The exception as a sentence or two: the cause, and what to do."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    for stage, types, pattern, sentence in CAUSES:
        if (
            stage == parameters["stage"]
            and kinds & set(types.split("|"))
            and re.search(pattern, str(error))
        ):
            return sentence.format_map(parameters)
    text = str(error).strip()
    first = text.splitlines()[0] if text else "no message"
    return f"dcpy raised {type(error).__name__}: {first}"
