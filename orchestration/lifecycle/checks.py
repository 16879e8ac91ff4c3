"""Is a new result any good? Its tables are held against those of earlier results."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestration.catalog.checks import Checks
from orchestration.lifecycle.child import StageFailed
from orchestration.lifecycle.outcomes import CheckResult, Rows
from orchestration.lifecycle.results import Staging
from orchestration.lifecycle.tables import Earlier, versionless

INGEST_CHECKS = {
    "not_empty": "Every table has rows.",
    "columns": "The columns are those of the version before.",
    "rows": "No table has many more or fewer rows than in the version before.",
}
"""The checks of an ingested version, and what each of them checks."""

BUILD_CHECKS = {
    "not_empty": "Every table has rows.",
    "columns": "The columns are those of the last good build of the same partition.",
    "rows": "No table has many more or fewer rows than in the last good build of the same "
    "partition.",
    "columns_of_other_version": "The columns are those of the newest build of another partition.",
    "rows_of_other_version": "No table has many more or fewer rows than in the newest build of "
    "another partition.",
}
"""The checks of a build."""

MAX_SAID = 3


def publishable(
    results: Sequence[CheckResult], subject: str, staging: Staging, logger: logging.Logger
) -> None:
    """Warns of the checks that failed.

    Raises StageFailed where a failure is an error; the result is kept aside then.
    """
    failed = [result for result in results if not result.passed]
    for result in failed:
        logger.warning(f"The check {result.name} failed: {result.said}")
    if errors := [result for result in failed if result.is_error]:
        staging.keep_aside()
        said = " ".join(f"The check {result.name} failed: {result.said}" for result in errors)
        failure = StageFailed(
            f"{subject}: {said} The new result is kept aside in {staging.folder} until the next "
            "attempt, and what was published before stays. Where the new one is right, change "
            "`checks` in products.yml and run this again."
        )
        failure.checks = results
        raise failure


def check_tables(
    tables: Rows, version: str, settings: Checks, baselines: Mapping[str, Earlier | None]
) -> list[CheckResult]:
    """The results of all checks; `baselines` are the earlier results by the checks' suffix."""
    results = [_not_empty(tables, settings)]
    for suffix, earlier in baselines.items():
        if earlier is None:
            results += [_nothing_before(name + suffix, tables) for name in ("columns", "rows")]
        else:
            pairs = list(_pairs(tables, version, earlier))
            results += [
                _columns(f"columns{suffix}", pairs, earlier.what, settings),
                _rows(f"rows{suffix}", pairs, earlier.what, settings),
            ]
    return results


def _not_empty(tables: Rows, settings: Checks) -> CheckResult:
    empty = [table["name"] for table in tables if not table.get("rows")]
    unreadable = {table["name"]: table["problem"] for table in tables if "problem" in table}
    said = [f"{name} cannot be read: {why}" for name, why in unreadable.items()]
    said += [f"{name} is empty" for name in empty if name not in unreadable]
    return CheckResult(
        "not_empty",
        passed=not said,
        is_error=settings.not_empty == "error",
        said=_sentence(said, f"{_count(tables, 'table')}, none of them empty."),
        numbers={"rows": _total(tables), "tables": len(tables), "empty_tables": len(empty)},
        tables=[
            {"table": table["name"], "rows": table.get("rows", "cannot be read")}
            for table in tables
        ],
    )


def _nothing_before(name: str, tables: Rows) -> CheckResult:
    return CheckResult(
        name,
        passed=True,
        is_error=False,
        said="There is nothing earlier to compare with.",
        numbers={"rows": _total(tables)} if name.startswith("rows") else {},
    )


Pair = tuple[str, Mapping[str, Any] | None, Mapping[str, Any] | None]


def _pairs(tables: Rows, version: str, earlier: Earlier) -> Iterator[Pair]:
    """Each readable table's name, what it is, and what it was."""
    now = {versionless(table["name"], version): table for table in tables}
    before = {versionless(table["name"], earlier.version): table for table in earlier.tables}
    for key in dict.fromkeys([*now, *before]):
        pair = now.get(key), before.get(key)
        if not any("problem" in table for table in pair if table):
            yield (pair[0] or before[key])["name"], *pair


def _columns(name: str, pairs: Sequence[Pair], before: str, settings: Checks) -> CheckResult:
    changes = [
        (table, *change) for table, now, was in pairs if was for change in _changes(now, was)
    ]
    counted = [kind for _, kind, _ in changes]
    said = [f"{table}: {text}" for table, _, text in changes]
    return CheckResult(
        name,
        passed=not said,
        is_error=settings.columns == "error",
        said=_sentence(said, f"The columns are those of {before}.", before),
        numbers={
            "columns_added": counted.count("added"),
            "columns_removed": counted.count("removed"),
            "types_changed": counted.count("type"),
            "tables_gone": counted.count("gone"),
        },
        tables=[{"table": table, "change": text} for table, _, text in changes],
    )


def _changes(now: Mapping[str, Any] | None, was: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if now is None:
        yield "gone", "the whole table is gone"
        return
    new, old = ({column["name"]: column["type"] for column in t["columns"]} for t in (now, was))
    yield from (("added", f"{column} is new") for column in new if column not in old)
    yield from (("removed", f"{column} is gone") for column in old if column not in new)
    # What is in a CSV's column is told by its values.
    if now["rows"] and was["rows"]:
        for column in new:
            if column in old and new[column] != old[column]:
                yield "type", f"{column} is {new[column]}, and was {old[column]}"


def _rows(name: str, pairs: Sequence[Pair], before: str, settings: Checks) -> CheckResult:
    both = [(table, now["rows"], was["rows"]) for table, now, was in pairs if now and was]
    percents = {table: _percent(now, was) for table, now, was in both}
    said = [
        f"{table} has {now} rows instead of {was}, {percents[table]:+.1f} %"
        for table, now, was in both
        if abs(percents[table]) > settings.rows_threshold
    ]
    return CheckResult(
        name,
        passed=not said,
        is_error=settings.rows == "error",
        said=_sentence(
            said,
            f"No table's rows differ by more than {settings.rows_threshold} % from {before}.",
            f"{before}; {settings.rows_threshold} % are allowed",
        ),
        numbers={
            "rows": sum(now for _, now, _ in both),
            "rows_before": sum(was for *_, was in both),
            "largest_change_percent": max(percents.values(), key=abs, default=0.0),
        },
        tables=[
            {"table": table, "rows": now, "rows_before": was, "percent": percents[table]}
            for table, now, was in both
        ],
    )


def _percent(now: int, was: int) -> float:
    if not was:
        return 100.0 if now else 0.0
    return round(100 * (now - was) / was, 1)


def _sentence(said: Sequence[str], otherwise: str, compared_with: str = "") -> str:
    if not said:
        return otherwise
    more = f"; and {len(said) - MAX_SAID} more" if len(said) > MAX_SAID else ""
    against = f" (compared with {compared_with})" if compared_with else ""
    return "; ".join(said[:MAX_SAID]) + more + against + "."


def _count(things: Rows, what: str) -> str:
    return f"{len(things)} {what}{'' if len(things) == 1 else 's'}"


def _total(tables: Rows) -> int:
    return sum(table.get("rows", 0) for table in tables)
