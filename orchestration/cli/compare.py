"""`compare`: how one version of a product or of an ingest template differs from another."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from orchestration import OrchestrationError
from orchestration.catalog.checkout import checkout_root
from orchestration.catalog.names import INGEST
from orchestration.cli.options import names_option, partitions, selections

EPILOG = """\b
Examples:
  python3 -m orchestration compare libraries 2026.1-1_first 2026.2-1_first
  python3 -m orchestration compare libraries main nightly_qa --key system,name
  python3 -m orchestration compare ingest/bpl_libraries 2025 2026 --json
"""
MARKS = {"added": "+", "removed": "-", "changed": "~"}


@click.command("compare", short_help="Show how two versions differ.", epilog=EPILOG)
@click.argument("selection", metavar="PRODUCT", shell_complete=selections)
@click.argument("old", shell_complete=partitions)
@click.argument("new", shell_complete=partitions)
@names_option(
    "--key",
    metavar="NAME,…",
    help="The columns by which a row is known again. Default: rows are compared as a whole.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON.")
def command(selection: str, old: str, new: str, key: list[str], as_json: bool) -> int:
    """Show how the partition NEW differs from OLD: files, columns, and rows.

    PRODUCT is a product, whose builds are compared, <product>/load, or ingest/<template id>.
    """
    files = _differences(selection, old, new, key)
    if as_json:
        found = {"selection": selection, "old": old, "new": new, "files": files}
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print(f"{selection}: {old} → {new}")
        for line in _lines(files):
            print(line)
    return 0


def _differences(selection: str, old: str, new: str, key: list[str]) -> Any:
    from orchestration.catalog.partition_keys import check_key
    from orchestration.cli.selection import Catalog
    from orchestration.lifecycle.compare import compare
    from orchestration.lifecycle.environment import dcpy_python
    from orchestration.lifecycle.results import build_folder, ingest_result, lifecycle_dir

    root, lifecycle = checkout_root(), lifecycle_dir()
    catalog = Catalog(root)
    chosen = catalog.select(selection)
    stage = "build" if chosen.is_whole else chosen.assets[0]
    if chosen.location == INGEST:
        stage, python = INGEST, None
        folders = [ingest_result(lifecycle, chosen.assets[0], check_key(v)) for v in (old, new)]
    else:
        python = next(p.python for p in catalog.products if p.slug == chosen.location)
        folders = [
            build_folder(lifecycle, chosen.location, check_key(v)) / stage for v in (old, new)
        ]
    for folder, version in zip(folders, (old, new), strict=True):
        if not folder.is_dir():
            raise OrchestrationError(
                f"There is no result of {selection} for {version!r}: {folder} does not exist. "
                f"There are: {', '.join(_versions_beside(folder, stage)) or 'none'}."
            )
    before, after = folders
    return compare(
        before, after, stage, key, python=dcpy_python(python), root=root, lifecycle=lifecycle
    )


def _versions_beside(folder: Path, stage: str) -> list[str]:
    """The versions, or partitions, that have a result where `folder` is one that has not."""
    if stage == INGEST:
        return sorted(each.name for each in folder.parent.glob("[!.]*"))
    return sorted(each.parent.name for each in folder.parent.parent.glob(f"[!.]*/{stage}"))


def _lines(files: list[Mapping[str, Any]]) -> Iterator[str]:
    for file in files:
        if file["change"] != "same":
            yield f"{file['name']}: {', '.join(_said(file))}"
            yield from (f"  {line}" for line in _details(file))
    same = [file for file in files if file["change"] == "same"]
    if same:
        yield f"{len(same)} {'is' if len(same) == 1 else 'are'} the same."


def _said(file: Mapping[str, Any]) -> Iterator[str]:
    if file["change"] == "unreadable":
        yield f"cannot be read: {file['problem']}"
        return
    old, new = file.get("rows") or file["bytes"]
    what = "rows" if file.get("rows") else "bytes"
    if file["change"] in ("added", "removed"):
        yield f"{file['change']}, {old if new is None else new} {what}"
        return
    yield f"{old} → {new} {what}" if "rows" in file else f"{old} → {new} bytes, other content"
    for change in MARKS:
        if file.get(change):
            yield f"{file[change]} {change}"


def _details(file: Mapping[str, Any]) -> Iterator[str]:
    columns = [f"+{name}" for name in file.get("columns_added", ())]
    columns += [f"-{name}" for name in file.get("columns_removed", ())]
    types = file.get("types_changed", {})
    columns += [f"{name} {old} → {new}" for name, (old, new) in types.items()]
    if columns:
        yield f"columns: {', '.join(columns)}"
    if changed := file.get("changed_columns"):
        yield f"changed: {', '.join(f'{name} in {count}' for name, count in changed.items())}"
    for change, mark in MARKS.items():
        for key in file.get(f"{change}_keys", ()):
            yield f"{mark} {', '.join(key)}"
        if (shown := len(file.get(f"{change}_keys", ()))) and file[change] > shown:
            yield f"{mark} and {file[change] - shown} more"
    for when, count in zip(("old", "new"), file.get("repeated_keys", ()), strict=False):
        if count:
            yield f"the key is not unique: {count} rows of {when} repeat one"
