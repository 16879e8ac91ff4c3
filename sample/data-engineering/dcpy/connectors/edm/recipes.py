"""The archive of ingested datasets: `edm-recipes/datasets/<id>/<version>/` in the data folder.

A dataset that was not pushed there is found where ingest left it on this machine, in
`ingest/<template>/<version>/<id>/`.
"""

import json
import os
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from dcpy.configuration import RECIPES_BUCKET, logger
from dcpy.lifecycle import config

ARCHIVE = config.DATA_DIR / RECIPES_BUCKET / "datasets"
EXTENSIONS = {"parquet": "parquet", "csv": "csv", "pg_dump": "sql", "xlsx": "xlsx"}


class EndpointConnectionError(ConnectionError):
    """A place that the sample cannot reach."""


def read_config(dataset_id: str, version: str) -> dict[str, Any]:
    """Read what is known of one version of a dataset; "latest" is a version."""
    return _read_json(find_folder(dataset_id, version) / "config.json")


def find_folder(dataset_id: str, version: str) -> Path:
    """Find the folder that holds one version of a dataset; "latest" is a version."""
    archived = ARCHIVE / dataset_id / version
    if (archived / "config.json").exists():
        return archived
    ingested = sorted(_ingested(dataset_id), key=lambda found: found[0])
    matching = [folder for _, found, folder in ingested if version in ("latest", found)]
    if not matching:
        raise _not_found(dataset_id, version, "config.json")
    return matching[-1]


def pull(dataset_id: str, version: str, file_type: str, destination: Path) -> Path:
    """Copy the data of one version of a dataset into a folder."""
    filename = f"{dataset_id}.{EXTENSIONS.get(file_type, file_type)}"
    source = find_folder(dataset_id, version) / filename
    if not source.exists():
        raise _not_found(dataset_id, version, filename)
    destination.mkdir(parents=True, exist_ok=True)
    partial = destination / f".{os.getpid()}.{filename}"
    shutil.copy(source, partial)
    return partial.replace(destination / filename).absolute()


def push(staged: Path, version: str, *, latest: bool, overwrite: bool) -> None:
    """Archive a staged dataset folder, unless the same data is there under that version."""
    dataset_id = staged.name
    filename = f"{dataset_id}.parquet"
    archived = ARCHIVE / dataset_id / version
    if archived.exists() and not overwrite:
        if _rows(archived / filename) != _rows(staged / filename):
            raise FileExistsError(
                f"Dataset '{dataset_id}' is archived as version '{version}' with other data."
            )
        logger.info(f"{dataset_id} {version} is archived already, with the same data")
        return
    for target in [archived, ARCHIVE / dataset_id / "latest"] if latest else [archived]:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(staged / filename, target)
        shutil.copy(staged / "config.json", target)
    logger.info(f"Archived {dataset_id} {version} in {archived}")


def _ingested(dataset_id: str) -> Iterator[tuple[datetime, str, Path]]:
    root = config.local_data_path_for_stage("ingest")
    for config_file in root.glob(f"*/*/{dataset_id}/config.json"):
        if not any(part.startswith(".") for part in config_file.relative_to(root).parts):
            found = _read_json(config_file)
            timestamp = found["transformation"]["run_details"]["timestamp"]
            yield datetime.fromisoformat(timestamp), found["version"], config_file.parent


def _read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _not_found(dataset_id: str, version: str, filename: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"Source path s3://{RECIPES_BUCKET}/datasets/{dataset_id}/{version}/{filename} does not"
        f" exist. (In the sample that is a folder, {ARCHIVE}; what ingest wrote counts too.)"
    )


def _rows(parquet: Path) -> tuple[list[str], list[tuple[Any, ...]]]:
    with duckdb.connect() as connection:
        relation = connection.read_parquet(str(parquet))
        return relation.columns, relation.fetchall()
