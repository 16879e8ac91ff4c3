"""Secrets of the environment appear nowhere in what runs leave, and nobody else can read that."""

import json
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from orchestration.lifecycle.redaction import MASK
from orchestration.lifecycle.results import make_private
from tests.harness.forks import forked
from tests.harness.materializing import tried_once

PASSWORD = 'pa55/w"rd@of+the database'
ENCODED = quote(PASSWORD, safe="")
SECRETS = {
    "BUILD_ENGINE_SERVER": f"postgresql://dcp:{ENCODED}@db.example.org:5432",
    "BUILD_ENGINE_DB": "sandbox",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
    "GITHUB_TOKEN": "ghp_0123456789abcdefghijABCDEFGHIJ",
    "SOCRATA_API_KEY": "first line of a key\nsecond line of it",
}
PLAIN = [
    PASSWORD,
    SECRETS["AWS_SECRET_ACCESS_KEY"],
    SECRETS["GITHUB_TOKEN"],
    *SECRETS["SOCRATA_API_KEY"].splitlines(),
]
# Prints all of its environment: as it is, encoded in ways that programs have, and piecemeal.
BLABBER = """
import json, os, sys, time
from urllib.parse import quote, quote_plus, unquote
for name, value in os.environ.items():
    print(f"{name}={value}")
    print(unquote(value))
    print(quote(value), quote(value, safe=""), quote_plus(value))
    print(json.dumps(value), json.dumps(unquote(value)))
    print(repr(unquote(value)), file=sys.stderr)
text = " ".join([unquote(value) for value in os.environ.values() if value.isprintable()]) + "\\n"
for start in range(0, len(text), 7):
    os.write(1, text[start : start + 7].encode())
"""
FAILING_DCPY = """
import os
from pathlib import Path
exec((Path(__file__).parent / "blabber.py").read_text())

def ingest(dataset_id, version=None, *, staging_dir=None, mode=None, datasets_filter=None,
           latest=False, push=False, output_csv=False, definition_dir=None,
           local_file_path=None, overwrite_okay=False):
    address = os.environ["BUILD_ENGINE_SERVER"]
    raise ConnectionError(f"cannot connect to {address} with {dict(os.environ)}")
"""


def spellings(secret: str) -> Iterator[bytes]:
    """The ways in which a secret could be written somewhere."""
    for text in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1]):
        yield text.encode()
    for text in (quote(secret), quote(secret, safe=""), quote_plus(secret)):
        yield text.encode()


@pytest.fixture(scope="module")
def left(
    tmp_path_factory: pytest.TempPathFactory, sample_dcpy: Mapping[str, str]
) -> tuple[Path, str]:
    """What is left by a build and by a step that tell all they know, and what was printed."""
    folder = tmp_path_factory.mktemp("secrets")
    lifecycle, checkout = folder / "lifecycle", folder / "checkout"
    product = checkout / "products" / "libraries"
    product.mkdir(parents=True)
    (product.parent / "products.yml").write_text(
        "products:\n- {id: libraries, build_command: python build.py}\n"
    )
    templates = checkout / "ingest_templates"
    templates.mkdir()
    (templates / "bpl_libraries.yml").write_text("id: bpl_libraries\n")
    (product / "build.py").write_text(BLABBER)
    package = checkout / "dcpy" / "lifecycle" / "ingest"
    package.mkdir(parents=True)
    for above in (package, package.parent, package.parent.parent):
        (above / "__init__.py").touch()
    (package / "blabber.py").write_text(BLABBER)
    (package / "run.py").write_text(FAILING_DCPY)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{checkout}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    env = SECRETS | {
        "DATA_ENGINEERING_ROOT": str(checkout),
        "DCPY_LIFECYCLE_DATA_DIR": str(lifecycle),
        "DAGSTER_HOME": str(lifecycle / "dagster"),
        "DCPY_PYTHON": str(python),
    }
    log = folder / "printed"
    with forked(
        tried_once, ["materialize", "ingest/bpl_libraries", "v1"], log=log, env=env
    ) as fork:
        assert fork.wait() == 1
        assert "cannot connect to" in fork.output
    load = make_private(lifecycle / "builds" / "libraries" / "main" / "load")
    lock = load / "recipe.lock.yml"
    lock.touch(mode=0o600)
    lock.write_text("version: '1'\n")
    for code in (0, 5):
        (product / "build.py").write_text(f"{BLABBER}\nsys.exit({code})")
        with forked(
            tried_once, ["materialize", "libraries/build", "main"], log=log, env=env
        ) as fork:
            assert fork.wait() == (1 if code else 0), fork.output
    return lifecycle, log.read_text()


def test_no_secret_is_in_any_file_that_runs_leave_nor_in_what_they_print(
    left: tuple[Path, str],
) -> None:
    lifecycle, printed = left
    files = {path: path.read_bytes() for path in lifecycle.rglob("*") if path.is_file()}
    assert any(path.name == "runs.db" for path in files)
    assert sum(MASK.encode() in content for content in files.values()) >= 4
    assert MASK in printed
    found = [
        (str(path), secret)
        for path, content in [*files.items(), (Path("printed"), printed.encode())]
        for secret in PLAIN
        if any(spelling in content for spelling in spellings(secret))
    ]
    assert found == []


def test_the_log_still_tells_what_is_no_secret(left: tuple[Path, str]) -> None:
    lifecycle, _ = left
    log = (lifecycle / "builds" / "libraries" / "main" / "build" / "build.log").read_text()
    assert f"BUILD_ENGINE_SERVER=postgresql://dcp:{MASK}@db.example.org:5432" in log
    assert "BUILD_ENGINE_DB=sandbox" in log
    assert "BUILD_NAME=main" in log


def test_no_file_that_runs_leave_can_be_read_by_others(left: tuple[Path, str]) -> None:
    lifecycle, _ = left
    assert stat.S_IMODE(lifecycle.stat().st_mode) == 0o700
    own = [path for path in lifecycle.rglob("*") if "load" not in path.parts]
    assert [path for path in own if not path.is_symlink() and path.stat().st_mode & 0o077] == []
