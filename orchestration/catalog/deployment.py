"""deployment.yml: which code locations are served on which host, and every way it can be wrong."""

import difflib
import ipaddress
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, StrictStr
from pydantic import ValidationError as Invalid

from orchestration import OrchestrationError
from orchestration.catalog.checkout import PRODUCTS_FILE
from orchestration.catalog.names import location_names
from orchestration.catalog.products import Product
from orchestration.catalog.yaml_file import Place, Problem, YamlFileError, read_yaml_mapping

DEPLOYMENT_FILE = PRODUCTS_FILE.with_name("deployment.yml")
EVERY_ADDRESS = ("0.0.0.0", "[::]")
HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


@dataclass(frozen=True)
class Address:
    """Where a location is served: a TCP port of a host, whose IPv6 address has its brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Deployment:
    """Where each location is served that is not served where `up` runs."""

    addresses: Mapping[str, Address] = field(default_factory=dict)
    """By the location's name."""

    def on(self, host: str) -> dict[str, Address]:
        """What is served on the host. Raises OrchestrationError where that is none of the hosts."""
        hosts = sorted({address.host for address in self.addresses.values()})
        known = _in_brackets(host) or host
        if known not in hosts:
            raise OrchestrationError(
                f"--host-name {host} is no host of {DEPLOYMENT_FILE.name}. "
                f"There are: {', '.join(hosts) or 'none'}."
            )
        return {name: address for name, address in self.addresses.items() if address.host == known}


EVERYTHING_HERE = Deployment()


def _in_brackets(host: str) -> str | None:
    """The IPv6 address as it stands before a port, however it was written; None for any other host.

    Raises ValueError for one with a zone, such as fe80::1%eth0, which means nothing to other hosts.
    """
    try:
        ip = ipaddress.IPv6Address(re.sub(r"^\[(.*)\]$", r"\1", host))
    except ValueError:
        return None
    if ip.scope_id:
        raise ValueError("has a zone, which means nothing to other hosts")
    return f"[{ip}]"


def _host_name(value: str) -> str:
    if not _in_brackets(value) and not HOST_NAME.fullmatch(value):
        raise ValueError("is not the name or the address of a host")
    if value in EVERY_ADDRESS or _in_brackets(value) in EVERY_ADDRESS:
        raise ValueError("is no address by which the others could reach the host")
    return value


HostName = Annotated[StrictStr, AfterValidator(_host_name)]
Port = Annotated[StrictInt, Field(ge=1, le=65535)]


class DeploymentFile(BaseModel):
    """deployment.yml as a whole."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hosts: dict[HostName, dict[StrictStr, Port]] = Field(
        description="For each host, its products (or `ingest`, the ingest templates) with the TCP "
        "port of each. What is on none is served where `up` runs."
    )


def deployment_schema_text() -> str:
    """The JSON Schema of deployment.yml, for editors."""
    schema = DeploymentFile.model_json_schema() | {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": DEPLOYMENT_FILE.name,
    }
    return json.dumps(schema, indent=2) + "\n"


def deployment_path(root: Path, chosen: Path | None) -> Path:
    """The file that says where what is served: the chosen one, else the checkout's."""
    return chosen or root / DEPLOYMENT_FILE


def read_deployment(root: Path, chosen: Path | None, products: Sequence[Product]) -> Deployment:
    """What the file says; without one, and with none chosen, that all is served where `up` runs.

    Raises YamlFileError with everything that is wrong, each with its line.
    """
    path = deployment_path(root, chosen)
    if chosen is None and not path.exists():
        return Deployment()
    data, lines = read_yaml_mapping(path)
    try:
        file = DeploymentFile.model_validate(data)
    except Invalid as error:
        problems = [_problem(dict(e), lines) for e in error.errors()]
        raise YamlFileError(path, list(dict.fromkeys(problems))) from error
    known = {product.id: product.slug for product in products}
    known |= {name: name for name in location_names([product.slug for product in products])}
    if problems := list(_clashes(file, known, lines)):
        raise YamlFileError(path, problems)
    return Deployment(
        {
            known[name]: Address(_in_brackets(host) or host, port)
            for host, ports in file.hosts.items()
            for name, port in ports.items()
        }
    )


def _problem(error: dict[str, Any], lines: Mapping[Place, int]) -> Problem:
    place = tuple(part for part in error["loc"] if part != "[key]")
    known = place
    while known not in lines:
        known = known[:-1]
    return Problem(lines[known], _wording(error, place))


def _wording(error: dict[str, Any], place: Place) -> str:
    what = place[-1] if place else "hosts"
    match error["type"], len(place):
        case "missing", _:
            return "`hosts` is missing"
        case "extra_forbidden", _:
            return f"unknown key `{what}`; known keys: hosts"
        case "value_error", _:
            return f"`{what}` {error['ctx']['error']}"
        case (("int_type" | "greater_than_equal" | "less_than_equal"), _):
            return f"`{what}` must have a port from 1 to 65535, not {error['input']!r}"
        case "dict_type", 1:
            return "`hosts` must be a mapping from hosts to what they serve"
        case "dict_type", _:
            return f"`{what}` must be a mapping from products to ports, such as {{pluto: 4301}}"
    return f"`{what}`: {error['msg']}"


def _clashes(
    file: DeploymentFile, known: Mapping[str, str], lines: Mapping[Place, int]
) -> Iterator[Problem]:
    served: dict[str, str] = {}
    everything_taken: dict[str, dict[int, str]] = {}
    for host, ports in file.hosts.items():
        taken = everything_taken.setdefault(_in_brackets(host) or host, {})
        for name, port in ports.items():
            line = lines["hosts", host, name]
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean `{close[0]}`?" if close else ""
                yield Problem(line, f"`{name}` is no product of products.yml{hint}")
                continue
            if other := served.get(known[name]):
                yield Problem(line, f"`{name}` is served on {other} already")
            if same := taken.get(port):
                yield Problem(line, f"`{name}` has port {port} of {host}, which `{same}` has")
            served.setdefault(known[name], host)
            taken.setdefault(port, name)
