"""What was found in a result's tables: kept in it as `<stage>.tables.json`, and found again."""

import base64
import json
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

from orchestration.lifecycle.child import StageFailed
from orchestration.lifecycle.outcomes import Rows
from orchestration.lifecycle.results import Staging, write_whole
from orchestration.lifecycle.step_runner import Steps

TABULAR = (".parquet", ".csv", ".duckdb")
# What dbt brings along and compiles is not what a build makes.
NOT_DATA = {"dbt_packages", "target"}


@dataclass(frozen=True)
class Earlier:
    """The tables of an earlier result."""

    result: Path
    what: str
    """What a sentence calls it."""
    version: str
    tables: Rows


def tables_in(
    outputs: Rows,
    logger: logging.Logger,
    *,
    before: Earlier | None,
    subject: str,
    steps: Steps,
) -> Rows | None:
    """The tables of a build's tabular files, as `steps/tabular.py` gives them.

    Their maps are drawn over those of the result `before`. None where the interpreter cannot tell
    them, which is said in the log.
    """
    names = [str(output["file"]) for output in outputs]
    files = [
        name
        for name in names
        if name.endswith(TABULAR) and NOT_DATA.isdisjoint(PurePath(name).parts)
    ]
    if not files:
        return []
    try:
        step = steps.run(
            logger,
            stage="describe",
            subject=subject,
            parameters={
                "folder": str(steps.staging.folder),
                "files": files,
                **map_parameters(before, steps.staging),
            },
        )
    except StageFailed as failed:
        logger.warning(f"Nothing was checked. {failed}")
        return None
    return with_maps(step.data["tables"])


def map_parameters(before: Earlier | None, staging: Staging) -> dict[str, str]:
    """What a step needs to draw maps: the earlier result to draw them over, and where."""
    folder = before.result if before else staging.work / "nothing"
    return {"before": str(folder), "pictures": str(staging.work)}


def with_maps(tables: Rows) -> Rows:
    """The tables with their pictures in the place of the files' names."""
    return [
        {**table, "map": base64.b64encode(Path(table["map"]).read_bytes()).decode()}
        if "map" in table
        else table
        for table in tables
    ]


def keep_tables(folder: Path, stage: str, version: str, tables: Rows) -> None:
    """Writes into a new result what is needed to compare the next one with it."""
    kept = [
        {name: table[name] for name in ("name", "rows", "columns", "problem") if name in table}
        for table in tables
    ]
    write_whole(_file(folder, stage), json.dumps({"version": version, "tables": kept}))


def earlier(result: Path, stage: str, what: str) -> Earlier | None:
    """The tables of the published result, if there is one that kept them."""
    file = _file(result, stage)
    try:
        kept = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        logging.getLogger(__name__).warning("Nothing is compared: %s: %s", file, error)
        return None
    return Earlier(result, what, kept["version"], kept["tables"])


def versionless(name: str, version: str) -> str:
    """The name of a file or table without the version that a build may have put in it."""
    return name.replace(version, "{version}") if len(version) > 1 else name


def newest(results: Iterable[Path], stage: str) -> Earlier | None:
    """The one that was published last, of a product's builds that kept their tables."""
    kept = [result for result in results if _file(result, stage).is_file()]
    last = max(kept, key=lambda result: result.lstat().st_mtime_ns, default=None)
    return earlier(last, stage, f"the build of {last.parent.name!r}") if last else None


def version_before(result: Path, stage: str) -> Earlier | None:
    """The published version of the same template that comes before, numbers in their order."""
    others = [
        other
        for other in (result.parent.iterdir() if result.parent.is_dir() else ())
        if other.is_symlink()
        and _order(other.name) < _order(result.name)
        and _file(other, stage).is_file()
    ]
    last = max(others, key=lambda other: _order(other.name), default=None)
    return earlier(last, stage, f"version {last.name}") if last else None


def _order(version: str) -> list[tuple[int, str]]:
    parts = re.findall(r"\d+|\D+", version)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _file(folder: Path, stage: str) -> Path:
    return folder / f"{stage}.tables.json"
