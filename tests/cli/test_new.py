"""A new product: its entry joins the list, whose other bytes stay, and it can be built at once."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from orchestration.catalog.checkout import SAMPLE_ROOT, products_file
from orchestration.catalog.products import read_products
from tests.harness.processes import orchestration

LISTS = {
    "comments, quotes and an order of its own": (
        "# The products.\nproducts:\n- build_command: 'make'  # quoted\n  id: \"a\"\n"
        "\n# the last one\n- {id: b, build_command: make}   # in braces\n\n# the end\n",
        "# The products.\nproducts:\n- build_command: 'make'  # quoted\n  id: \"a\"\n"
        "\n# the last one\n- {id: b, build_command: make}   # in braces\n",
        "\n- id: Öffnungen\n  path: _ffnungen\n  build_command: bash build.sh\n\n# the end\n",
    ),
    "defaults below, indented, a long command": (
        "products:\n  - id: a\n    build_command: |\n      make\n      more\n\n"
        "defaults:\n  category: x\n",
        "products:\n  - id: a\n    build_command: |\n      make\n      more\n",
        "  - id: Öffnungen\n",
    ),
    "no newline at the end": ("products:\n- id: a\n  build_command: x", "products:\n- id: a\n", ""),
    "Windows' newlines": (
        "products:\r\n- id: a\r\n  build_command: x\r\n",
        "products:\r\n- id: a",
        "",
    ),
    "none yet": ("products: []\ndefaults: {}\n", "products:\n- id: Öff", "\ndefaults: {}\n"),
}


@pytest.mark.parametrize("name", LISTS)
def test_the_rest_of_the_list_stays_as_it_is(name: str, checkout: Path, project: Path) -> None:
    before, kept, added = LISTS[name]
    file = products_file(checkout)
    file.write_bytes(before.encode())
    old = [product.id for product in read_products(file)]
    env = {"DATA_ENGINEERING_ROOT": str(checkout)}
    result = orchestration("new", "Öffnungen", env=env, project=project)
    assert result.returncode == 0, result.stderr
    text = file.read_bytes().decode()
    assert text.startswith(kept)
    assert added in text
    assert ("\r" in before) == ("\r" in text)
    assert [product.id for product in read_products(file)] == [*old, "Öffnungen"]
    assert not list(file.parent.glob(".*"))


def test_it_can_be_built_at_once(
    checkout: Path, project: Path, lifecycle: Path, sample_dcpy: Mapping[str, str]
) -> None:
    (checkout / "dcpy").symlink_to(SAMPLE_ROOT / "dcpy")
    env = {
        "DATA_ENGINEERING_ROOT": str(checkout),
        "DCPY_LIFECYCLE_DATA_DIR": str(lifecycle),
        "DAGSTER_HOME": str(lifecycle.parent),
        **sample_dcpy,
    }
    made = orchestration("new", "open data", "--owner", "team:parks", env=env, project=project)
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[-1].endswith("materialize open_data main")
    [*_, product] = read_products(products_file(checkout))
    assert (product.id, product.owners) == ("open data", ("team:parks",))
    built = orchestration("materialize", "open_data", "main", env=env, project=project)
    assert built.returncode == 0, built.stdout + built.stderr
    result = lifecycle / "builds" / "open_data" / "main" / "build"
    assert (result / "open_data.csv").read_text() == "build\nmain\n"
    assert "The check" not in built.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["libraries"], "is there already"),
        (["park-access"], "would both be called"),
        (["ingest"], "is taken"),
        (["../x"], "is no name of a product"),
        (["parks/north"], "is no name of a product"),
        ([" "], "has no name"),
        (["fresh", "--owner", "nobody"], "must be an e-mail address"),
    ],
)
def test_what_cannot_be_changes_nothing(
    arguments: list[str], said: str, checkout: Path, project: Path
) -> None:
    (checkout / "products" / "park_access").rename(checkout / "products" / "elsewhere")
    file = products_file(checkout)
    before = file.read_bytes(), sorted(file.parent.iterdir())
    env = {"DATA_ENGINEERING_ROOT": str(checkout)}
    result = orchestration("new", *arguments, env=env, project=project)
    assert result.returncode == 1
    assert said in result.stderr
    assert (file.read_bytes(), sorted(file.parent.iterdir())) == before
