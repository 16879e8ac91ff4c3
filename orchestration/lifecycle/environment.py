"""The environment of a stage's process, spelled out, and the interpreter that it runs in."""

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from dotenv.parser import parse_stream

from orchestration import OrchestrationError
from orchestration.catalog.checkout import state_folder, templates_folder
from orchestration.catalog.products import SET_BY_STAGES, Product
from orchestration.lifecycle import steps

STEPS_FOLDER = Path(steps.__file__).parent
CHECK_SECONDS = 30.0
# In the checkout's state folder: a link to the environment in which its dcpy is installed.
DCPY_ENVIRONMENT = Path(".dcpy", "venv")

# Names the interpreter that runs this program, where a product's definitions are in another one.
PROJECT_PYTHON = "ORCHESTRATION_PYTHON"

# The variables of Dagster's process, of its interpreter and of alerts are not dcpy's business.
NOT_PASSED_ON = re.compile(
    r"DAGSTER_|ORCHESTRATION_|PYTHON(PATH|HOME|STARTUP|SAFEPATH|EXECUTABLE)$|VIRTUAL_ENV|APPRISE_URLS$|__PYVENV_LAUNCHER__"
)
SERVER = re.compile(
    r"postgresql://(?P<USER>[^:]+):(?P<PASSWORD>[^@]+)@(?P<HOST>[^:]+):(?P<PORT>\d+)"
)


def dcpy_python(chosen: str | None, environ: Mapping[str, str] = os.environ) -> tuple[Path, bool]:
    """The interpreter that runs dcpy, and whether somebody chose it.

    The product's own (`chosen`), else `DCPY_PYTHON`, else that of the environment in which the
    checkout's dcpy was installed, else the one that runs this program; its definitions' own is
    none of dcpy's.
    """
    configured = chosen or environ.get("DCPY_PYTHON")
    if not configured:
        link = state_folder(environ) / DCPY_ENVIRONMENT
        # Not by way of the link, which may lead elsewhere before the process has ended.
        own = Path(os.path.realpath(link), "bin", "python")
        this = Path(environ.get(PROJECT_PYTHON) or sys.executable)
        return (own if own.exists() else this), False
    # Absolute, since it is started in another working directory.
    return Path(os.path.expanduser(shutil.which(configured) or configured)).absolute(), True


def problem_with_interpreter(interpreter: Path) -> str | None:
    """Why this cannot be the interpreter of dcpy, as far as can be seen without starting it."""
    if interpreter.is_file() and os.access(interpreter, os.X_OK):
        return None
    return (
        f"The interpreter {interpreter} does not exist. Set DCPY_PYTHON, or the product's "
        "`python`, to one that has dcpy."
    )


def problem_with_dcpy(python: tuple[Path, bool], *, root: Path, lifecycle: Path) -> str | None:
    """Why the interpreter (as `dcpy_python` gives it) cannot run the checkout's dcpy.

    The steps ask the same before they do anything; this is for telling it earlier.
    """
    interpreter, is_chosen = python
    if problem := problem_with_interpreter(interpreter):
        return problem
    try:
        found = subprocess.run(
            [interpreter, STEPS_FOLDER / "installed.py", root, *(["chosen"] if is_chosen else [])],
            env=base_environment(root=root, lifecycle=lifecycle, python=interpreter),
            cwd=root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CHECK_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"The interpreter {interpreter} cannot be used: {error}. Set DCPY_PYTHON to another."
    if found.returncode == 0:
        return None
    said = found.stderr.strip().rpartition("\n")[2]
    return found.stdout.strip() or (
        f"The interpreter {interpreter} cannot be used ({said}). dcpy needs Python 3.12 or later: "
        "set DCPY_PYTHON to such an interpreter."
    )


def outer_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables without those of Dagster and of the interpreter that runs it."""
    return {name: value for name, value in environ.items() if not NOT_PASSED_ON.match(name)}


def base_environment(
    *, root: Path, lifecycle: Path, python: Path, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """What every stage gets: this process's variables without Dagster's, and where things are."""
    env = outer_environment(environ)
    if "GITHUB_EVENT_NAME" not in env:
        # With CI set dcpy takes it that it runs in a GitHub workflow.
        env.pop("CI", None)
    if (python.parent.parent / "pyvenv.cfg").is_file():
        env["VIRTUAL_ENV"] = str(python.parent.parent)
    # dcpy would ask a cloud's metadata service for credentials six times when it is imported.
    env.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    if python.is_absolute():
        env["PATH"] = os.pathsep.join([str(python.parent), env.get("PATH", os.defpath)])
    return env | {
        "DCPY_LIFECYCLE_DATA_DIR": str(lifecycle),
        "PRODUCTS_DIR": str(root / "products"),
        "TEMPLATE_DIR": str(templates_folder(root)),
        "PYTHONUNBUFFERED": "1",
        # The checkout is only read, by its own Python files and by git.
        "PYTHONDONTWRITEBYTECODE": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        # dcpy asks git for it where it is unset, and breaks on the empty answer.
        "BUILD_ENGINE_SCHEMA": "public",
    }


def load_environment(
    base: Mapping[str, str], *, lock: Mapping[str, Any], build_name: str, output: Path
) -> dict[str, str]:
    """What load, and a preprocessor that it calls, finds under dcpy.

    `lock` is the content of the lock file. Source: dcpy/lifecycle/builds/build.py, and what the
    team's workflows do before: bash/build_env_setup.sh and bash/export_recipe_env.sh.
    """
    # dcpy of 2025 calls the lock's `env` `vars`.
    env = {**base, **_strings(lock.get("vars")), **_strings(lock.get("env"))}
    if server := SERVER.match(env.get("BUILD_ENGINE_SERVER", "")):
        env |= {f"BUILD_ENGINE_{part}": value for part, value in server.groupdict().items()}
    if schema := env.get("BUILD_ENGINE_SCHEMA"):
        env["BUILD_ENGINE_SCHEMA_TESTS"] = f"{schema}__tests"
    connection = [env.get(f"BUILD_ENGINE_{part}") for part in ("SERVER", "DB", "SCHEMA")]
    if all(connection):
        address, database, schema = connection
        env["BUILD_ENGINE"] = f"{address}/{database}?options=--search_path%3D{schema},public"
    return env | {"BUILD_ENV_OUTPUT_DIR": str(output), "BUILD_NAME": build_name}


def build_environment(
    base: Mapping[str, str], *, lock: Mapping[str, Any], build_name: str, output: Path
) -> dict[str, str]:
    """What a build command finds under dcpy, in the order in which dcpy sets it."""
    env = load_environment(base, lock=lock, build_name=build_name, output=output)
    stage = (lock.get("stage_config") or {}).get("builds.build") or {}
    return env | _strings(stage.get("env"))


def env_file_path(configured: str, root: Path) -> Path:
    """Where the file is that a product's `env_file` names; `root` is the checkout."""
    return root / os.path.expanduser(configured)


def product_environment(product: Product, root: Path) -> tuple[dict[str, str], set[str]]:
    """The variables that products.yml gives the product, and the names of the secret ones.

    Those are the variables of its `env_file`, a path from the checkout's root. Raises
    OrchestrationError where that file is missing, cannot be read, or sets what a stage does.
    """
    if not product.env_file:
        return dict(product.env), set()
    path = env_file_path(product.env_file, root)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            # Whoever reads a pipe may wait for ever.
            raise OrchestrationError(f"its env_file {path} is not a file. Put one there.")
        bindings = list(parse_stream(StringIO(path.read_text(encoding="utf-8"))))
    except OSError as error:
        raise OrchestrationError(
            f"its env_file {path} cannot be read: {error.strerror}. Put it there, or mend "
            "`env_file` in products.yml."
        ) from error
    except UnicodeDecodeError as error:
        raise OrchestrationError(f"its env_file {path} is not UTF-8 text") from error
    for binding in bindings:
        is_variable = not binding.error and (not binding.key or binding.value is not None)
        if not is_variable or "\0" in binding.original.string:
            raise OrchestrationError(
                f"{path}:{binding.original.line}: not a line of the form NAME=value"
            )
        if binding.key in SET_BY_STAGES:
            raise OrchestrationError(
                f"{path}:{binding.original.line}: {binding.key} cannot be set here"
                f"{SET_BY_STAGES[binding.key]}"
            )
    secret = {b.key: b.value for b in bindings if b.key and b.value is not None}
    return {**product.env, **secret}, set(secret)


def _strings(variables: Mapping[str, Any] | None) -> dict[str, str]:
    found = {name: str(value) for name, value in (variables or {}).items()}
    for name, value in found.items():
        if not name or "=" in name or "\0" in name + value:
            raise OrchestrationError(
                f"the recipe sets a variable {name!r}, which no process can be given. Mend its "
                "name, or its value."
            )
    return found
