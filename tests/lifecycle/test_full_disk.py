"""The disk fills: a clear failure, the earlier state intact, and all is well with room again."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping

import pytest

from orchestration.catalog.checkout import PROJECT_ROOT
from tests.harness.processes import PATIENCE
from tests.harness.up_server import checkout_of, copy_project

pytestmark = pytest.mark.long

IN_A_NAMESPACE = ("unshare", "--map-root-user", "--mount")
# More than the disk has room for beside what there is.
BUILD_SCRIPT = """
import os
with open(os.path.join(os.environ["BUILD_ENV_OUTPUT_DIR"], "out"), "wb") as file:
    file.write(os.urandom(3 * 2**20))
"""


@pytest.fixture(scope="module")
def wrong(
    tmp_path_factory: pytest.TempPathFactory, sample_dcpy: Mapping[str, str]
) -> dict[str, str | None]:
    """What is wrong in each case."""
    folder = tmp_path_factory.mktemp("full")
    mount = [*IN_A_NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", str(folder)]
    if not shutil.which("unshare") or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("a disk that can be filled needs leave to mount one, which is not given here")
    project = copy_project(folder)
    checkout = checkout_of(project)
    (checkout / "dcpy").unlink()
    (checkout / "products" / "libraries" / "build.py").write_text(BUILD_SCRIPT)
    for name in ("home", "tmp"):
        (folder / name).mkdir()
    env = {
        "DATA_ENGINEERING_ROOT": str(checkout),
        "DAGSTER_HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "DCPY_PYTHON": sys.executable,
        **sample_dcpy,
    }
    done = subprocess.run(
        [*IN_A_NAMESPACE, sys.executable, "-m", "tests.harness.full_disk", str(folder)],
        cwd=PROJECT_ROOT,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    found: dict[str, str | None] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("case", ["ingest", "build", "database", "generation"])
def test_a_full_disk_is_a_clear_failure_that_leaves_everything_as_it_was_until_there_is_room(
    case: str, wrong: Mapping[str, str | None]
) -> None:
    assert wrong[case] is None, wrong[case]
