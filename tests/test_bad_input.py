"""Input of every broken kind: a sentence that names the file and the place, and nothing else."""

import ast
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestration import OrchestrationError
from orchestration.catalog.checkout import SAMPLE_ROOT, products_file, templates_folder
from orchestration.catalog.ingest_templates import read_template
from orchestration.catalog.partition_keys import PartitionKeyError, check_key, read_build_key
from orchestration.catalog.products import read_products_file
from orchestration.catalog.recipes import recipe_inputs
from orchestration.definitions.ingest import ingest_definitions
from orchestration.generator.generate import pending_changes, write
from orchestration.generator.render import LOCATIONS, WORKSPACE
from orchestration.lifecycle.results import build_folder, ingest_result, locked, staged
from tests.harness.materializing import failure_of, own_product
from tests.harness.mutations import mutated
from tests.harness.processes import NYC

PRODUCT_LISTS = 10_000
FILES = 1_000
KEYS = 1_000
AWKWARD: list[Any] = [
    *("", " ", "a", "A", "db-zap", "pluto cbbr", "ingest", "class", "__init__", "None", "é", "🏙"),
    *("../../etc/passwd", "/etc/passwd", "..", ".", "~", "a/b", "a\\b", "a\0b", "a\nb", "\u2028"),
    *("$(touch pwned)", "'; import os #", '"""', "{{ 7 * 7 }}", "{% raw %}", "x" * 300, "\ud800"),
    *(0, 311, -1, 1.5, float("nan"), True, None, [], {}, ["a"], {"a": "b"}, [["a"]], "2026-01-01"),
]
FIELDS = [
    *("id", "build_command", "path", "recipe", "description", "owners", "category"),
    *("version_strategy", "python", "biuld_command", "<<", "", 5),
]


def product_lists(folder: Path) -> Iterator[bytes]:
    """Lists as people, programs and accidents write them, the same ones each time."""
    chosen = random.Random(20260101)
    written = []
    for number in range(PRODUCT_LISTS // 2):
        content = _product_list(chosen)
        yield content
        if number < 200:
            path = folder / f"{number}.yml"
            path.write_bytes(content)
            written.append(path)
    sample = [products_file(SAMPLE_ROOT)] * 100
    yield from mutated(written + sample, PRODUCT_LISTS - PRODUCT_LISTS // 2)


def _product_list(chosen: random.Random) -> bytes:
    lines = ["products:"]
    for number in range(chosen.randint(0, 4)):
        fields: dict[Any, Any] = {"id": f"p {number}", "build_command": "make"}
        for _ in range(chosen.choice([0, 0, 0, 0, 0, 1, 1, 3])):
            fields[chosen.choice(FIELDS)] = chosen.choice(AWKWARD)
        if chosen.random() < 0.05:
            fields.pop(chosen.choice(list(fields)))
        product = [f"  {name}: {_scalar(chosen, value)}" for name, value in fields.items()]
        if chosen.random() < 0.95 and product:
            lines += [f"- {product[0][2:]}", *product[1:]]
        else:
            lines.append(f"- {_scalar(chosen, chosen.choice(AWKWARD))}")
    if chosen.random() < 0.1:
        name = chosen.choice(["defaults", "product", "x"])
        value = chosen.choice([*AWKWARD, {chosen.choice(FIELDS): chosen.choice(AWKWARD)}])
        lines.insert(chosen.choice([0, len(lines)]), f"{name}: {_scalar(chosen, value)}")
    return "\n".join([*lines, ""]).encode(errors="surrogatepass")


def _scalar(chosen: random.Random, value: Any) -> str:
    # JSON is YAML; what is not quoted is often something else.
    return json.dumps(value) if chosen.random() < 0.8 else str(value)


@pytest.mark.long
def test_ten_thousand_product_lists_are_read_or_refused_with_file_and_line(
    tmp_path: Path, project: Path
) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    path = lists / "products.yml"
    place = re.compile(rf"{re.escape(str(path))}:\d+: \S")
    modules = re.compile(rf"{LOCATIONS}/[A-Za-z_][A-Za-z0-9_]*\.py")
    outside = sorted(project.parent.iterdir())
    accepted = refused = 0
    for content in product_lists(lists):
        path.write_bytes(content)
        try:
            file = read_products_file(path)
        except OrchestrationError as error:
            refused += 1
            assert all(place.match(line) for line in str(error).splitlines()), str(error)
            continue
        accepted += 1
        if accepted % 20:
            continue
        changes = pending_changes(file, project)
        for change in changes:
            assert change.path == WORKSPACE or modules.fullmatch(str(change.path))
            if change.new and change.path != WORKSPACE:
                ast.parse(change.new)
        if accepted % 100 == 0:
            write(changes, project)
            assert sorted(project.parent.iterdir()) == outside
    assert accepted > PRODUCT_LISTS / 10
    assert refused > PRODUCT_LISTS / 10


def damaged(pattern: str) -> Iterator[bytes]:
    """Real files, those of the sample where there are no others, after accidents."""
    files = [path for root in (SAMPLE_ROOT, NYC) for path in root.glob(pattern)]
    return mutated(sorted(files), FILES // 2)


def test_five_hundred_damaged_recipes_are_read_or_refused_with_their_path(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yml"
    refused = 0
    for content in damaged("products/*/recipe*.yml"):
        path.write_bytes(content)
        try:
            assert all(isinstance(dataset, str) for dataset in recipe_inputs(path).datasets)
        except OrchestrationError as error:
            refused += 1
            assert str(tmp_path) in str(error)
            assert "Traceback" not in str(error)
    assert FILES / 20 < refused < FILES / 2


def test_five_hundred_damaged_templates_are_all_assets_and_say_what_is_wrong(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = templates_folder(checkout)
    for number, content in enumerate(damaged("ingest_templates/*.yml")):
        (folder / f"t{number}.yml").write_bytes(content)
    problems = [t.problem for t in map(read_template, folder.glob("t*.yml")) if t.problem]
    assert FILES / 20 < len(problems) < FILES / 2
    assert all(re.search(rf"{re.escape(str(folder))}/t\d+\.yml", problem) for problem in problems)
    monkeypatch.setenv("DATA_ENGINEERING_ROOT", str(checkout))
    keys = ingest_definitions().resolve_all_asset_keys()
    assert {f"t{number}" for number in range(FILES // 2)} <= {key.path[-1] for key in keys}


PIECES = [
    *(
        "..",
        ".",
        "/",
        "\\",
        "-",
        ",",
        " ",
        "\0",
        "\n",
        "\r",
        "\t",
        "\x7f",
        "\x85",
        "\u200b",
        "\u2028",
    ),
    *(
        "\ud800",
        "\U000e0001",
        "é",
        "e\u0301",
        "Å",
        "\u212b",
        "~",
        "$(id)",
        "`id`",
        "'",
        '"',
        ";",
        "*",
    ),
    *("CON", "%2e%2e%2f", "main", "2026.1", "lock", ".lock", "a", "A", "a" * 190, "é" * 90, "🏙"),
]


def keys() -> list[str]:
    """Partition keys as the UI lets anybody add them, the same ones each time."""
    chosen = random.Random(20260101)
    found = {"".join(chosen.choices(PIECES, k=chosen.randint(0, 4))) for _ in range(10 * KEYS)}
    return sorted(found)[:: len(found) // KEYS][:KEYS]


def test_a_thousand_keys_are_refused_or_leave_a_result_of_their_own_in_its_place(
    lifecycle: Path,
) -> None:
    kinds: list[tuple[Callable[[str], object], Path]] = [
        (check_key, ingest_result(lifecycle, "pad", "x").parent),
        (read_build_key, build_folder(lifecycle, "pluto", "x").parent),
    ]
    made: dict[Path, str] = {}
    for read_key, parent in kinds:
        for key in keys():
            try:
                read_key(key)
            except PartitionKeyError as error:
                assert str(error).isprintable()
                assert "cannot be used" in str(error)
                continue
            result = parent / key
            with locked(result, waiting=lambda: None), staged(result, "build") as staging:
                (staging.folder / "key").write_text(key)
            made[result] = key
    assert KEYS / 20 < len(made) < 2 * KEYS
    assert {path: (path / "key").read_text() for path in made} == made
    links = [path for _, parent in kinds for path in parent.iterdir() if path.is_symlink()]
    assert sorted(links) == sorted(made)
    assert sorted(lifecycle.parent.iterdir()) == [lifecycle]
    assert {path.name for path in lifecycle.iterdir()} == {"ingest", "builds"}


@pytest.mark.parametrize("key", ["", "..", "../../x", "/etc/x", "a/b", "a\nb", "a,b", "x" * 5000])
def test_a_run_for_a_key_that_could_do_harm_fails_with_a_sentence_and_writes_nothing(
    lifecycle: Path, key: str
) -> None:
    said = failure_of(own_product("package"), key)
    assert said
    assert said.startswith("Product 'own product': The partition key ")
    assert said.isprintable()
    assert list(lifecycle.rglob("*")) == []
