"""Run as `python -m tests.harness.full_disk FOLDER`, in a mount namespace of its own.

For each case, mounts a small disk in the folder, fills it, and makes room again. Prints what was
wrong in each case as JSON.
"""

import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

from orchestration.generator.render import LOCATIONS, WORKSPACE
from tests.harness.forks import forked
from tests.harness.materializing import tried_once
from tests.harness.processes import ORCHESTRATION, tree

MEGABYTE = 2**20
BUILD = "2026.1-1_first"
SENTENCE = "No space left on device"


class Disk:
    """A disk of a few megabytes."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder = folder
        self._filler = folder / "filler"
        size = f"size={megabytes}m"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], check=True)

    def fill(self, room: int) -> None:
        """Leaves so many bytes."""
        status = os.statvfs(self.folder)
        free = status.f_bavail * status.f_frsize
        self._filler.write_bytes(b"\0" * (free - room))

    def make_room(self) -> None:
        """Gives all of it back."""
        self._filler.unlink()


class Attempts:
    """Materializes one asset again and again."""

    def __init__(self, selection: str, partition: str, env: Mapping[str, str]) -> None:
        self._arguments = ["materialize", selection, partition]
        self._env = env
        self._log = Path(os.environ["TMPDIR"], "attempt.log")

    def once(self) -> tuple[int, str]:
        """The exit code, and what was said."""
        self._log.unlink(missing_ok=True)
        with forked(tried_once, self._arguments, log=self._log, env=self._env) as fork:
            return fork.wait(), fork.output

    def succeed(self) -> None:
        """Once, with success."""
        code, output = self.once()
        assert code == 0, output

    def fail(self) -> str:
        """Once, without success; gives what was said."""
        code, output = self.once()
        assert code == 1, output
        assert "orchestration/__main__.py" not in output, output
        return output


def fills(disk: Disk, result: Path, attempts: Attempts, rooms: list[int]) -> None:
    """The result is as it was after each attempt without room, and made anew once there is some."""
    attempts.succeed()
    before = tree(result.resolve())
    for room in rooms:
        disk.fill(room)
        said = attempts.fail()
        assert SENTENCE in said or "The disk is full" in said, said
        assert tree(result.resolve()) == before
        disk.make_room()
    attempts.succeed()
    assert tree(result.resolve()) != before


def ingest(disk: Disk) -> None:
    """The disk that holds the results fills up during an ingest."""
    result = disk.folder / "ingest" / "bpl_libraries" / "20260101"
    attempts = Attempts(
        "ingest/bpl_libraries", "20260101", {"DCPY_LIFECYCLE_DATA_DIR": str(disk.folder)}
    )
    fills(disk, result, attempts, [0, 4096])


def build(disk: Disk) -> None:
    """The disk that holds the results fills up during a build."""
    folder = disk.folder / "builds" / "libraries" / BUILD
    (folder / "load").mkdir(parents=True)
    (folder / "load" / "recipe.lock.yml").write_text("version: '2026.1'\n")
    attempts = Attempts("libraries/build", BUILD, {"DCPY_LIFECYCLE_DATA_DIR": str(disk.folder)})
    fills(disk, folder / "build", attempts, [0, 2 * MEGABYTE])


def database(disk: Disk) -> None:
    """The disk holds Dagster's database, too."""
    lifecycle = disk.folder / "lifecycle"
    env = {"DCPY_LIFECYCLE_DATA_DIR": str(lifecycle), "DAGSTER_HOME": str(disk.folder / "dagster")}
    result = lifecycle / "ingest" / "bpl_libraries" / "20260101"
    attempts = Attempts("ingest/bpl_libraries", "20260101", env)
    attempts.succeed()
    before = tree(result.resolve())
    for room in (0, 150_000):
        disk.fill(room)
        assert "cannot be used: " in attempts.fail()
        assert tree(result.resolve()) == before
        disk.make_room()
    attempts.succeed()


def generation(disk: Disk) -> None:
    """The disk that holds the program fills up while locations are generated."""
    project = disk.folder / "project"
    files = (WORKSPACE, LOCATIONS / "libraries.py")

    def generate() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*ORCHESTRATION[:1], "-B", *ORCHESTRATION[1:], "generate"],
            cwd=project,
            capture_output=True,
            text=True,
            check=False,
        )

    shutil.copytree(disk.folder.parent / "project", project)
    for file in files:
        (project / file).unlink()
    before = tree(project)
    # Nothing fits, or not everything.
    for room in (0, os.sysconf("SC_PAGE_SIZE")):
        disk.fill(room)
        done = generate()
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert SENTENCE in done.stderr
        assert str(project) in done.stderr
        assert tree(project) == before
        disk.make_room()
    assert generate().returncode == 0
    assert all((project / file).is_file() for file in files)


CASES = {"ingest": ingest, "build": build, "database": database, "generation": generation}


def what_is_wrong(case: str, folder: Path) -> str | None:
    """The traceback of what does not hold in the case; None where all does."""
    folder.mkdir()
    try:
        CASES[case](Disk(folder, megabytes=8))
    except Exception:
        return traceback.format_exc()
    return None


if __name__ == "__main__":
    found = {case: what_is_wrong(case, Path(sys.argv[1], case)) for case in CASES}
    print(json.dumps(found))
