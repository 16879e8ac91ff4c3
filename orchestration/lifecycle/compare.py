"""How two results differ, file by file and row by row, as `steps/compare.py` finds out."""

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestration import OrchestrationError
from orchestration.lifecycle.environment import (
    STEPS_FOLDER,
    base_environment,
    problem_with_interpreter,
)
from orchestration.lifecycle.outcomes import Rows
from orchestration.lifecycle.tables import earlier, versionless


def compare(
    old: Path,
    new: Path,
    stage: str,
    key: Sequence[str],
    *,
    python: tuple[Path, bool],
    root: Path,
    lifecycle: Path,
) -> Rows:
    """How each file of the result `new` differs from that of `old`, and each of its tables.

    Rows are compared by `key`, the names of columns, where a table has them. Raises
    OrchestrationError where they cannot be compared.
    """
    interpreter, is_chosen = python
    if problem := problem_with_interpreter(interpreter):
        raise OrchestrationError(problem)
    with tempfile.TemporaryDirectory() as folder:
        request, report = Path(folder, "parameters.json"), Path(folder, "report.json")
        parameters = {
            "stage": "compare",
            "subject": "compare",
            "checkout": str(root),
            "python_is_chosen": is_chosen,
            "old": str(old.resolve()),
            "new": str(new.resolve()),
            "key": list(key),
            "files": _pairs(old, new, stage),
        }
        request.write_text(json.dumps(parameters), encoding="utf-8")
        done = subprocess.run(
            [interpreter, STEPS_FOLDER / "compare.py", request, report],
            env=base_environment(root=root, lifecycle=lifecycle, python=interpreter),
            capture_output=True,
            text=True,
            check=False,
        )
        found: Mapping[str, Any] = json.loads(report.read_bytes()) if report.exists() else {}
    if "files" not in found:
        raise OrchestrationError(str(found.get("problem", done.stderr.strip())))
    files: Rows = found["files"]
    return files


def _pairs(old: Path, new: Path, stage: str) -> list[tuple[str, str | None, str | None]]:
    """What each file is called, in the old result and in the new one."""
    before, after = (_files(folder, stage) for folder in (old, new))
    return [
        (after.get(name) or before[name], before.get(name), after.get(name))
        for name in sorted({*before, *after})
    ]


def _files(folder: Path, stage: str) -> dict[str, str]:
    """The result's files, by their names without its version."""
    kept = earlier(folder, stage, "")
    own = {f"{stage}.log", f"{stage}.tables.json"}
    place = folder.resolve()
    names = [str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()]
    version = kept.version if kept else ""
    return {versionless(name, version): name for name in names if name not in own}
