"""Ingest: from a template to parquet files that builds can load."""

import json
import os
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from dcpy.configuration import INGEST_DEF_DIR, logger
from dcpy.connectors.edm import recipes
from dcpy.fields import lean
from dcpy.lifecycle import config
from dcpy.lifecycle.ingest import plan, transform
from dcpy.lifecycle.ingest.models import Column, DatasetAttributes, IngestedDataset

INGEST_STAGING_DIR = config.local_data_path_for_stage("ingest") / "staging"


def ingest(
    dataset_id: str,
    version: str | None = None,
    *,
    staging_dir: Path = INGEST_STAGING_DIR,
    mode: str | None = None,
    datasets_filter: list[str] | None = None,
    latest: bool = False,
    push: bool = False,
    output_csv: bool = False,
    definition_dir: Path = INGEST_DEF_DIR,
    local_file_path: Path | None = None,
    overwrite_okay: bool = False,
) -> list[IngestedDataset]:
    """Run one template: read its source, process each of its datasets, archive them if asked.

    Everything is written below `staging_dir`, which is emptied first.
    """
    if errors := plan.find_errors(dataset_id, definition_dir):
        raise ValueError(errors)
    if staging_dir.exists():
        logger.warning(f"Emptying {staging_dir}")
        shutil.rmtree(staging_dir)
    staging_dir.mkdir(parents=True)

    definition = plan.resolve_definition(
        dataset_id, version, definition_dir=definition_dir, local_file_path=local_file_path
    )
    _write_json(staging_dir / "definition.lock.json", definition)
    source = _extract(definition, staging_dir)
    _write_json(staging_dir / "datasource.json", {**source, "datasets": definition["datasets"]})

    ingested = []
    for dataset in _choose(definition["datasets"], datasets_filter):
        logger.info(f"Transforming dataset {dataset['id']}")
        (staging_dir / dataset["id"]).mkdir()
        result = _process(dataset, source, staging_dir, mode, output_csv)
        _write_json(staging_dir / result.id / "config.json", result.model_dump())
        ingested.append(result)
    if push:
        for result in ingested:
            folder = staging_dir / result.id
            recipes.push(folder, result.version, latest=latest, overwrite=overwrite_okay)
    return ingested


def _extract(definition: plan.Definition, staging_dir: Path) -> dict[str, Any]:
    source = definition["source"]
    if source["type"] != "local_file":
        raise recipes.EndpointConnectionError(
            f"Could not connect to '{source['key']}' ({source['type']}): the sample reads local"
            " files only. Give it a local_file source, or the file itself as local_file_path."
        )
    logger.info(f"Extracting {source['key']} to {staging_dir}")
    raw_file = Path(shutil.copy(source["key"], staging_dir))
    timestamp = datetime.now().astimezone().isoformat()
    runner = {"username": os.environ.get("USER", "unknown")}
    return {
        **{name: value for name, value in definition.items() if name != "datasets"},
        "raw_filename": raw_file.name,
        "timestamp": timestamp,
        "run_details": {"type": "manual", "runner": runner, "timestamp": timestamp},
    }


def _choose(datasets: list[dict[str, Any]], wanted: list[str] | None) -> list[dict[str, Any]]:
    names = [dataset["id"] for dataset in datasets]
    if unknown := set(wanted or []) - set(names):
        raise ValueError(f"Datasets {sorted(unknown)} not found. There are {names}")
    return [dataset for dataset in datasets if dataset["id"] in (wanted or names)]


def _process(
    dataset: dict[str, Any],
    source: dict[str, Any],
    staging_dir: Path,
    mode: str | None,
    output_csv: bool,
) -> IngestedDataset:
    folder = staging_dir / dataset["id"]
    init, output = folder / "_init.parquet", folder / dataset["id"]
    steps = transform.choose_steps(dataset["processing_steps"], mode)
    columns = [Column(**column) for column in dataset["columns"]]
    with duckdb.connect() as connection:
        raw_file = staging_dir / source["raw_filename"]
        transform.to_parquet(connection, dataset["file_format"], raw_file, init)
        relation, summaries = transform.process(connection.read_parquet(str(init)), steps)
        if missing := [each.id for each in columns if each.id not in relation.columns]:
            raise ValueError(f"Columns {missing} are expected; there are {relation.columns}")
        relation.write_parquet(f"{output}.parquet")
        if output_csv:
            relation.write_csv(f"{output}.csv")
    return IngestedDataset(
        id=dataset["id"],
        version=source["version"] or f"{datetime.fromisoformat(source['timestamp']):%Y%m%d}",
        attributes=DatasetAttributes(**dataset["attributes"]),
        transformation={
            "file_format": dataset["file_format"],
            "processing_mode": mode,
            "processing_steps": steps,
            "processing_steps_summaries": summaries,
            "run_details": source["run_details"],
        },
        columns=columns,
        source=source,
        crs=dataset["target_crs"],
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(lean(content), indent=4), encoding="utf-8")
