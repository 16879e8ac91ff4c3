"""From a template's file to a definition in which everything is settled."""

import inspect
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2 import meta

from dcpy.fields import REQUIRED, fill
from dcpy.lifecycle.ingest.transform import STEPS

Definition = dict[str, Any]

TEMPLATE = {"id": REQUIRED, "attributes": REQUIRED, "acl": None, "depends_on": []}
ATTRIBUTES = {"name": None, "description": None, "url": None, "custom": None}
PROCESSING = {"target_crs": None, "file_format": REQUIRED, "processing_steps": []}
COLUMNS: dict[str, Any] = {"columns": [], "checks": None}
INGESTION = {**PROCESSING, "source": REQUIRED}
ONE_DATASET = {**TEMPLATE, **COLUMNS, "ingestion": REQUIRED}
MANY_DATASETS = {**TEMPLATE, "source": REQUIRED, "dataset_defaults": {}, "datasets": REQUIRED}
DATASET = {**PROCESSING, **COLUMNS, "id": REQUIRED, "attributes": REQUIRED, "acl": None}
STEP = {"name": REQUIRED, "args": {}, "mode": None}

SOURCE_KEYS = ["key", "path", "url", "endpoint", "name", "uid", "dataset", "product"]
SCRAPED = ["foodbankny", "myschools_nyc", "qpl", "uscourts", "usps_locations"]
SERVICES = ["api", "arcgis_feature_server", "axway", "bytes", "file_download", "ginger", "socrata"]
PUBLISHED = [f"edm.publishing.{name}" for name in ("builds", "drafts", "gis", "plan", "published")]
ARCHIVED = ["edm.private", "edm.recipes.datasets", "edm.recipes.raw_datasets", "s3"]
SOURCE_TYPES = ["local_file", *SCRAPED, *SERVICES, *PUBLISHED, *ARCHIVED]


def resolve_definition(
    dataset_id: str,
    version: str | None = None,
    *,
    definition_dir: Path,
    local_file_path: Path | None = None,
) -> Definition:
    """Read a template and settle its version, its source and what each dataset is made of."""
    given = _read_yaml(definition_dir / f"{dataset_id}.yml", version)
    if isinstance(given, dict) and "datasets" in given:
        template = fill(given, MANY_DATASETS, dataset_id)
        source = template["source"]
        datasets = [_merge(template["dataset_defaults"], each) for each in template["datasets"]]
    else:
        template = fill(given, ONE_DATASET, dataset_id)
        ingestion = fill(template["ingestion"], INGESTION, "ingestion")
        source = ingestion.pop("source")
        # The template's columns are not carried on: neither does dcpy.
        datasets = [{name: template[name] for name in ("id", "acl", "attributes")} | ingestion]
    if local_file_path:
        source = {"type": "local_file", "path": str(local_file_path)}
    return {
        "id": template["id"],
        "acl": template["acl"],
        "version": version,
        "attributes": fill(template["attributes"], ATTRIBUTES, "attributes"),
        "source": _name_key(source),
        "datasets": [_fill_dataset(dataset) for dataset in datasets],
    }


def find_errors(dataset_id: str, definition_dir: Path) -> dict[str, Any]:
    """Say what is wrong with a template, by subject; nothing is, if the answer is empty."""
    try:
        definition = resolve_definition(dataset_id, "version", definition_dir=definition_dir)
    except ValueError as error:
        return {"malformatted yml": str(error)}
    errors: dict[str, Any] = {}
    kind = definition["source"]["type"]
    if kind not in SOURCE_TYPES:
        errors["source"] = {"invalid source type": f"'{kind}' is not registered"}
    for dataset in definition["datasets"]:
        for step in dataset["processing_steps"]:
            if problem := _find_step_error(step):
                steps = errors.setdefault("processing steps", {})
                steps.setdefault(dataset["id"], {})[step["name"]] = problem
    return errors


def _find_step_error(step: dict[str, Any]) -> str | None:
    if step["name"] not in STEPS:
        return f"Function not found. The sample has {', '.join(STEPS)}"
    try:
        inspect.signature(STEPS[step["name"]]).bind(None, **step["args"])
    except TypeError as error:
        return str(error)
    return None


def _read_yaml(path: Path, version: str | None) -> Any:
    text = path.read_text(encoding="utf-8")
    variables = meta.find_undeclared_variables(jinja2.Environment().parse(text))
    if variables - {"version"}:
        raise ValueError(f"A template may use 'version' only, not {sorted(variables)}")
    return yaml.safe_load(jinja2.Template(text).render(version=version) if variables else text)


def _name_key(source: Any) -> dict[str, Any]:
    given = source if isinstance(source, dict) else {}
    name = next((name for name in SOURCE_KEYS if name in given), None)
    if name is None or "type" not in given:
        raise ValueError(f"source: needs a type and one of {', '.join(SOURCE_KEYS)}")
    rest = {key: value for key, value in given.items() if key != name}
    return {**rest, "key": str(given[name])}


def _fill_dataset(given: dict[str, Any]) -> dict[str, Any]:
    dataset = fill(given, DATASET, "dataset")
    dataset["attributes"] = fill(dataset["attributes"], ATTRIBUTES, "attributes")
    dataset["processing_steps"] = [fill(step, STEP, "step") for step in dataset["processing_steps"]]
    return dataset


def _merge(defaults: Any, given: Any) -> Any:
    if not isinstance(defaults, dict) or not isinstance(given, dict):
        return given
    merged = {name: _merge(defaults.get(name), value) for name, value in given.items()}
    return {**defaults, **merged}
