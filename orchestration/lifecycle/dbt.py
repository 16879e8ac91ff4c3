"""The results of dbt's own tests, where a build leaves them, and the tests' names.

Dagster shows checks that a location has when it is loaded, and dbt says only after a build what its
tests are called: the names are kept for the next load, as long as any build of late had them.
"""

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from orchestration.lifecycle.checks import BUILD_CHECKS
from orchestration.lifecycle.outcomes import CheckResult
from orchestration.lifecycle.results import locked, write_whole

RESULTS = Path("target", "run_results.json")
NAMES_FILE = ".dbt_tests.json"
# Longer than any run waits: Dagster expects of it the checks that there were when it was launched.
KEPT = timedelta(days=30)
OUTCOMES = {"pass": True, "warn": False, "fail": False, "error": False}


def test_results(files: Iterable[Path], logger: logging.Logger) -> list[CheckResult]:
    """How dbt's tests went, as those of the files say that are dbt's results.

    Of a file that cannot be read the log says so. Source: dbt's schema run-results.
    """
    found: dict[str, CheckResult] = {}
    for file in files:
        if file.parts[-2:] != RESULTS.parts:
            continue
        try:
            results = json.loads(file.read_bytes())["results"]
            tests = [result for result in results if result["unique_id"].startswith("test.")]
            for test in tests:
                if test["status"] in OUTCOMES:
                    result = _result(test)
                    found[result.name] = result
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning(f"dbt's results in {file} cannot be read: {error!r}")
    return list(found.values())


def _result(test: Mapping[str, Any]) -> CheckResult:
    # As dbt writes it: test.<project>.<name>, and a hash where the name is not the test's own.
    name = re.sub(r"\W", "_", test["unique_id"].split(".")[2], flags=re.ASCII)
    status, failures = test["status"], test.get("failures")
    return CheckResult(
        f"dbt_{name}" if name in BUILD_CHECKS else name,
        passed=OUTCOMES[status],
        is_error=status != "warn",
        said=str(test.get("message") or status),
        numbers={
            **({"failures": int(failures)} if failures is not None else {}),
            "seconds": round(float(test.get("execution_time") or 0), 3),
        },
    )


def known_tests(product: Path) -> list[str]:
    """The names of the tests of a product's builds, which lie in that folder."""
    return sorted(_kept(product))


def keep_names(product: Path, results: Sequence[CheckResult]) -> None:
    """Adds the tests of a build to the product's, and forgets those that none has any more."""
    # Builds of several partitions may go on at once.
    with locked(product / NAMES_FILE, waiting=lambda: None):
        before, now = _kept(product), datetime.now(UTC)
        kept = {
            name: seen for name, seen in before.items() if datetime.fromisoformat(seen) > now - KEPT
        }
        kept |= {result.name: now.isoformat() for result in results}
        if kept.keys() != before.keys() or not _is_recent(before, results, now):
            write_whole(product / NAMES_FILE, json.dumps(kept))


def _is_recent(before: Mapping[str, str], results: Sequence[CheckResult], now: datetime) -> bool:
    """Whether what is there says the same for days: a write has the location loaded again."""
    seen = (datetime.fromisoformat(before[result.name]) for result in results)
    return all(now - time < KEPT / 2 for time in seen)


def _kept(product: Path) -> dict[str, str]:
    try:
        kept: dict[str, str] = json.loads((product / NAMES_FILE).read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        # The next build writes it anew.
        logging.getLogger(__name__).warning("%s cannot be read: %s", product / NAMES_FILE, error)
        return {}
    return kept
