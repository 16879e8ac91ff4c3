import ast
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from dagster import AssetKey, Definitions
from dagster._core.workspace.load import location_origins_from_yaml_paths
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration import OrchestrationError
from orchestration.catalog.checkout import PROJECT_ROOT, SAMPLE_ROOT, products_file
from orchestration.catalog.ingest_groups import Ingest
from orchestration.catalog.products import Product, ProductsFile, read_products, read_products_file
from orchestration.generator.generate import (
    Change,
    generate,
    pending_changes,
    warnings,
    write,
)
from orchestration.generator.render import HEADER, LOCATIONS, WORKSPACE, render
from tests.harness.processes import orchestration, tree

AWKWARD = st.sampled_from(
    ["'", '"', "'''", "\\", "\n", "\r\n", "{{ id }}", "{% raw %}", "{# #}", "\x85", "\u2028", "é"]
)
TEXT = st.lists(AWKWARD | st.text(max_size=6), min_size=1, max_size=4).map("".join)
FIELD = TEXT.filter(lambda text: text.strip() and "\0" not in text)
FOLDER = FIELD.filter(lambda text: not set(text) & set("/\\.")).map(lambda text: text[:40])
VALUES = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
STRATEGIES = st.dictionaries(TEXT, VALUES, min_size=1, max_size=2)
PRODUCTS = st.builds(
    Product,
    id=FIELD,
    build_command=FIELD,
    path=FOLDER,
    recipe=FOLDER,
    description=st.none() | FIELD,
    owners=st.lists(FIELD.map(lambda text: f"team:{text}"), max_size=2).map(tuple),
    category=st.none() | FIELD,
    version_strategy=st.none() | FIELD | STRATEGIES,
    python=st.none() | FIELD,
)


def module_of(product: Product) -> str:
    return render(ProductsFile(products=(product,)))[LOCATIONS / f"{product.slug}.py"]


def arguments_of(module: str) -> dict[str, Any]:
    """What the module calls its factory with; an argument that is no literal is an error."""
    assignment = ast.parse(module).body[-1]
    assert isinstance(assignment, ast.Assign)
    assert isinstance(assignment.value, ast.Call)
    return {
        str(keyword.arg): ast.literal_eval(keyword.value) for keyword in assignment.value.keywords
    }


def definitions_of(module: str) -> Definitions:
    namespace: dict[str, Any] = {}
    exec(compile(module, "module", "exec"), namespace)
    definitions = namespace["defs"]
    assert isinstance(definitions, Definitions)
    return definitions


@given(product=PRODUCTS)
@settings(max_examples=200)
def test_any_string_survives_rendering_unchanged(product: Product) -> None:
    arguments = arguments_of(module_of(product))
    assert Product(**arguments) == product


@given(product=PRODUCTS)
@settings(max_examples=20)
def test_a_module_with_any_strings_loads(product: Product) -> None:
    keys = definitions_of(module_of(product)).resolve_all_asset_keys()
    assert AssetKey([product.slug, "build"]) in keys


@given(products=st.lists(PRODUCTS, max_size=3, unique_by=lambda product: product.slug))
@settings(max_examples=20)
def test_same_input_same_bytes(products: list[Product]) -> None:
    file = ProductsFile(products=tuple(products))
    assert render(file) == render(file.model_copy(deep=True))


@pytest.mark.parametrize("value", ["2025-01-01", ".nan", ".inf", "2025-01-01 10:00:00"])
def test_what_yaml_takes_for_a_date_or_a_number_loads_or_is_refused(
    tmp_path: Path, value: str
) -> None:
    file = tmp_path / "products.yml"
    file.write_text(
        f"products:\n- id: a\n  build_command: make\n  version_strategy: {{pin: {value}}}\n"
    )
    try:
        [product] = read_products(file)
    except OrchestrationError:
        return
    definitions_of(module_of(product))


def test_the_ingest_module_holds_the_groups_and_loads(tmp_path: Path) -> None:
    path = tmp_path / "products.yml"
    path.write_text(
        "products: []\n"
        "ingest:\n"
        "  groups:\n"
        "  - {name: open data, templates: ['bpl_*'], schedule: 0 0 * * 0, version: '{{ date }}'}\n"
    )
    file = read_products_file(path)
    module = render(file)[LOCATIONS / "ingest.py"]
    assert Ingest(**arguments_of(module)) == file.ingest
    definitions_of(module)


def test_a_group_that_names_no_template_is_a_warning_only() -> None:
    groups = [{"name": "g", "templates": ["bpl_*", "bpl_librarys", "xyz_*"]}]
    file = ProductsFile.model_validate({"products": [], "ingest": {"groups": groups}})
    assert warnings(file, SAMPLE_ROOT) == [
        "ingest group 'g': no template is called bpl_librarys; did you mean bpl_libraries?",
        "ingest group 'g': no template is called xyz_*",
    ]


def test_a_template_that_cannot_be_used_is_named_with_its_line(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = project / "templates" / "product.py.jinja"
    template.write_text(template.read_text() + "{% if %}\n")
    line = len(template.read_text().splitlines())
    monkeypatch.setattr("orchestration.generator.render.PROJECT_ROOT", project)
    with pytest.raises(OrchestrationError) as error:
        render(ProductsFile(products=()))
    assert str(error.value).startswith(f"{template}:{line}: ")


def test_generating_again_touches_nothing(project: Path) -> None:
    generate(SAMPLE_ROOT, project)
    before = tree(project)
    generate(SAMPLE_ROOT, project)
    assert tree(project) == before


def test_a_changed_product_changes_its_own_module_only(project: Path, checkout: Path) -> None:
    before = tree(project)
    products = checkout / "products" / "products.yml"
    products.write_text(products.read_text().replace("bash build.sh", "make"))
    _, changes = generate(checkout, project)
    after = tree(project)
    module = str(LOCATIONS / "park_access.py")
    assert [str(change.path) for change in changes] == [module]
    assert {path for path in after if after[path] != before.get(path)} == {module}
    assert b"build_command='make'" in after[module][0]


def test_the_module_of_a_product_that_is_gone_goes(project: Path, checkout: Path) -> None:
    products = checkout / "products" / "products.yml"
    products.write_text(products.read_text().partition("- id: park access")[0])
    generate(checkout, project)
    assert sorted(path.name for path in (project / LOCATIONS).glob("*.py")) == [
        "__init__.py",
        "ingest.py",
        "libraries.py",
        "operations.py",
    ]
    assert "park_access" not in (project / WORKSPACE).read_text()


def test_a_file_it_did_not_generate_is_left_alone(project: Path) -> None:
    own = project / LOCATIONS / "my_notes.py"
    own.write_text("# mine\n")
    generate(SAMPLE_ROOT, project)
    assert own.read_text() == "# mine\n"


@pytest.mark.parametrize("path", [LOCATIONS / "libraries.py", WORKSPACE])
def test_a_file_it_did_not_generate_is_not_written_over(project: Path, path: Path) -> None:
    (project / path).write_text("# mine\n")
    (project / LOCATIONS / "park_access.py").unlink()
    before = tree(project)
    with pytest.raises(OrchestrationError, match=str(path)):
        generate(SAMPLE_ROOT, project)
    assert tree(project) == before


def test_a_file_edited_by_hand_below_its_header_is_brought_back(project: Path) -> None:
    module = project / LOCATIONS / "libraries.py"
    expected = module.read_bytes()
    module.write_bytes(HEADER.encode() + b"\nno python\xff\r\n")
    generate(SAMPLE_ROOT, project)
    assert module.read_bytes() == expected


def test_what_a_killed_generator_left_is_cleaned_up(project: Path) -> None:
    for folder in (project, project / LOCATIONS):
        (folder / ".libraries.py.x1.generating").write_text("half a fi")
    generate(SAMPLE_ROOT, project)
    assert not list(project.rglob("*.generating"))


def test_those_who_write_at_once_leave_each_others_files_alone(project: Path) -> None:
    file = read_products_file(products_file(SAMPLE_ROOT))
    changes = [Change(path, None, text) for path, text in render(file).items()]

    def again() -> None:
        for _ in range(30):
            write(changes, project)

    with ThreadPoolExecutor() as pool:
        for writing in [pool.submit(again) for _ in range(4)]:
            writing.result()
    assert not pending_changes(file, project)


def test_a_write_that_fails_leaves_everything_as_it_was(project: Path) -> None:
    module = project / LOCATIONS / "libraries.py"
    module.unlink()
    (module / "in the way").mkdir(parents=True)
    before = tree(project)
    with pytest.raises(OSError, match="libraries"):
        write([Change(LOCATIONS / "libraries.py", None, "new")], project)
    assert tree(project) == before


def test_check_shows_what_is_stale_and_writes_nothing(project: Path, checkout: Path) -> None:
    products = checkout / "products" / "products.yml"
    text = products.read_text()
    text = text.partition("- id: capital-projects")[0] + "- id: new\n  build_command: make\n"
    products.write_text(text.replace("bash build.sh", "make"))
    env = {"DATA_ENGINEERING_ROOT": str(checkout)}
    before = tree(project)

    checked = orchestration("generate", "--check", env=env, project=project)
    assert checked.returncode == 1
    assert tree(project) == before
    shown = checked.stdout.splitlines()
    assert "+++ b/orchestration/locations/new.py" in shown
    assert "--- a/orchestration/locations/capital_projects.py" in shown
    assert "-    build_command='bash build.sh'," in shown
    assert "+    build_command='make'," in shown
    assert '+      location_name: "new"' in shown
    assert "warning: product 'new': products/new is missing" in checked.stderr

    assert orchestration("generate", env=env, project=project).returncode == 0
    again = orchestration("generate", "--check", env=env, project=project)
    assert (again.returncode, again.stdout) == (0, "")


def test_a_wrong_list_generates_nothing_and_says_all_that_is_wrong(
    project: Path, checkout: Path
) -> None:
    products = checkout / "products" / "products.yml"
    products.write_text("products:\n- id: 311\n  build_command: no\n")
    before = tree(project)
    result = orchestration(
        "generate", env={"DATA_ENGINEERING_ROOT": str(checkout)}, project=project
    )
    assert result.returncode == 1
    assert f"{products}:2: " in result.stderr
    assert f"{products}:3: " in result.stderr
    assert "Traceback" not in result.stderr
    assert tree(project) == before


def test_a_product_without_a_recipe_is_a_warning_only(checkout: Path) -> None:
    file = read_products_file(checkout / "products" / "products.yml")
    (checkout / "products" / "libraries" / "recipe.yml").unlink()
    shutil.rmtree(checkout / "products" / "park_access")
    found = warnings(file, checkout)
    assert [line.partition(";")[0] for line in found] == [
        "product 'libraries': products/libraries/recipe.yml is missing",
        "product 'park access': products/park_access is missing",
    ]


def test_the_workspace_is_dagsters_and_holds_no_path_of_this_machine() -> None:
    workspace = PROJECT_ROOT / WORKSPACE
    assert str(PROJECT_ROOT) not in workspace.read_text()
    origins = location_origins_from_yaml_paths([str(workspace)])
    assert [origin.location_name for origin in origins] == [
        "ingest",
        "libraries",
        "park_access",
        "capital_projects",
    ]
    for origin in origins:
        target = origin.loadable_target_origin
        assert target.module_name == f"orchestration.locations.{origin.location_name}"
        assert target.working_directory == "."


def test_location_names_stay_text_where_yaml_would_read_something_else(tmp_path: Path) -> None:
    ids = ["no", "null", "1e3", "~", "y"]
    products = tuple(Product.model_validate({"id": i, "build_command": "make"}) for i in ids)
    workspace = tmp_path / "workspace.yaml"
    workspace.write_text(render(ProductsFile(products=products))[WORKSPACE])
    names = [origin.location_name for origin in location_origins_from_yaml_paths([str(workspace)])]
    assert names == ["ingest", "no", "null", "_1e3", "_", "y"]
