"""Load: pull the datasets of a lock file and put each where the recipe wants it."""

import json
import os
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import duckdb

from dcpy.configuration import logger
from dcpy.connectors.edm import recipes
from dcpy.lifecycle import config
from dcpy.lifecycle.builds import plan
from dcpy.lifecycle.builds.models import ImportedDataset, LoadResult, Recipe

LIFECYCLE_STAGE = "builds.load"


class CachedEntityType(StrEnum):
    view = "view"
    copy = "copy"


def load_source_data_from_resolved_recipe(
    recipe_or_path: Recipe | Path,
    clear_pg_schema: bool = True,
    cache_schema: str | None = None,
    cached_entity_type: CachedEntityType | None = None,
    target_schema: str | None = None,
    _write_metadata_file: bool = True,
) -> LoadResult:
    """Load what a lock file names; the arguments that concern Postgres change nothing here."""
    lock_file = recipe_or_path if isinstance(recipe_or_path, Path) else None
    if isinstance(recipe_or_path, Path):
        recipe = plan.recipe_from_yaml(recipe_or_path)
    else:
        recipe = recipe_or_path
    if "BUILD_ENV_OUTPUT_DIR" not in os.environ:
        build_dir = config.get_build_dir(recipe["product"], recipe["version"])
        build_dir.mkdir(parents=True, exist_ok=True)
        os.environ["BUILD_ENV_OUTPUT_DIR"] = str(build_dir)
    output_dir = Path(os.environ["BUILD_ENV_OUTPUT_DIR"])
    if lock_file:
        plan.write_source_data_versions(lock_file)

    schema = target_schema or os.environ["BUILD_ENGINE_SCHEMA"]
    database = output_dir / f"{recipe['product']}_{recipe['version']}.duckdb"
    logger.info(f"Loading source data for {recipe['name']} build named {schema}")
    result = LoadResult(recipe["name"], schema, {})
    _refuse_other_destinations(recipe)
    for dataset in recipe["inputs"]["datasets"]:
        imported = _import_dataset(dataset, database, schema)
        result.datasets.setdefault(imported.id, {})[imported.version] = imported

    if lock_file and _write_metadata_file:
        metadata = {
            "timestamp": datetime.now().astimezone().isoformat(),
            "commit": None,
            "run_url": None,
            "version": recipe["version"],
            "draft_revision_name": None,
            "recipe": recipe,
            "load_result": result.model_dump(mode="json"),
        }
        text = json.dumps(metadata, indent=4)
        (lock_file.parent / "build_metadata.json").write_text(text, encoding="utf-8")
    return result


def _refuse_other_destinations(recipe: Recipe) -> None:
    for dataset in recipe["inputs"]["datasets"]:
        if dataset["destination"] not in ("duckdb", "file"):
            raise ConnectionError(
                f"Dataset '{dataset['id']}' goes to '{dataset['destination']}', and the sample has"
                " no Postgres and no pandas: give it destination duckdb or file"
            )


def _import_dataset(dataset: dict[str, Any], database: Path, schema: str) -> ImportedDataset:
    name, version, file_type = dataset["id"], dataset["version"], dataset["file_type"]
    assert version and version != "latest", f"{name} has no resolved version"
    assert file_type, f"{name} has no resolved file type"
    logger.info(f"Pulling {name} to destination: {dataset['destination']}")
    folder = config.local_data_path_for_stage(LIFECYCLE_STAGE) / name / version
    path = recipes.pull(name, version, file_type, folder)
    destination: str | Path = path
    if dataset["destination"] == "duckdb":
        destination = _load_into_duckdb(dataset, path, database, schema)
        logger.info(f"Finished inserting {name} into {database.name} as {destination}")
    return ImportedDataset(name, version, file_type, dataset["destination"], destination)


def _load_into_duckdb(dataset: dict[str, Any], path: Path, database: Path, schema: str) -> str:
    readers = {"csv": "read_csv_auto", "parquet": "read_parquet"}
    if dataset["file_type"] not in readers:
        raise ValueError(f"{dataset['id']}: cannot load {dataset['file_type']} into DuckDB")
    schema = _sql_name(schema)
    table = _sql_name(dataset["import_as"] or dataset["id"])
    with duckdb.connect(str(database)) as connection:
        connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
        connection.execute(
            f'CREATE OR REPLACE TABLE "{schema}"."{table}" AS'
            " SELECT row_number() OVER () AS ogc_fid, *, ?::VARCHAR AS data_library_version"
            f" FROM {readers[dataset['file_type']]}(?)",
            [dataset["version"], str(path)],
        )
    return f"{schema}.{table}"


def _sql_name(name: str) -> str:
    return name.strip().translate(str.maketrans("-' ", "___")).lower()
