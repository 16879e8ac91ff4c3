"""The values for a cluster, without one; with CHART=<Dagster's chart> helm renders them, too."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster_k8s.container_context import K8sContainerContext
from hypothesis import given
from hypothesis import strategies as st

from orchestration import OrchestrationError
from orchestration.catalog.names import slug_of
from orchestration.catalog.products import ProductsFile, read_products_file
from orchestration.generator.generate import Change, pending_changes, write
from orchestration.generator.kubernetes import VALUES, dns_label, kubernetes_files, release_of
from orchestration.generator.render import WORKSPACE, render
from orchestration.instance.home import CONFIGURATION
from tests.harness.processes import PATIENCE

PRODUCTS = """\
defaults: {owners: ["team:planning"]}
products:
- id: "20 % of Zoning_tax"
  build_command: make
- id: colp
  build_command: make
  owners: ["team:housing"]
  env: {BUILD_ENGINE_DB: db-colp}
  env_file: secrets/colp.env
  resources: {requests: {cpu: 500m, memory: 1Gi}, limits: {memory: 4Gi}}
- id: pluto
  build_command: make
  owners: ["team:housing", "someone@example.org"]
kubernetes:
  image: registry.example.org:5000/data-products:2026.1
  postgresql: {host: db.internal, username: someone}
  secrets: [connections]
"""
# Source: the charts' values.yaml.
DEPLOYMENT_KEYS = {
    "name",
    "image",
    "dagsterApiGrpcArgs",
    "port",
    "includeConfigInLaunchedRuns",
    "env",
    "envSecrets",
    "volumes",
    "volumeMounts",
    "resources",
}
CHART = os.environ.get("CHART")


@pytest.fixture
def file(tmp_path: Path) -> ProductsFile:
    path = tmp_path / "products.yml"
    path.write_text(PRODUCTS)
    return read_products_file(path)


@pytest.fixture
def nycs(nyc: Path, file: ProductsFile) -> ProductsFile:
    """The team's own list of products, one of them of another owner, and a cluster for them."""
    theirs = read_products_file(nyc / "products" / "products.yml").products
    housing = theirs[0].model_copy(update={"owners": ("team:housing",)})
    return file.model_copy(update={"products": (housing, *theirs[1:])})


def main_release(file: ProductsFile, *owners: str) -> dict[str, Any]:
    return kubernetes_files(file, owners)[VALUES]


def deployments_of(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    listed = values.get("dagster-user-deployments", values)["deployments"]
    return {deployment["name"]: deployment for deployment in listed}


def test_every_location_is_a_deployment_of_its_own(file: ProductsFile) -> None:
    values = main_release(file)
    deployments = deployments_of(values)
    workspace = yaml.safe_load(render(file)[WORKSPACE])["load_from"]
    served = {
        server["name"]: (server["host"], server["port"])
        for server in values["dagsterWebserver"]["workspace"]["servers"]
    }
    assert list(served) == [entry["python_module"]["location_name"] for entry in workspace]
    assert served == {
        re.sub(r".*\.", "", each["dagsterApiGrpcArgs"][1]): (name, each["port"])
        for name, each in deployments.items()
    }
    for entry in workspace:
        module = entry["python_module"]
        deployment = deployments[served[module["location_name"]][0]]
        assert deployment["dagsterApiGrpcArgs"][:2] == ["-m", module["module_name"]]
        assert set(deployment) == DEPLOYMENT_KEYS
        assert deployment["image"]["repository"] == "registry.example.org:5000/data-products"
        assert deployment["image"]["tag"] == "2026.1"
    assert values["postgresql"]["postgresqlHost"] == "db.internal"


def test_a_cluster_has_the_limits_of_one_machine(file: ProductsFile) -> None:
    limits = yaml.safe_load(CONFIGURATION.read_text())["concurrency"]
    # The chart leaves them out unless they are enabled.
    assert main_release(file)["concurrency"] == {
        "enabled": True,
        "pools": {
            "granularity": limits["pools"]["granularity"],
            "defaultLimit": limits["pools"]["default_limit"],
        },
        "runs": {"tagConcurrencyLimits": limits["runs"]["tag_concurrency_limits"]},
    }


def test_a_product_has_its_variables_its_secrets_and_its_resources(file: ProductsFile) -> None:
    deployments = deployments_of(main_release(file))
    colp, pluto = deployments["colp"], deployments["pluto"]
    assert colp["env"] == [{"name": "BUILD_ENGINE_DB", "value": "db-colp"}]
    assert colp["resources"] == {
        "requests": {"cpu": "500m", "memory": "1Gi"},
        "limits": {"memory": "4Gi"},
    }
    secret = {volume["name"]: volume.get("secret") for volume in colp["volumes"]}["env-file"]
    assert secret == {"secretName": "colp-env"}
    [mount] = [mount for mount in colp["volumeMounts"] if mount["name"] == "env-file"]
    assert mount["mountPath"] == "/checkout/secrets/colp.env"
    assert pluto["env"] == [] and pluto["resources"] == {}
    assert pluto["envSecrets"] == colp["envSecrets"] == [{"name": "connections"}]
    # One machine asks for nothing of this, and loads nothing anew when it changes.
    assert not any("resources" in text for text in render(file).values())


def test_a_teams_own_release_is_served_by_the_main_one(file: ProductsFile) -> None:
    owner = "team:housing"
    files = kubernetes_files(file, [owner])
    own, main = deployments_of(files[release_of(owner)]), deployments_of(files[VALUES])
    assert set(own) == {"colp", "pluto"}
    assert set(main) == set(deployments_of(main_release(file))) - set(own)
    workspace = "dagsterWebserver"
    assert files[VALUES][workspace] == main_release(file)[workspace]


@given(st.lists(st.text(min_size=1, max_size=90).map(slug_of), unique=True, max_size=8))
def test_names_are_what_a_cluster_takes_and_no_two_are_one(slugs: list[str]) -> None:
    labels = [dns_label(slug) for slug in [*slugs, "a_b", "A_b", "a__b", "a_b_", "_", "9"]]
    # Of a service: RFC 1035.
    assert all(re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", label) for label in labels)
    assert len(set(labels)) == len({*slugs, "a_b", "A_b", "a__b", "a_b_", "_", "9"})


def test_what_is_stale_is_found_and_stays_away_where_nobody_asked(
    file: ProductsFile, tmp_path: Path
) -> None:
    def changes(file: ProductsFile = file, **asked: Any) -> list[Change]:
        return pending_changes(file, tmp_path, **asked)

    write(changes(), tmp_path)
    assert not (tmp_path / VALUES).exists()
    write(changes(kubernetes=True, releases=["team:housing"]), tmp_path)
    assert changes() == []
    fewer = file.model_copy(update={"products": file.products[:1]})
    assert {change.path for change in changes(fewer) if change.new is None} >= {
        release_of("team:housing")
    }
    assert VALUES in {change.path for change in changes(fewer)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("resources: {limits: {memory: lots}}", "must be an amount as Kubernetes has it"),
        ("resources: {limits: {cpu: 1}, requests: {cpu: 1500m}}", "asks for more cpu than its"),
        ("resources: {limits: {disk: 1Gi}}", "unknown key `disk`"),
    ],
)
def test_resources_that_cannot_be_are_refused_with_their_line(
    text: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "products.yml"
    path.write_text(f"products:\n- id: colp\n  build_command: make\n  {text}\n")
    with pytest.raises(OrchestrationError, match=re.escape(said)) as refused:
        read_products_file(path)
    assert f"{path}:4: " in str(refused.value)


def test_without_an_image_it_says_what_is_missing(file: ProductsFile) -> None:
    with pytest.raises(OrchestrationError, match=r"products\.yml has no `kubernetes`"):
        kubernetes_files(file.model_copy(update={"kubernetes": None}), [])


@pytest.mark.skipif(
    not CHART or not shutil.which("helm"), reason="CHART names no chart, or there is no helm"
)
@pytest.mark.parametrize("whose", ["file", "nycs"])
def test_the_chart_makes_of_it_what_a_cluster_takes(
    whose: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    import kubernetes_validate

    file: ProductsFile = request.getfixturevalue(whose)
    owner = "team:housing"
    charts = {VALUES: CHART, release_of(owner): f"{CHART}/charts/dagster-user-deployments"}
    services, hosts, containers = set(), set(), []
    for path, values in kubernetes_files(file, [owner]).items():
        (tmp_path / path.name).write_text(yaml.safe_dump(values))
        made = subprocess.run(
            [
                *("helm", "template", path.stem, str(charts[path])),
                *("--skip-schema-validation", "--values", str(tmp_path / path.name)),
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE,
        )
        for each in filter(None, yaml.safe_load_all(made.stdout)):
            kubernetes_validate.validate(each, "1.30", strict=True)
            if each["kind"] == "Service":
                services.add(each["metadata"]["name"])
            if each["kind"] == "ConfigMap" and "workspace.yaml" in (each["data"] or {}):
                workspace = yaml.safe_load(each["data"]["workspace.yaml"])
                hosts = {entry["grpc_server"]["host"] for entry in workspace["load_from"]}
            if each["kind"] == "Deployment":
                containers += each["spec"]["template"]["spec"]["containers"]
    assert hosts and hosts <= services
    contexts = [
        K8sContainerContext.create_from_config(json.loads(variable["value"]))
        for container in containers
        for variable in container["env"]
        if variable["name"] == "DAGSTER_CLI_API_GRPC_CONTAINER_CONTEXT"
    ]
    assert len(contexts) == len(hosts) == len(file.products) + 1
