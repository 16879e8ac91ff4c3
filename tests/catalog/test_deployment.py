import json
from pathlib import Path

import pytest
import yaml

from orchestration import OrchestrationError
from orchestration.catalog.deployment import (
    Address,
    DeploymentFile,
    deployment_schema_text,
    read_deployment,
)
from orchestration.catalog.products import Product, ProductsFile
from orchestration.catalog.yaml_file import YamlFileError
from orchestration.generator.render import WORKSPACE, render
from tests.harness.processes import orchestration

PRODUCTS = [
    Product.model_validate({"id": name, "build_command": "true"})
    for name in ("pluto", "housing-db", "colp")
]


def read(folder: Path, text: str) -> dict[str, Address]:
    """Reads a deployment.yml of that text."""
    file = folder / "deployment.yml"
    file.write_text(text)
    return dict(read_deployment(folder, file, PRODUCTS).addresses)


def test_a_location_is_where_the_file_says_and_else_where_up_runs(tmp_path: Path) -> None:
    assert read_deployment(tmp_path, None, PRODUCTS).addresses == {}
    found = read(
        tmp_path,
        "hosts:\n  build1.internal: {pluto: 4301, housing-db: 4302}\n  10.0.0.7: {ingest: 4301}\n"
        "  fd00:0::1: {colp: 4301}\n",
    )
    assert found == {
        "pluto": Address("build1.internal", 4301),
        "housing_db": Address("build1.internal", 4302),
        "ingest": Address("10.0.0.7", 4301),
        "colp": Address("[fd00::1]", 4301),
    }


def test_an_ipv6_address_can_be_written_in_all_its_ways(tmp_path: Path) -> None:
    file = tmp_path / "deployment.yml"
    file.write_text("hosts:\n  '[FD00::1]': {pluto: 4301}\n  fd00::2: {colp: 4301}\n")
    deployment = read_deployment(tmp_path, file, PRODUCTS)
    for host in ("fd00::1", "[fd00::1]", "FD00:0:0:0::1"):
        assert deployment.on(host) == {"pluto": Address("[fd00::1]", 4301)}
    text = render(ProductsFile(products=tuple(PRODUCTS)), deployment)[WORKSPACE]
    servers = [entry["grpc_server"] for entry in yaml.safe_load(text)["load_from"][1:4:2]]
    # As gRPC, Dagster's own client included, puts the port after it.
    assert [server["host"] for server in servers] == ["[fd00::1]", "[fd00::2]"]


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("{}\n", ["1: `hosts` is missing"]),
        ("hosts: [a]\n", ["1: `hosts` must be a mapping from hosts to what they serve"]),
        ("hosts: {}\nhost: {}\n", ["2: unknown key `host`; known keys: hosts"]),
        ("hosts:\n  a:\n", ["2: `a` must be a mapping from products to ports, such as"]),
        ("hosts:\n  'a b': {}\n", ["2: `a b` is not the name or the address of a host"]),
        (
            "hosts:\n  a:\n    plutto: 4301\n    colp: x\n    pluto: 70000\n",
            [
                "4: `colp` must have a port from 1 to 65535, not 'x'",
                "5: `pluto` must have a port from 1 to 65535, not 70000",
            ],
        ),
        (
            "hosts:\n  a:\n    plutto: 43\n    colp: 44\n    pluto: 44\n  b:\n    colp: 44\n",
            [
                "3: `plutto` is no product of products.yml; did you mean `pluto`?",
                "5: `pluto` has port 44 of a, which `colp` has",
                "7: `colp` is served on a already",
            ],
        ),
        ("hosts:\n  'fe80::1%eth0': {}\n", ["2: `fe80::1%eth0` has a zone, which means nothing"]),
        ("hosts:\n  0.0.0.0: {}\n", ["2: `0.0.0.0` is no address by which the others could"]),
        ("hosts:\n  '::': {}\n", ["2: `::` is no address by which the others could reach"]),
        ("hosts:\n  '[abc]': {}\n", ["2: `[abc]` is not the name or the address of a host"]),
        (
            "hosts:\n  fd00::1: {colp: 1}\n  '[fd00:0::1]': {pluto: 1}\n",
            ["3: `pluto` has port 1 of [fd00:0::1], which `colp` has"],
        ),
        ("hosts:\n  a: {colp: 1}\n  a: {pluto: 1}\n", ["3: key `a` is there twice"]),
    ],
)
def test_all_that_is_wrong_is_told_with_its_lines(
    tmp_path: Path, text: str, problems: list[str]
) -> None:
    with pytest.raises(YamlFileError) as error:
        read(tmp_path, text)
    found = str(error.value).splitlines()
    assert len(found) == len(problems)
    for line, problem in zip(found, problems, strict=True):
        assert line.startswith(f"{tmp_path / 'deployment.yml'}:{problem}")


def test_a_file_that_was_chosen_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(OrchestrationError, match="cannot be read: No such file"):
        read_deployment(tmp_path, tmp_path / "none.yml", PRODUCTS)


def test_the_workspace_says_where_dagster_finds_each(tmp_path: Path) -> None:
    file = tmp_path / "deployment.yml"
    file.write_text("hosts: {build1.internal: {pluto: 4301}}\n")
    deployment = read_deployment(tmp_path, file, PRODUCTS)
    text = render(ProductsFile(products=tuple(PRODUCTS)), deployment)[WORKSPACE]
    entries = yaml.safe_load(text)["load_from"]
    assert entries[1] == {
        "grpc_server": {"location_name": "pluto", "host": "build1.internal", "port": 4301}
    }
    names = ["ingest", "housing_db", "colp"]
    assert [e["python_module"]["location_name"] for e in entries if "python_module" in e] == names


def test_what_is_wrong_in_it_is_found_before_a_commit(checkout: Path) -> None:
    (checkout / "products" / "deployment.yml").write_text("hosts: {a: {librarys: 1}}\n")
    checked = orchestration("check", env={"DATA_ENGINEERING_ROOT": str(checkout)})
    assert checked.returncode == 1
    assert checked.stdout == (
        "products/deployment.yml:1: `librarys` is no product of products.yml; "
        "did you mean `libraries`?\n"
    )


def test_an_editor_can_check_it() -> None:
    printed = orchestration("generate", "--deployment-schema").stdout
    assert printed == deployment_schema_text()
    schema = json.loads(printed)
    assert set(schema["properties"]) == set(DeploymentFile.model_fields)
    assert schema["additionalProperties"] is False
