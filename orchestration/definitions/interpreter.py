"""The interpreter of its own that a product's location can have: `definitions_python`."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from orchestration import OrchestrationError
from orchestration.catalog.checkout import PROJECT_ROOT, interpreter_path
from orchestration.catalog.products import Product
from orchestration.lifecycle.environment import (
    PROJECT_PYTHON,
    env_file_path,
    product_environment,
)

# The oldest Python that this project runs on, and what it imports in a location, with the oldest
# release that has what it needs.
PYTHON = (3, 11)
PACKAGES = {
    "croniter": (2,),
    "dagster": (1, 11),
    "Jinja2": (3,),
    "psycopg2-binary": (2, 9),
    "pydantic": (2, 10),
    "python-dotenv": (1,),
    "PyYAML": (6,),
}
# What a run imports, too, where the instance's database is a Postgres.
POSTGRES_PACKAGES = {"dagster-postgres": (0, 26)}
PROBE = """
import json, sys
found = {"python": sys.version.split()[0]}
if sys.version_info >= (3, 8):
    from importlib import metadata
    for name in sys.argv[1:]:
        try: found[name] = metadata.version(name)
        except metadata.PackageNotFoundError: found[name] = None
print(json.dumps(found))
"""
PROBE_SECONDS = 20.0
# Of the interpreter that runs this, and not of another.
NOT_PASSED_ON = ("PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
# Where this project's own things are, which a product's variables do not change.
KEPT = ("DAGSTER_HOME", "DATA_ENGINEERING_ROOT", "ORCHESTRATION_CONTROL")


@dataclass(frozen=True)
class Interpreter:
    """One that a product's location is loaded in, and its runs are executed by."""

    path: Path
    product: Product
    root: Path
    """The checkout."""

    @classmethod
    def of(cls, product: Product, root: Path) -> "Interpreter | None":
        """The product's own; None where it has none."""
        if product.definitions_python is None:
            return None
        return cls(interpreter_path(root, product.definitions_python), product, root)

    @property
    def files(self) -> list[Path]:
        """The interpreter, and the file of its variables, if there is one."""
        given = self.product.env_file
        return [self.path, *([env_file_path(given, self.root)] if given else [])]

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The variables of a process there: those of this one, and the product's own over them.

        Without the product's own where its env_file cannot be read, which is a `problem`.
        """
        try:
            own, _ = product_environment(self.product, self.root)
        except OrchestrationError:
            own = {}
        kept = {name: environ[name] for name in KEPT if name in environ}
        passed_on = {name: environ[name] for name in environ if name not in NOT_PASSED_ON}
        env = {**passed_on, **own, **kept}
        for name, folder in (("PATH", self.path.parent), ("PYTHONPATH", PROJECT_ROOT)):
            env[name] = os.pathsep.join(filter(None, [str(folder), env.get(name)]))
        # What it has printed is to be there when it crashes.
        return {**env, "PYTHONUNBUFFERED": "1", PROJECT_PYTHON: sys.executable}

    def problem(self, *, has_postgres: bool) -> str | None:
        """Why it cannot load the location, and what to do about it; starts it to find out.

        `has_postgres` is whether the instance's database is a Postgres.
        """
        packages = PACKAGES | (POSTGRES_PACKAGES if has_postgres else {})
        if not self.path.exists():
            return self._missing(packages)
        try:
            product_environment(self.product, self.root)
            found = self._versions
        except OrchestrationError as error:
            return str(error)
        if _numbers(found["python"] or "") < PYTHON:
            return (
                f"{self._name} is Python {found['python']}, and {_written(PYTHON)} or newer is "
                "needed: name another."
            )
        wrong = {
            name: oldest
            for name, oldest in packages.items()
            if _numbers(found.get(name) or "") < oldest
        }
        if not wrong:
            return None
        has = ", ".join(_shortcoming(*each, found.get(each[0])) for each in wrong.items())
        return f"{self._name} has {has}: `{self._pip_command(wrong)}`."

    @property
    def difference(self) -> str | None:
        """What to say of a Dagster that is not this process's, once there is no `problem`."""
        theirs = self._versions["dagster"]
        ours = version("dagster")
        if theirs == ours:
            return None
        return f"{self._name} has Dagster {theirs}, and `up` {ours}"

    @property
    def advice(self) -> str:
        """What to do where the difference is one too many."""
        return f"Have it the same: `{self._pip_command({'dagster': ()})}`."

    @property
    def _name(self) -> str:
        return f"Its interpreter {self.path} (definitions_python in products.yml)"

    def _missing(self, packages: Mapping[str, tuple[int, ...]]) -> str:
        configured = self.product.definitions_python or ""
        if os.path.basename(configured) == configured:
            return (
                f"There is no {configured} on PATH (definitions_python in products.yml). Install "
                "it, or name another interpreter."
            )
        make = shlex.join([sys.executable, "-m", "venv", str(self.path.parent.parent)])
        return f"{self._name} does not exist. Make it: `{make} && {self._pip_command(packages)}`."

    def _pip_command(self, packages: Mapping[str, tuple[int, ...]]) -> str:
        wanted = [
            f"dagster=={version(name)}" if name == "dagster" else f"'{name}>={_written(oldest)}'"
            for name, oldest in packages.items()
        ]
        return " ".join([self._command("-m", "pip", "install"), *wanted])

    def _command(self, *arguments: str) -> str:
        return shlex.join([str(self.path), *arguments])

    @cached_property
    def _versions(self) -> Mapping[str, str | None]:
        """Of Python and of the packages there. Raises OrchestrationError where it cannot tell."""
        try:
            done = subprocess.run(
                [self.path, "-c", PROBE, *PACKAGES, *POSTGRES_PACKAGES],
                env=self.environment(os.environ),
                cwd=PROJECT_ROOT,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=PROBE_SECONDS,
            )
            # What its start-up files print is not the answer.
            return dict(json.loads(done.stdout.strip().rpartition("\n")[2]))
        except (OSError, subprocess.TimeoutExpired) as error:
            why = str(error)
        except ValueError:
            why = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        raise OrchestrationError(f"{self._name} cannot be used: {why}. Name another.")


def _shortcoming(name: str, oldest: tuple[int, ...], found: str | None) -> str:
    if not found:
        return f"no {name}"
    ours = f", and `up` has {version(name)}" if name == "dagster" else ""
    return f"{name} {found} ({_written(oldest)} or newer is needed{ours})"


def _written(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])
