"""Loads a code location in a process of its own, and leaves what its code server would answer."""

import gc
import os
import sys
import traceback
from pathlib import Path

import grpc

from orchestration.catalog.checkout import PROJECT_ROOT
from orchestration.code_servers.answers import id_of, write_answers
from orchestration.code_servers.code_server import LOCATIONS_PACKAGE, answers_at, answers_from
from orchestration.code_servers.memory import SERVER_MB, lift_limit, limit_memory
from orchestration.code_servers.recorder import Recorder
from orchestration.definitions.interpreter import Interpreter
from orchestration.lifecycle.reaper import end_descendants
from orchestration.processes.dagster_internals import (
    Ask,
    answers_of,
    broken_answers,
    code_server_here,
)


def load(
    name: str,
    target: Path,
    socket: Path,
    limit: int | None,
    installation: str | None,
    interpreter: Interpreter | None,
) -> None:
    """Loads the location, writes its answers, and ends this process with all that it started.

    `limit` is what it may take for that, in MB; `installation` what every location depends on,
    `interpreter` is its own, where it has one, whose code server is asked on the `socket`: of what
    is read there nothing is known.
    """
    # It ends before there is much garbage, and looking for some copies what it shares.
    gc.disable()
    status = 1
    try:
        if limit:
            limit_memory(limit + (SERVER_MB if interpreter else 0))
        dependencies = None
        try:
            if interpreter:
                replies, problem = answers_from(interpreter, name, socket)
            else:
                recorder = Recorder()
                replies, problem = answers_of(name, _code_server(name))
                dependencies = recorder.dependencies()
        except MemoryError as error:
            problem = f"MemoryError: {error}"
        lift_limit()
        if limit and problem and "MemoryError" in problem:
            sentence = (
                f"It takes more than {limit} MB, which is its limit (memory_limit_mb in "
                "products.yml)."
            )
            print(sentence, flush=True)
            problem = f"{sentence} {problem}"
            replies = broken_answers(problem)
        write_answers(target, replies, problem, dependencies, installation)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if _has_children():
            end_descendants(except_for=set())
        # Not by way of what the location's code wants done at the end, its threads included.
        os._exit(status)


def check(name: str, socket: Path, expected: str) -> None:
    """Ends this process: with 0 where what serves on the socket answers what it is expected to.

    `expected` is the id of those answers.
    """
    try:
        replies, problem = answers_at(name, socket)
    except grpc.RpcError as error:
        sys.exit(f"The code server of {name} does not say what it answers: {error.code()}")
    sys.exit(id_of(replies, problem) != expected)


def _code_server(name: str) -> Ask:
    return code_server_here(
        name=name, module=f"{LOCATIONS_PACKAGE}.{name}", folder=str(PROJECT_ROOT)
    )


def _has_children() -> bool:
    # Orphans are this process's, too; to look at all processes takes milliseconds.
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
