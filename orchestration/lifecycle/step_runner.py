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
from orchestration.catalog.checkout import checkout_root
from orchestration.lifecycle import child
from orchestration.lifecycle.child import StageFailed
from orchestration.lifecycle.environment import (
    STEPS_FOLDER,
    base_environment,
    dcpy_python,
    problem_with_interpreter,
)
from orchestration.lifecycle.outcomes import Process
from orchestration.lifecycle.redaction import Redactor
from orchestration.lifecycle.results import Staging, failed_log, lifecycle_dir
from orchestration.lifecycle.steps.failures import may_pass


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
            is_transient=may_pass(error),
        ) from error


@dataclass(frozen=True)
class StepResult:
    """What a step reported, and how its process went."""

    data: Mapping[str, Any]
    process: Process


@dataclass(frozen=True)
class Steps:
    """What the steps that make one result have in common."""

    result: Path
    """What is being made."""
    staging: Staging
    """Where."""
    root: Path
    python: tuple[Path, bool]
    """dcpy's interpreter, and whether somebody chose it."""
    env: Mapping[str, str]
    redact: Redactor

    @classmethod
    def of_checkout(cls, result: Path, staging: Staging) -> "Steps":
        """Those of no product, which the checkout's own interpreter runs."""
        root, python = checkout_root(), dcpy_python(None)
        env = base_environment(root=root, lifecycle=lifecycle_dir(), python=python[0])
        return cls(result, staging, root, python, env, Redactor(env))

    def run(
        self, logger: logging.Logger, *, stage: str, subject: str, parameters: Mapping[str, Any]
    ) -> StepResult:
        """Runs `steps/<stage>.py` for `subject`, a product or template as an error should name it.

        Raises StageFailed with a sentence that says why; dcpy's traceback is in the log.
        """
        interpreter, is_chosen = self.python
        if problem := problem_with_interpreter(interpreter):
            raise StageFailed(f"{subject}: {problem}")
        given = {
            **parameters,
            "stage": stage,
            "subject": subject,
            "checkout": str(self.root),
            "python_is_chosen": is_chosen,
        }
        work = self.staging.work
        work.mkdir(exist_ok=True)
        request, report = work / "parameters.json", work / "report.json"
        request.write_text(json.dumps(given), encoding="utf-8")
        finished = child.run(
            logger,
            command=[
                str(interpreter),
                str(STEPS_FOLDER / f"{stage}.py"),
                str(request),
                str(report),
            ],
            cwd=self.root,
            env=self.env,
            log=self.staging.log,
            redact=self.redact,
        )
        data = self.redact.data(json.loads(report.read_bytes())) if report.exists() else None
        log = failed_log(self.result, stage)
        if data and "problem" in data:
            raise StageFailed(
                data["problem"], finished, log, is_transient=data.get("transient", False)
            )
        if finished.returncode != 0 or data is None:
            failure = finished.failure(f"{subject}: the {stage} step", log)
            # Without a report it was killed, or its interpreter could not even begin.
            failure.is_transient = finished.returncode < 0
            raise failure
        return StepResult(data, Process(finished.seconds, finished.tail, self.result))
