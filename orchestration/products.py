"""products.yml: what a product is, and every way in which the file can be wrong."""

import difflib
import keyword
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictStr, ValidationError

from orchestration import OrchestrationError

MAX_FILE_BYTES = 1_000_000
MAX_NODES = 100_000
RESERVED_SLUGS = frozenset({"ingest", "__init__"})
# Dagster's own rule for owners: dagster/_core/definitions/utils.py, is_valid_owner.
EMAIL = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}")


def slug_of(product_id: str) -> str:
    """The product id as a Python identifier: every run of other characters becomes one `_`."""
    slug = re.sub(r"[^A-Za-z0-9_]+", "_", product_id)
    return f"_{slug}" if slug[:1].isdigit() else slug


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty")
    if "\0" in value:
        raise ValueError("holds a NUL character")
    return value


def _path_below(value: str) -> str:
    path = PurePosixPath(_text(value))
    if path.is_absolute() or ".." in path.parts or "\\" in value:
        raise ValueError("must be a relative path with `/` that stays in its folder, without `..`")
    return value


def _owner(value: str) -> str:
    if EMAIL.fullmatch(value) or value.removeprefix("team:").strip() not in ("", value):
        return value
    raise ValueError("must be an e-mail address or `team:` and a name, such as team:housing")


Text = Annotated[StrictStr, AfterValidator(_text)]
RelativePath = Annotated[StrictStr, AfterValidator(_path_below)]
Owner = Annotated[StrictStr, AfterValidator(_owner)]


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
    version_strategy: Text | dict[str, Any] | None = Field(
        None,
        description="How the product is versioned, shown in Dagster. "
        "What a build really does is decided by its recipe.",
    )
    python: Text | None = Field(
        None, description="The interpreter for this product's lifecycle steps."
    )


class Product(ProductDefaults):
    """One product of products.yml."""

    id: Text = Field(description="The product's name, unique in the file.")
    build_command: Text = Field(
        description="The command of the build stage, run by bash in the product's folder."
    )

    @property
    def slug(self) -> str:
        """The id as a Python identifier."""
        return slug_of(self.id)

    @property
    def folder(self) -> str:
        """The product's folder below products/."""
        return self.path or self.id


class ProductsFile(BaseModel):
    """products.yml as a whole."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    products: tuple[Product, ...] = Field(description="The products, one code location each.")
    defaults: ProductDefaults | None = Field(
        None, description="Values for the fields that a product leaves out."
    )

    def complete(self) -> tuple[Product, ...]:
        """The products, with the defaults in the fields that they leave out."""
        defaults = self.defaults.model_dump(exclude_unset=True) if self.defaults else {}
        return tuple(
            Product.model_validate(defaults | product.model_dump(exclude_unset=True))
            for product in self.products
        )


def json_schema() -> dict[str, Any]:
    """The JSON Schema of products.yml, for editors."""
    return ProductsFile.model_json_schema() | {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "products.yml",
    }


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with products.yml; `line` counts from 1."""

    line: int
    text: str


class ProductsError(OrchestrationError):
    """products.yml cannot be used; `problems` holds all that is wrong with it."""

    def __init__(self, path: Path, problems: list[Problem]) -> None:
        self.problems = sorted(problems, key=lambda problem: problem.line)
        super().__init__("\n".join(f"{path}:{p.line}: {p.text}" for p in self.problems))


def read_products(path: Path) -> tuple[Product, ...]:
    """The products of the file at `path`, in its order.

    Raises ProductsError with everything that is wrong, each with its line.
    """
    text = _read_text(path)
    node = _compose(path, text)
    document = _Document(path)
    data = document.build(node)
    if document.problems:
        raise ProductsError(path, document.problems)
    try:
        products = ProductsFile.model_validate(data).complete()
    except ValidationError as error:
        problems = [_problem(dict(e), data, document.lines) for e in error.errors()]
        raise ProductsError(path, problems) from error
    problems = list(_clashes(products, document.lines))
    if problems:
        raise ProductsError(path, problems)
    return products


def _read_text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            message = f"the file has {size:,} bytes; at most {MAX_FILE_BYTES:,} are read"
            raise ProductsError(path, [Problem(1, message)])
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ProductsError(path, [Problem(line, f"not UTF-8 text: {error.reason}")]) from error
    except OSError as error:
        raise OrchestrationError(f"{path} cannot be read: {error.strerror}") from error


def _compose(path: Path, text: str) -> yaml.Node:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ProductsError(path, [Problem(line, f"not valid YAML: {error.problem}")]) from error
    except yaml.YAMLError as error:
        message = str(error).splitlines()[0]
        raise ProductsError(path, [Problem(1, f"not valid YAML: {message}")]) from error
    except RecursionError as error:
        raise ProductsError(path, [Problem(1, "nested too deeply")]) from error
    if not isinstance(node, yaml.MappingNode):
        message = "must be a mapping with the key `products`, not " + (
            "an empty file"
            if node is None
            else "a list"
            if isinstance(node, yaml.SequenceNode)
            else "a single value"
        )
        raise ProductsError(path, [Problem(1, message)])
    return node


class _Document:
    """YAML nodes turned into plain data, with the line of every place in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[tuple[str | int, ...], int] = {}
        self.problems: list[Problem] = []
        self._scalars = yaml.constructor.SafeConstructor()
        self._open: set[int] = set()
        self._nodes = 0

    def build(self, node: yaml.Node, place: tuple[str | int, ...] = ()) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(place, line)
        self._nodes += 1
        if self._nodes > MAX_NODES or id(node) in self._open or len(place) > 20:
            message = "aliases or nesting make this file too large"
            raise ProductsError(self.path, [Problem(line, message)])
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, place)
            if isinstance(node, yaml.SequenceNode):
                return [self.build(item, (*place, i)) for i, item in enumerate(node.value)]
            return self._scalars.construct_object(node)
        except (yaml.constructor.ConstructorError, ValueError, OverflowError) as error:
            detail = getattr(error, "problem", None) or error
            self.problems.append(Problem(line, f"not a value that can be read: {detail}"))
            return None
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, place: tuple[str | int, ...]) -> dict[str, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self.problems.append(Problem(line, "a key must be a word"))
            elif key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                first = seen[key.value]
                self.problems.append(
                    Problem(line, f"key `{key.value}` is there twice, first in line {first}")
                )
            else:
                seen[key.value] = line
        self._scalars.flatten_mapping(node)
        result = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                self.lines[(*place, key.value)] = key.start_mark.line + 1
                result[key.value] = self.build(value, (*place, key.value))
        return result


def _problem(error: dict[str, Any], data: Any, lines: dict[tuple[str | int, ...], int]) -> Problem:
    place = tuple(error["loc"])
    known = place
    while known not in lines:
        known = known[:-1]
    return Problem(lines[known], _name_of(place, data) + _wording(error, place, data))


def _name_of(place: tuple[str | int, ...], data: Any) -> str:
    if len(place) < 2 or place[0] != "products":
        return ""
    entry = data["products"][place[1]]
    product_id = entry.get("id") if isinstance(entry, dict) else None
    return f"product {product_id!r}: " if product_id is not None else f"product {place[1]}: "


def _wording(error: dict[str, Any], place: tuple[str | int, ...], data: Any) -> str:
    field = next((part for part in reversed(place) if isinstance(part, str)), "products")
    given = error.get("input")
    match error["type"]:
        case "missing":
            return f"`{field}` is missing"
        case "extra_forbidden":
            model = _model_at(place)
            close = difflib.get_close_matches(field, model.model_fields, n=1)
            known = ", ".join(model.model_fields)
            return f"unknown key `{field}`; " + (
                f"did you mean `{close[0]}`?" if close else f"known keys: {known}"
            )
        case "string_type":
            if given is None:
                return f"`{field}` is empty"
            if isinstance(given, dict | list):
                return f"`{field}` must be text, not a {'mapping' if given else 'list'}"
            return f"`{field}`: YAML reads this as {given!r}, not as text; put it in quotes"
        case "value_error":
            return f"`{field}` {error['ctx']['error']} (it is {given!r})"
        case "tuple_type":
            return f"`{field}` must be a list"
        case "model_type" | "model_attributes_type":
            return "must be a mapping with the keys id and build_command"
        case _:
            return f"`{field}`: {error['msg']}"


def _model_at(place: tuple[str | int, ...]) -> type[BaseModel]:
    if len(place) < 2:
        return ProductsFile
    return Product if place[0] == "products" else ProductDefaults


def _clashes(
    products: tuple[Product, ...], lines: dict[tuple[str | int, ...], int]
) -> Iterator[Problem]:
    by_slug: dict[str, list[int]] = defaultdict(list)
    for index, product in enumerate(products):
        line = lines["products", index, "id"]
        slug = product.slug
        if slug in RESERVED_SLUGS or keyword.iskeyword(slug):
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
