"""Runs one lifecycle step: a script of `steps/` in dcpy's interpreter.

Its command line names two JSON files: that of its parameters, and that of its report.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestration import OrchestrationError, explained
from orchestration.lifecycle import child
from orchestration.lifecycle.child import StageFailed
from orchestration.lifecycle.environment import STEPS_FOLDER, problem_with_interpreter
from orchestration.lifecycle.outcomes import Process
from orchestration.lifecycle.redaction import Redactor
from orchestration.lifecycle.results import Staging, failed_log


@contextmanager
def failing(subject: str) -> Iterator[None]:
    """Makes a StageFailed of `subject` of what goes wrong, the disk's errors included."""
    try:
        yield
    except StageFailed:
        raise
    except OrchestrationError as error:
        raise StageFailed(f"{subject}: {error}") from None
    except OSError as error:
        raise StageFailed(
            f"{subject}: {explained(error)} The earlier result, if there is one, is as it was.",
            is_transient=True,
        ) from error


@dataclass(frozen=True)
class StepResult:
    """What a step reported, and how its process went."""

    data: Mapping[str, Any]
    process: Process


def run_step(
    logger: logging.Logger,
    *,
    stage: str,
    subject: str,
    parameters: Mapping[str, Any],
    env: Mapping[str, str],
    redact: Redactor,
    root: Path,
    python: tuple[Path, bool],
    result: Path,
    staging: Staging,
) -> StepResult:
    """Runs `steps/<stage>.py` for `subject` (a product or template, as an error should name it).

    `python` is the interpreter and whether somebody chose it, `result` what is being made, and
    `staging` where. Raises StageFailed with a sentence that says why; dcpy's traceback is in the
    log.
    """
    interpreter, is_chosen = python
    if problem := problem_with_interpreter(interpreter):
        raise StageFailed(f"{subject}: {problem}")
    given = {
        **parameters,
        "stage": stage,
        "subject": subject,
        "checkout": str(root),
        "python_is_chosen": is_chosen,
    }
    staging.work.mkdir(exist_ok=True)
    request, report = staging.work / "parameters.json", staging.work / "report.json"
    request.write_text(json.dumps(given), encoding="utf-8")
    finished = child.run(
        logger,
        command=[str(interpreter), str(STEPS_FOLDER / f"{stage}.py"), str(request), str(report)],
        cwd=root,
        env=env,
        log=staging.log,
        redact=redact,
    )
    data = redact.data(json.loads(report.read_bytes())) if report.exists() else None
    log = failed_log(result, stage)
    if data and "problem" in data:
        raise StageFailed(data["problem"], finished, log, is_transient=data.get("transient", False))
    if finished.returncode != 0 or data is None:
        raise finished.failure(f"{subject}: the {stage} step", log)
    return StepResult(data, Process(finished.seconds, finished.tail, result))
