"""The values of Dagster's Helm charts that serve every location as a deployment of its own.

Source of the keys: the values.yaml of the charts `dagster` and `dagster-user-deployments`.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from orchestration import OrchestrationError
from orchestration.catalog.kubernetes import Kubernetes
from orchestration.catalog.names import LAUNCHES_TAG, OPERATIONS, location_names
from orchestration.catalog.products import Product, ProductsFile

FOLDER = Path("kubernetes")
VALUES = FOLDER / "values.yaml"
PORT = 4000
# Where the image has the project, its results and the checkout: see the Dockerfile.
PROJECT, DATA, CHECKOUT = "/opt/orchestration", "/data", "/checkout"
MAX_LABEL = 50


def dns_label(name: str) -> str:
    """A name that a cluster takes for a service, another one for every other name."""
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not re.match("[a-z]", label):
        label = f"l-{label}".rstrip("-")
    if label.replace("-", "_") != name or len(label) > MAX_LABEL:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        label = f"{label[:MAX_LABEL].rstrip('-')}-{digest}"
    return label


def release_of(owner: str) -> Path:
    """The file with the values of the owner's own release."""
    return FOLDER / f"{dns_label(owner.removeprefix('team:'))}-release.yaml"


def owners_of(file: ProductsFile) -> list[str]:
    """All who own a product, each once."""
    return list(dict.fromkeys(owner for product in file.products for owner in product.owners))


def kubernetes_files(file: ProductsFile, owners: Iterable[str]) -> dict[Path, dict[str, Any]]:
    """The values of the main release, and of one for each of these owners, by their files.

    Raises OrchestrationError where products.yml does not say what they take.
    """
    if not file.kubernetes:
        raise OrchestrationError(
            "products.yml has no `kubernetes`, which says what image and what database a cluster "
            "uses: kubernetes: {image: registry/data-products:2026.1, postgresql: {host: db}}."
        )
    releases = {owner: release_of(owner) for owner in owners}
    products: dict[str, Product | None] = {product.slug: product for product in file.products}
    names = [*location_names(list(products)), *([OPERATIONS] if file.notify else [])]
    placed: dict[Path, list[str]] = {VALUES: [], **{path: [] for path in releases.values()}}
    for name in names:
        product = products.get(name)
        own = [releases[o] for o in (product.owners if product else ()) if o in releases]
        placed[own[0] if own else VALUES].append(name)
    deployments = {
        path: [_deployment(name, products.get(name), file.kubernetes) for name in located]
        for path, located in placed.items()
    }
    return {
        path: _main_release(names, deployments[path], file.kubernetes)
        if path == VALUES
        else _own_release(deployments[path], file.kubernetes)
        for path in placed
    }


def text_of(values: Mapping[str, Any]) -> str:
    """The values as YAML."""
    return yaml.safe_dump(dict(values), allow_unicode=True, sort_keys=False, width=100)


def _main_release(
    names: Sequence[str], deployments: Sequence[Mapping[str, Any]], kubernetes: Kubernetes
) -> dict[str, Any]:
    database = kubernetes.postgresql
    return {
        "global": {"postgresqlSecretName": database.secret},
        "generatePostgresqlPasswordSecret": False,
        "postgresql": {
            "enabled": False,
            "postgresqlHost": database.host,
            "postgresqlDatabase": database.database,
            "postgresqlUsername": database.username,
            # SQLAlchemy 2.1 takes another driver where none is named.
            "postgresqlScheme": "postgresql+psycopg2",
            "service": {"port": database.port},
        },
        "dagster-user-deployments": {
            "enabled": True,
            "enableSubchart": bool(deployments),
            "deployments": deployments,
        },
        "dagsterWebserver": {
            # By their locations' names, and those of other releases, too.
            "workspace": {
                "enabled": True,
                "servers": [
                    {"host": dns_label(name), "port": PORT, "name": name} for name in names
                ],
            }
        },
        "runLauncher": {
            "type": "K8sRunLauncher",
            "config": {"k8sRunLauncher": {"imagePullPolicy": "IfNotPresent"}},
        },
        # Every product and every ingest template is a pool: one run of it at a time. Of runs that
        # wait for others, which they launch, there is one.
        "concurrency": {
            "enabled": True,
            "pools": {"granularity": "run", "defaultLimit": 1},
            "runs": {"tagConcurrencyLimits": [{"key": LAUNCHES_TAG, "limit": 1}]},
        },
        "scheduler": {
            "type": "DagsterDaemonScheduler",
            "config": {"daemonScheduler": {"maxTickRetries": 5}},
        },
        "dagsterDaemon": {
            "runMonitoring": {
                "enabled": True,
                "pollIntervalSeconds": 15,
                "freeSlotsAfterRunEndSeconds": 30,
            }
        },
        "telemetry": {"enabled": False},
    }


def _own_release(
    deployments: Sequence[Mapping[str, Any]], kubernetes: Kubernetes
) -> dict[str, Any]:
    return {"postgresqlSecretName": kubernetes.postgresql.secret, "deployments": deployments}


def _deployment(name: str, product: Product | None, kubernetes: Kubernetes) -> dict[str, Any]:
    label = dns_label(name)
    repository, _, tag = kubernetes.image.rpartition(":")
    volumes: list[dict[str, Any]] = [
        {"name": "lifecycle", "persistentVolumeClaim": {"claimName": kubernetes.claim}}
    ]
    mounts: list[dict[str, Any]] = [{"name": "lifecycle", "mountPath": DATA}]
    if product and product.env_file:
        # A file, as everywhere: only the product's own processes get what is in it.
        volumes.append({"name": "env-file", "secret": {"secretName": f"{label}-env"}})
        mounts.append(
            {
                "name": "env-file",
                "mountPath": str(Path(CHECKOUT, product.env_file)),
                "subPath": "env",
                "readOnly": True,
            }
        )
    resources = product.resources.model_dump(exclude_none=True) if product else {}
    return {
        "name": label,
        "image": {"repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"},
        "dagsterApiGrpcArgs": ["-m", f"orchestration.locations.{name}", "-d", PROJECT],
        "port": PORT,
        "includeConfigInLaunchedRuns": {"enabled": True},
        "env": [
            {"name": variable, "value": value}
            for variable, value in (product.env if product else {}).items()
        ],
        "envSecrets": [{"name": secret} for secret in kubernetes.secrets],
        "volumes": volumes,
        "volumeMounts": mounts,
        "resources": {part: amounts for part, amounts in resources.items() if amounts},
    }
