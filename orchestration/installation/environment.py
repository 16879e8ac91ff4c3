"""The environment of a checkout's dcpy: made once, kept, and made anew where its needs change.

In the checkout's state folder, `.dcpy/venv` is a link to the environment beside it. One is made
under a name of its own, and the link is set when it is whole: what an interruption leaves is never
taken for an environment. The one before stays until the next is made, for those who are at work.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from orchestration import OrchestrationError
from orchestration.catalog.checkout import state_folder
from orchestration.installation.interpreters import Interpreter, find_interpreter, tried
from orchestration.installation.project import Project, canonical, read_project
from orchestration.lifecycle.environment import DCPY_ENVIRONMENT, outer_environment
from orchestration.lifecycle.results import locked, make_private

STAMP = "made-for.txt"
LOG = "install.log"
# A pin whose release cannot be built here is given up; more than a few are no accident.
PINS_GIVEN_UP = 3


class _PipFailed(Exception):
    """pip has failed; its log says why."""


def install(root: Path) -> None:
    """Sees to it that the checkout's dcpy is installed, where it has one.

    Raises OrchestrationError when it cannot be.
    """
    project = read_project(root)
    if project is None:
        return
    link = state_folder() / DCPY_ENVIRONMENT
    make_private(link.parent)
    with locked(link, waiting=lambda: print("Another process is installing dcpy; waiting.")):
        kept = tried(link / "bin" / "python") if _stamp_of(link) == _stamp(project) else None
        if kept and (kept.is_recent or not project.constraints):
            return
        interpreter = find_interpreter()
        if not kept or interpreter.is_recent:
            _Installation(project, interpreter, link).run()


def _stamp(project: Project) -> str:
    return hashlib.sha256(json.dumps(asdict(project), default=str).encode()).hexdigest()


def _stamp_of(environment: Path) -> str | None:
    file = environment / STAMP
    return file.read_text() if file.is_file() else None


class _Installation:
    """One attempt to make an environment."""

    def __init__(self, project: Project, interpreter: Interpreter, link: Path) -> None:
        self._project = project
        self._interpreter = interpreter
        self._link = link
        self._folder = link.with_name(f"{link.name}-{secrets.token_hex(4)}")
        self._log = link.with_name(LOG)

    def run(self) -> None:
        """Makes the environment, and has the link lead to it."""
        self._remove_others()
        self._log.unlink(missing_ok=True)
        begun = time.monotonic()
        print(f"Installing the dcpy of {self._project.root} for {self._interpreter} …", flush=True)
        try:
            self._make()
            (self._folder / STAMP).write_text(_stamp(self._project))
            new = self._folder.with_name(f"{self._folder.name}.link")
            new.symlink_to(self._folder.name)
            new.replace(self._link)
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        print(f"Installed in {time.monotonic() - begun:.0f} s, in {self._folder}", flush=True)

    def _remove_others(self) -> None:
        current = os.readlink(self._link) if self._link.is_symlink() else None
        for entry in self._link.parent.glob(f"{self._link.name}-*"):
            if entry.name == current:
                continue
            if entry.is_symlink():
                entry.unlink()
            else:
                shutil.rmtree(entry)

    def _make(self) -> None:
        project, python = self._project, self._folder / "bin" / "python"
        pip: list[str | Path] = [python, "-m", "pip", "install"]
        try:
            self._call([self._interpreter.path, "-m", "venv", self._folder])
            wheel = project.write_wheel(self._folder)
            constraints = self._folder / "constraints.txt"
            project.write_constraints(constraints)
            self._call([*pip, wheel, "--constraint", constraints])
            wheel.unlink()
        except _PipFailed as error:
            raise OrchestrationError(
                f"The dcpy of {project.root} cannot be installed for {self._interpreter}: {error}. "
                f"{self._log} has it all. Set DCPY_PYTHON to an interpreter that has dcpy, or put "
                "that right and run this again."
            ) from error
        if project.constraints and not self._interpreter.is_recent:
            self._say(
                f"there is no Python 3.12 or newer here, and with {self._interpreter} many ingest "
                "templates cannot be ingested. Install one, then run this again"
            )
        self._install_commands([*pip, "--constraint", constraints])
        for requirement in project.from_elsewhere:
            self._say(
                f"{requirement.partition('@')[0].strip()} is not on the package index: build "
                f"commands that need it fail, unless you run `{python} -m pip install "
                f"'{requirement}'`"
            )

    def _install_commands(self, pip: Sequence[str | Path]) -> None:
        """Installs what the builds call; what cannot be is said, and is no reason to have nothing.

        A pinned release that is built from source may fail at that, for want of a compiler or of
        something to download. Then any release will do that is built already.
        """
        project, given_up = self._project, list[str]()
        while project.commands:
            built = [f"--only-binary={name}" for name in given_up]
            try:
                self._call([*pip, *built, *project.commands])
            except _PipFailed as error:
                culprit = self._last_collected()
                loosened = project.without_pin(culprit)
                if loosened == project or len(given_up) == PINS_GIVEN_UP:
                    self._say(
                        f"{', '.join(project.commands)} cannot be installed ({error}; see "
                        f"{self._log}): build commands that call dbt fail"
                    )
                    return
                project = loosened
                given_up.append(culprit)
                project.write_constraints(self._folder / "constraints.txt")
            else:
                break
        if given_up:
            self._say(f"the pinned release of {', '.join(given_up)} cannot be had: took another")

    def _last_collected(self) -> str:
        """The package at which pip has stopped: it names one, or the file that it takes."""
        text = self._log.read_text(errors="replace")
        found = re.findall(r"^(?:Collecting|Processing) (?:.*/)?(\S+)", text, re.M)
        return canonical(re.split(r"-\d|[^\w.-]", found[-1])[0]) if found else ""

    def _call(self, command: Sequence[str | Path]) -> None:
        with self._log.open("ab") as log:
            done = subprocess.run(
                command,
                env=outer_environment(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if done.returncode != 0:
            said = [line.strip() for line in self._log.read_text(errors="replace").splitlines()]
            errors = [line for line in said if line.upper().startswith("ERROR")]
            raise _PipFailed((errors or said or [""])[-1] or f"exit code {done.returncode}")

    def _say(self, text: str) -> None:
        print(f"warning: {text}.", flush=True)
