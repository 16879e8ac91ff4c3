"""products.yml: what a product is, and every way in which the file can be wrong."""

import json
import keyword
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StrictInt,
    StrictStr,
    ValidationError,
)

from orchestration.catalog.build_commands import BuildCommand, Command, commands_of
from orchestration.catalog.checks import Checks
from orchestration.catalog.fields import Owner, Text, checked_text, rendered
from orchestration.catalog.ingest_groups import Ingest
from orchestration.catalog.kubernetes import Kubernetes, Resources
from orchestration.catalog.names import INGEST, OPERATIONS, build_job, slug_of
from orchestration.catalog.notify import NotifyField
from orchestration.catalog.retention import Retention
from orchestration.catalog.retries import Retries
from orchestration.catalog.schedules import Schedules, schedule_names
from orchestration.catalog.validation import problems_of
from orchestration.catalog.yaml_file import Place, Problem, YamlFileError, read_yaml_mapping

MAX_SLUG_LENGTH = 100  # it is a file name, and a part of longer names
# What a stage sets for its process, and what to say instead, if there is something.
SET_BY_STAGES = {
    "BUILD_ENV_OUTPUT_DIR": "",
    "BUILD_NAME": "; use `build_name`",
    "DCPY_LIFECYCLE_DATA_DIR": "",
    "PRODUCTS_DIR": "",
    "TEMPLATE_DIR": "",
}
RESERVED_SLUGS = frozenset({INGEST, OPERATIONS, "__init__"})


def _path_below(value: str) -> str:
    path = PurePosixPath(checked_text(value))
    if path.is_absolute() or ".." in path.parts or "\\" in value:
        raise ValueError("must be a relative path with `/` that stays in its folder, without `..`")
    return value


def _strategy(value: Any) -> Any:
    if not isinstance(value, str | dict):
        raise ValueError("must be a word, or a mapping such as {pin_to_source_dataset: dcp_x}")
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError("holds a value that is not text; put it in quotes") from error
    return checked_text(value) if isinstance(value, str) else value


def _variable_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError("is not the name of a variable")
    if value in SET_BY_STAGES:
        raise ValueError(f"cannot be set here{SET_BY_STAGES[value]}")
    return value


def _variable_value(value: str) -> str:
    return checked_text(value) if value else value


def _build_name(value: str) -> str:
    if not rendered(checked_text(value), {"partition": "a partition"}).strip():
        raise ValueError("is empty once it is rendered")
    return value


def build_name(product: "Product", partition: str) -> str:
    """dcpy's name of the product's build for the partition."""
    if product.build_name is None:
        return partition
    return rendered(product.build_name, {"partition": partition})


RelativePath = Annotated[StrictStr, AfterValidator(_path_below)]
VariableName = Annotated[StrictStr, AfterValidator(_variable_name)]
VariableValue = Annotated[StrictStr, AfterValidator(_variable_value)]
BuildName = Annotated[StrictStr, AfterValidator(_build_name)]
VersionStrategy = Annotated[
    Any,
    PlainValidator(_strategy, json_schema_input_type=str | dict[str, Any]),
]


class ProductDefaults(BaseModel):
    """The optional fields of a product, and what `defaults` can hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: RelativePath | None = Field(
        None, description="The product's folder below products/. Default: the id."
    )
    recipe: RelativePath = Field(
        "recipe.yml", description="The recipe's file name in the product's folder."
    )
    description: Text | None = Field(None, description="What the product is, shown in Dagster.")
    owners: tuple[Owner, ...] = Field(
        (), description="Who owns it: e-mail addresses, or team:name."
    )
    category: Text | None = Field(None, description="A word to group products by.")
    version_strategy: VersionStrategy | None = Field(
        None,
        description="How the product is versioned, shown in Dagster. "
        "What a build really does is decided by its recipe.",
    )
    python: Text | None = Field(
        None, description="The interpreter for this product's lifecycle steps."
    )
    definitions_python: Text | None = Field(
        None,
        description="The interpreter that loads this product's location and executes its runs, "
        "with the Dagster that is installed there. Its variables (env, env_file) are set there, "
        "too. A relative path begins at the checkout's root; a name without `/` is looked up on "
        "PATH. Default: the project's own.",
    )
    memory_limit_mb: StrictInt | None = Field(
        None,
        gt=0,
        description="The memory in MB that this product's location may take, beside what every one "
        "takes, while it is loaded and while its schedules and sensors are asked. Runs may take "
        "more. Default: no limit.",
    )
    env: dict[VariableName, VariableValue] = Field(
        {},
        description="Variables for this product's processes, such as BUILD_ENGINE_DB. Those of "
        "`defaults` are added to a product's own.",
    )
    env_file: Text | None = Field(
        None,
        description="A file of secret variables, NAME=value in each line, for this product's "
        "processes only. A relative path begins at the checkout's root.",
    )
    build_name: BuildName | None = Field(
        None,
        description="What dcpy calls a build, and uploads it under, as a Jinja template over "
        "`partition`. Default: the partition's key.",
    )
    retries: Retries = Field(
        Retries(),
        description="How often a stage is tried again that failed for what may pass. What cannot "
        "get better by itself is not.",
    )
    schedule: Schedules = Field(
        (),
        description="When it is built by itself: times in cron's notation; `on_new_inputs`; a "
        "mapping of `cron`, `timezone` and `partition`; or a list of these. An empty list takes "
        "back what `defaults` says.",
    )
    checks: Checks = Field(
        Checks(),
        description="What it does when a build is empty, or differs from the one before. What "
        "`defaults` says is added to a product's own.",
    )
    resources: Resources = Field(
        Resources(),
        description="What its location, and each of its runs, gets of a cluster: `requests` and "
        "`limits` of `cpu` and `memory`.",
    )


class Product(ProductDefaults):
    """One product of products.yml."""

    id: Text = Field(description="The product's name, unique in the file.")
    build_command: BuildCommand = Field(
        description="The command of the build stage, run by bash in the product's folder; or a "
        "list of commands, or of `name: command`, that are run one after the other.",
    )

    @property
    def slug(self) -> str:
        """The id as a Python identifier."""
        return slug_of(self.id)

    @property
    def folder(self) -> str:
        """The product's folder below products/."""
        return self.path or self.id

    @property
    def commands(self) -> tuple[Command, ...]:
        """The commands of the build stage, in their order."""
        return commands_of(self.build_command)


class ProductsFile(BaseModel):
    """products.yml as a whole."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    products: tuple[Product, ...] = Field(description="The products, one code location each.")
    defaults: ProductDefaults | None = Field(
        default=None, description="Values for the fields that a product leaves out."
    )
    ingest: Ingest = Field(default=Ingest(), description="How the ingest templates are run.")
    notify: NotifyField = Field(
        default=None,
        description="Who is told when something breaks: addresses, or a mapping.",
    )
    retention: Retention | None = Field(
        default=None,
        description="What `up` keeps when it cleans up, once a night. Default: everything.",
    )
    kubernetes: Kubernetes | None = Field(
        default=None, description="What `generate --kubernetes` writes for a cluster."
    )

    def complete(self) -> "ProductsFile":
        """The same, with the defaults in the fields that a product leaves out."""
        defaults = self.defaults.model_dump(exclude_unset=True) if self.defaults else {}
        products = tuple(
            Product.model_validate(_merged(defaults, product.model_dump(exclude_unset=True)))
            for product in self.products
        )
        # Ingest has no product whose defaults these are.
        ingest = self.ingest.model_copy(
            update={
                name: getattr(self.defaults, name)
                for name in ("retries", "checks")
                if self.defaults and name not in self.ingest.model_fields_set
            }
        )
        return self.model_copy(update={"products": products, "ingest": ingest})

    @property
    def schedules(self) -> list[str]:
        """The schedules of all products and groups, as `<location>/<name>`."""
        found = {
            product.slug: schedule_names(build_job(product.slug), product.schedule)
            for product in self.products
        }
        of_groups = [schedule_names(group.job, group.schedule) for group in self.ingest.groups]
        return [
            *(f"{slug}/{name}" for slug, names in found.items() for name in names),
            *(f"{INGEST}/{name}" for names in of_groups for name in names),
        ]


def _merged(defaults: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    merged = defaults | own
    for name in ("env", "checks"):
        if name in merged:
            merged[name] = defaults.get(name, {}) | own.get(name, {})
    return merged


def json_schema() -> dict[str, Any]:
    """The JSON Schema of products.yml, for editors."""
    return ProductsFile.model_json_schema() | {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "products.yml",
    }


def json_schema_text() -> str:
    """The JSON Schema as a file holds it."""
    return json.dumps(json_schema(), indent=2) + "\n"


def read_products_file(path: Path) -> ProductsFile:
    """What the file at `path` says, with the defaults in the products that leave them out.

    Raises YamlFileError with everything that is wrong, each with its line.
    """
    data, lines = read_yaml_mapping(path)
    try:
        file = ProductsFile.model_validate(data).complete()
    except ValidationError as error:
        raise YamlFileError(path, problems_of(error, data, lines, ProductsFile)) from error
    problems = [*_clashes(file.products, lines), *_clashing_groups(file.ingest, lines)]
    if problems:
        raise YamlFileError(path, problems)
    return file


def read_products(path: Path) -> tuple[Product, ...]:
    """The products of the file at `path`, in its order; raises as `read_products_file` does."""
    return read_products_file(path).products


def _clashing_groups(ingest: Ingest, lines: dict[Place, int]) -> Iterator[Problem]:
    by_slug: dict[str, str] = {}
    for index, group in enumerate(ingest.groups):
        if other := by_slug.get(group.slug.lower()):
            yield Problem(
                lines["ingest", "groups", index, "name"],
                f"ingest groups {other!r} and {group.name!r} would both be called `{group.slug}`; "
                "change one of the names",
            )
        by_slug[group.slug.lower()] = group.name


def _clashes(products: tuple[Product, ...], lines: dict[Place, int]) -> Iterator[Problem]:
    by_slug: dict[str, list[int]] = defaultdict(list)
    for index, product in enumerate(products):
        line = lines["products", index, "id"]
        slug = product.slug
        if len(slug) > MAX_SLUG_LENGTH:
            yield Problem(
                line,
                f"product {product.id[:40]!r}…: the id is longer than {MAX_SLUG_LENGTH} characters",
            )
        try:
            _path_below(product.folder)
        except ValueError:
            yield Problem(
                line, f"product {product.id!r}: such an id needs a `path`, its folder in products/"
            )
        if slug.lower() in RESERVED_SLUGS or keyword.iskeyword(slug):
            yield Problem(
                line,
                f"product {product.id!r}: its name in Python would be `{slug}`, which is taken; "
                "choose another id",
            )
        # Two names that differ in case only are one file on some systems.
        others = by_slug[slug.lower()]
        for other in others:
            if products[other].id == product.id:
                first = lines["products", other, "id"]
                yield Problem(line, f"product {product.id!r} is there twice, first in line {first}")
            else:
                yield Problem(
                    line,
                    f"products {products[other].id!r} and {product.id!r} would both be called "
                    f"`{slug}`; change one of the ids",
                )
        others.append(index)
