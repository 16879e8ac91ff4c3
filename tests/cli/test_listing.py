"""What there is in a checkout, and what has become of it, without a server."""

import json
import os
import subprocess
from datetime import UTC, datetime
from typing import Any

import pytest

from orchestration.cli.moments import Moment, last_lines
from tests.harness.processes import ORCHESTRATION, PATIENCE, orchestration
from tests.harness.up_server import checkout_of, copy_project, pretend_done, write_products

SCHEDULE = """
import dagster as dg
defs = dg.Definitions(schedules=[dg.ScheduleDefinition(
    name="nightly", job_name="build_good", cron_schedule="0 5 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING)])
"""

WHY = "definitions.py is not used: ValueError: no such borough"


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is listed after a run that went well, and one that did not; `text` is for people."""
    project = copy_project(tmp_path_factory.mktemp("list"))
    products = checkout_of(project) / "products"
    write_products(project, {"good": "true", "bad": "exit 3", "broken": "true"})
    (products / "good" / "definitions.py").write_text(SCHEDULE)
    (products / "broken" / "definitions.py").write_text("raise ValueError('no such borough')\n")
    env = {
        **os.environ,
        "DATA_ENGINEERING_ROOT": str(checkout_of(project)),
        "DCPY_LIFECYCLE_DATA_DIR": str(project / ".lifecycle"),
        "DAGSTER_HOME": str(project),
    }

    def run(*arguments: str) -> str:
        command = [*ORCHESTRATION, *arguments]
        result = subprocess.run(
            command, cwd=project, env=env, capture_output=True, text=True, timeout=PATIENCE
        )
        assert result.returncode in (0, 1), result.stderr
        return result.stdout

    for name in ("good", "bad"):
        pretend_done(project, name, "load")
    run("generate")
    run("materialize", "good/build", "bad/build", "main", "--jobs", "2")
    data: dict[str, Any] = json.loads(run("list", "--json"))
    return {**data, "text": run("list")}


def test_each_product_has_its_last_good_and_failed_run_with_the_reason(
    listed: dict[str, Any],
) -> None:
    good, bad, _ = listed["products"]
    assert good["last_good"]["partition"] == bad["last_failed"]["partition"] == "main"
    age = datetime.now(UTC) - datetime.fromisoformat(bad["last_failed"]["time"])
    assert 0 <= age.total_seconds() < 300
    why = bad["last_failed"]["why"]
    assert why == "Product 'bad': the build command ended with exit code 3. It printed nothing."
    assert good["last_failed"] is bad["last_good"] is None
    assert good["partitions"] == ["main"]


def test_a_schedule_has_its_next_time(listed: dict[str, Any]) -> None:
    [schedule] = listed["products"][0]["schedules"]
    assert (schedule["name"], schedule["cron"], schedule["is_on"]) == ("nightly", "0 5 * * *", True)
    due = datetime.fromisoformat(schedule["next"])
    assert due > datetime.now(UTC)
    assert (due.hour, due.minute) == (5, 0)


def test_a_broken_product_says_why(listed: dict[str, Any]) -> None:
    assert listed["products"][2]["problem"] == WHY
    assert f"  broken       {WHY}" in listed["text"].splitlines()


def test_ingest_templates_are_there_too(listed: dict[str, Any]) -> None:
    names = [template["name"] for template in listed["ingest_templates"]]
    assert len(names) == 7
    assert set(names) <= set(listed["text"].splitlines())


@pytest.mark.usefixtures("lifecycle")
def test_a_product_is_called_as_by_status_too_and_a_template_has_the_owners_of_the_ui() -> None:
    lines = orchestration("list").stdout.splitlines()
    assert "park access (park_access)  team:open-space" in lines
    assert "libraries  libraries@example.org, team:facilities" in lines
    assert "ingest/bpl_libraries  libraries@example.org, team:facilities" in lines


def test_a_failure_that_has_been_mended_is_said_to_be() -> None:
    failed = Moment("main", 1000.0, "No data.")
    assert next(last_lines(None, failed)).endswith(": No data.")
    [_, line] = last_lines(Moment("other", 2000.0), failed)
    assert "good since" not in line
    [_, line] = last_lines(Moment("main", 2000.0), failed)
    assert line.endswith(", good since: No data.")
