"""What a cluster is told of products: what each needs, and what all of them share."""

import re
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, StrictInt, model_validator

from orchestration.catalog.fields import Text

QUANTITY = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)(m|[kMGTP]|[KMGTP]i)?")
UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
UNITS |= {f"{unit}i": 2.0**power for unit, power in zip("KMGTP", range(10, 60, 10), strict=True)}
DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def _quantity(value: Any) -> str:
    if isinstance(value, bool) or not QUANTITY.fullmatch(str(value)):
        raise ValueError("must be an amount as Kubernetes has it, such as 500m, 2 or 4Gi")
    return str(value)


def _amount(quantity: str) -> float:
    match = QUANTITY.fullmatch(quantity)
    assert match
    return float(match[1]) * UNITS[match[2] or ""]


def _image(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[^\s:@]+(:\d+/[^\s:@]+)?:[\w.-]+", value):
        raise ValueError("must be an image with its tag, such as registry/data-products:2026.1")
    return value


def _label(value: Any) -> str:
    if not isinstance(value, str) or not DNS_LABEL.fullmatch(value):
        raise ValueError("must be a name as a cluster has it: lower-case letters, digits and `-`")
    return value


Quantity = Annotated[str, PlainValidator(_quantity, json_schema_input_type=str | int | float)]
Image = Annotated[str, PlainValidator(_image, json_schema_input_type=str)]
ClusterName = Annotated[str, PlainValidator(_label, json_schema_input_type=str)]


class Amounts(BaseModel):
    """So much of a machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpu: Quantity | None = Field(default=None, description="Processors, such as 2 or 500m.")
    memory: Quantity | None = Field(default=None, description="Memory, such as 4Gi.")


class Resources(BaseModel):
    """What a product's location, and each of its runs, gets of the cluster."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests: Amounts = Field(
        default=Amounts(), description="What has to be free where it is started."
    )
    limits: Amounts = Field(default=Amounts(), description="What it may take.")

    @model_validator(mode="after")
    def _limits_are_not_below(self) -> Self:
        for name in Amounts.model_fields:
            asked, most = getattr(self.requests, name), getattr(self.limits, name)
            if asked and most and _amount(asked) > _amount(most):
                raise ValueError(f"asks for more {name} than its limit")
        return self


class Postgres(BaseModel):
    """The database of Dagster's state, outside of the cluster's release."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: Text = Field(description="Its host.")
    port: StrictInt = Field(default=5432, ge=1, le=65535, description="Its port.")
    database: Text = Field(default="dagster", description="The database's name.")
    username: Text = Field(default="dagster", description="Who signs in.")
    secret: ClusterName = Field(
        default="dagster-postgresql-secret",
        description="The Secret whose entry `postgresql-password` is the password.",
    )


class Kubernetes(BaseModel):
    """What all locations have in common on a cluster."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: Image = Field(description="The image of every location and run, with its tag.")
    postgresql: Postgres = Field(description="The database of Dagster's state.")
    claim: ClusterName = Field(
        default="lifecycle",
        description="The PersistentVolumeClaim that holds `.lifecycle`, which many can write to.",
    )
    secrets: tuple[ClusterName, ...] = Field(
        default=(), description="Secrets whose entries are variables of every location and run."
    )
