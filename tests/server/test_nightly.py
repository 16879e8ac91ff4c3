"""`up` cleans up once a night, where products.yml says how much is kept."""

import os
from datetime import datetime
from pathlib import Path

import pytest

from orchestration.server.nightly import CLEANED, is_due
from tests.harness.up_server import checkout_of, copy_project, pretend_done, serving, write_products

pytestmark = pytest.mark.long


@pytest.mark.parametrize(
    ("last", "now", "due"),
    [
        ("2026-03-07T03:05", "2026-03-07T23:59", False),
        ("2026-03-07T03:05", "2026-03-08T02:59", False),
        ("2026-03-07T03:05", "2026-03-08T03:00", True),
        ("2026-03-07T02:00", "2026-03-07T03:10", True),
        # It was down for a week.
        ("2026-03-01T03:00", "2026-03-08T14:00", True),
        # The clock was wrong.
        ("2031-01-01T00:00", "2026-03-08T14:00", True),
    ],
)
def test_it_is_due_once_a_night(tmp_path: Path, last: str, now: str, due: bool) -> None:
    cleaned = tmp_path / CLEANED
    assert is_due(cleaned, datetime.fromisoformat(now).timestamp())
    cleaned.touch()
    time = datetime.fromisoformat(last).timestamp()
    os.utime(cleaned, (time, time))
    assert is_due(cleaned, datetime.fromisoformat(now).timestamp()) is due


def test_up_removes_what_is_too_old_and_its_partition_key(tmp_path: Path) -> None:
    project = copy_project(tmp_path)
    write_products(project, {"own": "true"})
    products = checkout_of(project) / "products" / "products.yml"
    products.write_text(products.read_text() + "retention: {keep: 1, older_than: 10d}\n")
    with serving(project, locations=("ingest", "own")) as server:
        # By now it has cleaned up once: there was no night before.
        server.wait_for((server.state / CLEANED).exists)
        pretend_done(project, "own", "load", "1-old")
        pretend_done(project, "own", "load", "2-new")
        server.add_partition("own", "build_own", "1-old")
        server.add_partition("own", "build_own", "2-new")
        builds = server.state / "builds" / "own"
        os.utime(builds / "1-old" / "load", (0, 0), follow_symlinks=False)
        os.utime(server.state / CLEANED, (0, 0))
        server.wait_for_output("Cleaned up: 1 old result and 0 runs")
        assert sorted(entry.name for entry in builds.iterdir() if entry.name[0] != ".") == ["2-new"]
        assert server.partitions("own") == {"nightly_qa", "main", "2-new"}
