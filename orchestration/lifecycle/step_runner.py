"""Runs one lifecycle step: a script of `steps/` in dcpy's interpreter, over Dagster Pipes."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster_pipes
from dagster import (
    AssetExecutionContext,
    Failure,
    MetadataValue,
    PipesTempFileContextInjector,
    PipesTempFileMessageReader,
    open_pipes_session,
)

from orchestration import OrchestrationError, explained
from orchestration.lifecycle import child
from orchestration.lifecycle.environment import STEPS_FOLDER, problem_with_interpreter
from orchestration.lifecycle.redaction import Redactor
from orchestration.lifecycle.results import Staging, failed_log


@contextmanager
def failing(subject: str) -> Iterator[None]:
    """Makes a Failure of `subject` of what goes wrong in the block, the disk's errors included."""
    try:
        yield
    except OrchestrationError as error:
        raise Failure(f"{subject}: {error}") from None
    except OSError as error:
        raise Failure(
            f"{subject}: {explained(error)} The earlier result, if there is one, is as it was."
        ) from error


@dataclass(frozen=True)
class StepResult:
    """What a step reported, and how its process went."""

    data: Mapping[str, Any]
    finished: child.Finished


def run_step(
    context: AssetExecutionContext,
    *,
    stage: str,
    subject: str,
    parameters: Mapping[str, Any],
    env: Mapping[str, str],
    root: Path,
    python: tuple[Path, bool],
    result: Path,
    staging: Staging,
) -> StepResult:
    """Runs `steps/<stage>.py` for `subject` (a product or template, as an error should name it).

    `python` is the interpreter and whether somebody chose it, `result` what is being made, and
    `staging` where. Raises Failure with a sentence that says why, and dcpy's traceback below it.
    """
    interpreter, is_chosen = python
    if problem := problem_with_interpreter(interpreter):
        raise Failure(f"{subject}: {problem}")
    redact = Redactor(env)
    extras = {
        **parameters,
        "stage": stage,
        "subject": subject,
        "checkout": str(root),
        "python_is_chosen": is_chosen,
    }
    # Dagster warns of a part of its own that it uses itself.
    warnings.filterwarnings("ignore", message=".*expected_writer_count.*")
    with open_pipes_session(
        context=context,
        context_injector=PipesTempFileContextInjector(),
        message_reader=PipesTempFileMessageReader(),
        extras=extras,
    ) as session:
        finished = child.run(
            context,
            command=[
                str(interpreter),
                str(STEPS_FOLDER / f"{stage}.py"),
                str(Path(dagster_pipes.__file__).parent.parent),
            ],
            cwd=root,
            env={**env, **session.get_bootstrap_env_vars()},
            log=staging.log,
            redact=redact,
        )
    messages = redact.data(list(session.get_custom_messages()))
    data: dict[str, Any] = messages[-1] if messages else {}
    log = failed_log(result, stage)
    if "problem" in data:
        below = f"\n\n{data['traceback']}" if "traceback" in data else ""
        raise Failure(
            f"{data['problem']}{below}",
            metadata={
                "exit_code": finished.returncode,
                "log": MetadataValue.path(str(log)),
                "log_tail": MetadataValue.md(f"```\n{finished.tail}\n```"),
            },
        )
    if finished.returncode != 0 or not messages:
        raise finished.failure(f"{subject}: the {stage} step", log)
    return StepResult(data, finished)
