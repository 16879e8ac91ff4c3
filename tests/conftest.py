"""What all tests share: an environment that is the same everywhere, and real checkouts."""

import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from orchestration.catalog.checkout import PROJECT_ROOT, SAMPLE_ROOT
from orchestration.lifecycle.environment import dcpy_python
from tests.harness.postgres import Postgres, postgres_cluster
from tests.harness.processes import NYC

# Whoever runs the tests has settings of their own, none of which may decide how they end.
OTHER_PEOPLES = re.compile(
    r"(DAGSTER|DCPY|BUILD|ORCHESTRATION)_|(DATA_ENGINEERING_ROOT|CI|PRODUCTS_DIR|TEMPLATE_DIR)$"
)

settings.register_profile("tests", database=None, deadline=None, derandomize=True)
settings.load_profile("tests")


@pytest.fixture(scope="session", autouse=True)
def _pinned_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if OTHER_PEOPLES.match(name):
                patch.delenv(name)
        patch.setenv("DATA_ENGINEERING_ROOT", str(SAMPLE_ROOT))
        patch.setenv("DCPY_LIFECYCLE_DATA_DIR", str(tmp_path_factory.mktemp("lifecycle")))
        patch.setenv("DAGSTER_HOME", str(tmp_path_factory.mktemp("dagster")))
        patch.setenv("DAGSTER_DISABLE_TELEMETRY", "1")
        yield


@pytest.fixture(scope="session", autouse=True)
def _heeded_signals() -> None:
    # A shell's background job and nohup ignore them, and so would all that the tests start.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            python_does = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, python_does)


@pytest.fixture
def lifecycle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lifecycle folder of the test's own, with a `DAGSTER_HOME` called `dagster` beside it."""
    folder = tmp_path / "lifecycle"
    folder.mkdir()
    monkeypatch.setenv("DCPY_LIFECYCLE_DATA_DIR", str(folder))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    return folder


@pytest.fixture(scope="session")
def nyc() -> Path:
    """The real product list, recipes and templates of the data-engineering team."""
    if not NYC.is_dir():
        pytest.skip(f"the real templates and recipes are not on this machine ({NYC})")
    return NYC


@pytest.fixture(scope="session")
def cluster() -> Iterator[Postgres]:
    """A Postgres cluster that tests share; skips them where Postgres is not installed."""
    with postgres_cluster() as found:
        yield found


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the program, to generate into."""
    copy = tmp_path / "project"
    for name in ("orchestration", "templates"):
        ignored = shutil.ignore_patterns("*.pyc.*", ".venv")
        shutil.copytree(PROJECT_ROOT / name, copy / name, ignore=ignored)
    shutil.copy(PROJECT_ROOT / "workspace.yaml", copy)
    return copy


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the sample as a checkout of data alone, to change: it has no dcpy."""
    copy = tmp_path / "data-engineering"
    for name in ("products", "ingest_templates", "data"):
        shutil.copytree(SAMPLE_ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="session")
def sample_dcpy() -> dict[str, str]:
    """The environment in which the stages of any checkout find the sample's dcpy."""
    python, _ = dcpy_python(None, {"DATA_ENGINEERING_ROOT": str(SAMPLE_ROOT)})
    if python == Path(sys.executable):
        pytest.fail("the sample's dcpy is not installed: `make dcpy` does that")
    return {"DCPY_PYTHON": str(python)}
