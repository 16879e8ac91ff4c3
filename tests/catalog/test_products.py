from pathlib import Path

import pytest
import yaml
from dagster import AssetSpec
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration import OrchestrationError
from orchestration.catalog.checkout import SAMPLE_ROOT, products_file
from orchestration.catalog.names import slug_of
from orchestration.catalog.products import Product, build_name, read_products
from orchestration.catalog.yaml_file import YamlFileError

GOOD = "products:\n- id: a\n  build_command: make\n"


def read(tmp_path: Path, content: str | bytes) -> tuple[Product, ...]:
    path = tmp_path / "products.yml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_products(path)


def problems(tmp_path: Path, content: str | bytes) -> list[str]:
    """What is wrong, one `line: text` each, once the message as a whole is known to be whole."""
    with pytest.raises(YamlFileError) as raised:
        read(tmp_path, content)
    found = raised.value.problems
    assert str(raised.value).splitlines() == [
        f"{tmp_path}/products.yml:{problem.line}: {problem.text}" for problem in found
    ]
    return [f"{problem.line}: {problem.text}" for problem in found]


def field(line: str) -> str:
    return f"{GOOD}  {line}\n"


def test_the_simplest_list_is_enough(tmp_path: Path) -> None:
    text = "products:\n- id: pluto cbbr\n  build_command: echo running!\n"
    [product] = read(tmp_path, text)
    assert (product.id, product.build_command) == ("pluto cbbr", "echo running!")
    assert (product.folder, product.recipe) == ("pluto cbbr", "recipe.yml")


def test_the_real_list_loads(nyc: Path) -> None:
    products = read_products(products_file(nyc))
    assert len(products) == 19
    assert {"pluto cbbr", "db-zap-opendata"} <= {product.id for product in products}


def test_the_sample_has_the_ids_that_need_a_slug() -> None:
    slugs = {p.id: p.slug for p in read_products(products_file(SAMPLE_ROOT))}
    assert slugs == {
        "libraries": "libraries",
        "park access": "park_access",
        "capital-projects": "capital_projects",
    }


@pytest.mark.parametrize(
    ("product_id", "slug"),
    [("a - b", "a_b"), ("311", "_311"), ("a__b", "a__b"), ("Ünïté", "_n_t_")],
)
def test_a_slug_is_an_identifier_with_one_underscore_for_each_run(
    product_id: str, slug: str
) -> None:
    assert slug_of(product_id) == slug
    assert slug.isidentifier()


def test_everything_that_is_wrong_is_said_at_once_with_line_and_product(tmp_path: Path) -> None:
    text = """\
products:
- id: 311
  build_command: no
- id: b
  biuld_command: make
  owners: [nobody, team:housing, someone@example.org]
- id: c
  build_command: ""
  path: ../../etc
  recipe: /etc/passwd
- make
"""
    found = problems(tmp_path, text)
    assert [line.split(":")[0] for line in found] == ["2", "3", "4", "5", "6", "8", "9", "10", "11"]
    number, boolean, missing, unknown, owner, empty, path, recipe, no_mapping = found
    assert "product 311: `id`: YAML reads this as 311" in number
    assert "product 311: `build_command`: YAML reads this as False" in boolean
    assert "quotes" in number
    assert "quotes" in boolean
    assert "product 'b': `build_command` is missing" in missing
    assert "unknown key `biuld_command`; did you mean `build_command`?" in unknown
    assert "'nobody'" in owner
    assert "team:" in owner
    assert "product 'c': `build_command` is empty" in empty
    assert "`path` must be a relative path" in path
    assert "`recipe` must be a relative path" in recipe
    assert "must be a mapping" in no_mapping


def test_an_unknown_key_with_no_near_miss_is_told_the_known_ones(tmp_path: Path) -> None:
    [found] = problems(tmp_path, field("zzz: 1"))
    assert found.startswith("4: product 'a': unknown key `zzz`; known keys: ")
    assert "build_command" in found


def test_a_misspelt_first_key_is_recognised(tmp_path: Path) -> None:
    found = problems(tmp_path, GOOD.replace("products", "product"))
    assert any("unknown key `product`; did you mean `products`?" in line for line in found)


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ("a", "product 'a' is there twice, first in line 2"),
        ("A", "products 'a' and 'A' would both be called `A`"),
    ],
)
def test_an_id_twice_is_found_also_where_only_the_case_differs(
    tmp_path: Path, second: str, said: str
) -> None:
    # A.py and a.py are one file on some systems.
    [found] = problems(tmp_path, f"{GOOD}- id: {second}\n  build_command: make\n")
    assert found.startswith("4: ")
    assert said in found


def test_two_ids_with_one_slug_are_both_named(tmp_path: Path) -> None:
    text = GOOD.replace("id: a", "id: x y") + "- id: x-y\n  build_command: make\n"
    [found] = problems(tmp_path, text)
    assert "'x y'" in found
    assert "'x-y'" in found
    assert "`x_y`" in found


@pytest.mark.parametrize(
    "product_id",
    # Ingest.py and ingest.py, too, are one file on some systems.
    ["class", "None", "ingest", "__init__", "Ingest"],
)
def test_an_id_whose_module_could_not_be_imported_is_refused(
    tmp_path: Path, product_id: str
) -> None:
    [found] = problems(tmp_path, f'products:\n- id: "{product_id}"\n  build_command: make\n')
    assert found.startswith(f"2: product '{product_id}'")
    assert "is taken" in found


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, "an empty file"),
        ("# nothing yet\n", 1, "an empty file"),
        ("- id: a\n", 1, "not a list"),
        ("hello\n", 1, "not a single value"),
        ("products:\n", 1, "`products` must be a list"),
        ("products: {a: b}\n", 1, "`products` must be a list"),
        ("products:\n\t- id: a\n", 2, r"'\t'"),
        ("products:\n- id: [a\n", 3, "not valid YAML"),
        ("products:\n- id: *a\n", 2, "undefined alias"),
        (GOOD + "---\n" + GOOD, 4, "another document"),
        (GOOD + "  build_command: cmake\n", 4, "is there twice, first in line 3"),
        (GOOD + "products: []\n", 4, "is there twice, first in line 1"),
        (field("version_strategy: {x: 1, x: 2}"), 4, "key `x` is there twice"),
        (field("? [a]\n  : b"), 4, "a key must be a word"),
        (field("owners: team:housing"), 4, "`owners` must be a list"),
        (field("description:\n    nested: 1"), 4, "must be text, not a mapping"),
        (field('description: "a\\0b"'), 4, "NUL"),
        (field("<<: 5"), 4, "merge mappings only"),
        (field("description: !!python/name:os.system x"), 4, "not a value that can be read"),
        (field("description: [x]"), 4, "must be text, not a list"),
        (field("version_strategy: 5"), 4, "`version_strategy`"),
        (field("description: !!timestamp x"), 4, "not a value"),
        (field("description: !!bool x"), 4, "not a value"),
        (field("description: !!int ''"), 4, "not a value"),
        (field("description: \0"), 4, "not valid YAML"),
        (field('description: "\\ud800"'), 4, "`description`"),
        (field('description: "\\UFFFFFFFF"'), 1, "not valid YAML"),
        (field('description: "\\U00110000"'), 1, "not valid YAML"),
        (f"%YAML 1.{'1' * 5000}\n---\n{GOOD}", 1, "not valid YAML"),
        (GOOD + "<<<<<<< HEAD\n=======\n>>>>>>> theirs\n", 4, "a merge conflict begins here"),
        (field("retries: 3"), 4, "`retries` must be a mapping"),
        (field("retries: {nmber: 3}"), 4, "unknown key `nmber`; did you mean `number`?"),
        (field("retries: {number: -1}"), 4, "`number`: Input should be greater than or equal"),
        (field("retries: {delay: '5'}"), 4, "`delay`"),
        (field("retries: {stages: [package]}"), 4, "`stages`: Input should be 'ingest'"),
    ],
)
def test_a_file_that_is_not_a_list_of_products_says_what_it_is(
    tmp_path: Path, text: str, line: int, said: str
) -> None:
    [found] = problems(tmp_path, text)
    assert found.startswith(f"{line}: ")
    assert said in found


def test_bytes_that_are_no_text_are_found_in_their_line(tmp_path: Path) -> None:
    [found] = problems(tmp_path, GOOD.encode() + b"  description: caf\xe9\n")
    assert found.startswith("4: not UTF-8")


def test_a_file_saved_by_an_editor_that_adds_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    assert len(read(tmp_path, "\ufeff" + GOOD)) == 1


def test_a_folder_in_its_place_is_an_error_not_a_traceback(tmp_path: Path) -> None:
    with pytest.raises(OrchestrationError, match="cannot be read"):
        read_products(tmp_path)


def test_an_alias_bomb_is_refused_before_it_grows(tmp_path: Path) -> None:
    levels = ["products:\n- id: a\n  build_command: make\n  version_strategy:\n    l0: &l0 [x]\n"]
    for level in range(1, 12):
        aliases = ", ".join([f"*l{level - 1}"] * 9)
        levels.append(f"    l{level}: &l{level} [{aliases}]\n")
    [found] = problems(tmp_path, "".join(levels))
    assert "too large" in found


@pytest.mark.parametrize("text", ["products: &a\n- *a\n", "[" * 50_000, "- " * 50_000])
def test_what_never_ends_is_refused(tmp_path: Path, text: str) -> None:
    [found] = problems(tmp_path, text)
    assert "nest" in found


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    [found] = problems(tmp_path, GOOD + "#" * 1_000_000)
    assert "bytes" in found


def test_merge_keys_work_and_what_a_product_says_itself_wins(tmp_path: Path) -> None:
    text = """\
products:
- &base {id: a, build_command: make, category: housing, owners: [team:housing]}
- {<<: *base, id: b, category: parks}
- {<<: [{category: roads}, *base], id: c}
"""
    assert [(p.id, p.category, p.owners) for p in read(tmp_path, text)] == [
        ("a", "housing", ("team:housing",)),
        ("b", "parks", ("team:housing",)),
        ("c", "roads", ("team:housing",)),
    ]


def test_a_mapping_with_a_merge_key_can_be_used_twice(tmp_path: Path) -> None:
    text = """\
products:
- {id: a, build_command: make, version_strategy: &a {kind: pin, to: pluto}}
- {id: b, build_command: make, version_strategy: &b {<<: *a, to: pad}}
- {id: c, build_command: make, version_strategy: *b}
"""
    assert read(tmp_path, text)[2].version_strategy == {"kind": "pin", "to": "pad"}


@pytest.mark.parametrize("product_id", ["../../etc", "/etc", ".."])
def test_an_id_that_leaves_products_needs_a_path_of_its_own(
    tmp_path: Path, product_id: str
) -> None:
    text = f"products:\n- id: {product_id}\n  build_command: make\n"
    [found] = problems(tmp_path, text)
    assert found.startswith("2: ")
    assert "`path`" in found
    assert len(read(tmp_path, f"{text}  path: etc\n")) == 1


def test_an_id_too_long_for_a_file_name_is_refused(tmp_path: Path) -> None:
    [found] = problems(tmp_path, GOOD.replace("id: a", f"id: {'a' * 300}"))
    assert found.startswith("2: ")


OWNERS = (
    st.text(max_size=12)
    | st.from_regex(r"\s?(team:)?\s?[a-z.@+%_-]{0,8}\s?", fullmatch=True)
    | st.emails()
)


@given(owner=OWNERS)
@settings(max_examples=200)
def test_every_owner_that_is_accepted_is_accepted_by_dagster(owner: str) -> None:
    # Dagster would refuse it when the location loads, and name no line.
    try:
        product = Product.model_validate({"id": "a", "build_command": "make", "owners": [owner]})
    except ValueError:
        return
    AssetSpec("a", owners=list(product.owners))


TOKENS = st.sampled_from(
    [
        *"[]{}:,-?|>#&*!%@`'\"~\n\t ",
        *("\n  ", "- ", ": ", "<<: ", "&a ", "*a ", "---\n", "1_0:59"),
        *("products:\n- ", "id: a\n  ", "build_command: b\n  ", "owners: "),
    ]
)


@given(st.binary(max_size=200) | st.lists(TOKENS | st.text(max_size=3)).map("".join))
@settings(max_examples=500)
def test_arbitrary_text_gives_products_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, content: str | bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "arbitrary.yml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    try:
        read_products(path)
    except OrchestrationError as error:
        assert str(path) in str(error)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.dates() | st.text(max_size=9)
FIELDS = st.sampled_from([*Product.model_fields, "zzz"]) | st.text(max_size=5)
ENTRIES = st.dictionaries(FIELDS, LEAVES | st.lists(LEAVES, max_size=2), max_size=6)


@given(data=st.fixed_dictionaries({"products": st.lists(ENTRIES | LEAVES, max_size=4)}))
@settings(max_examples=300)
def test_arbitrary_fields_give_products_or_errors_within_the_file(
    tmp_path_factory: pytest.TempPathFactory, data: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "arbitrary.yml"
    text = yaml.safe_dump(data, allow_unicode=True)
    path.write_text(text, encoding="utf-8")
    try:
        read_products(path)
    except YamlFileError as error:
        lines = text.count("\n") + 1
        assert all(1 <= problem.line <= lines for problem in error.problems)


def test_a_build_can_be_a_list_of_commands_with_names(tmp_path: Path) -> None:
    path = tmp_path / "products.yml"
    path.write_text(
        "products:\n- id: colp\n  build_command:\n  - ./colp.sh build\n"
        "  - export: ./colp.sh export\n"
    )
    [product] = read_products(path)
    assert [(command.name, command.run) for command in product.commands] == [
        ("1", "./colp.sh build"),
        ("export", "./colp.sh export"),
    ]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("[]", "`build_command` is an empty list"),
        ("[make, 1]", "`build_command` entry 2 must be a command, or `name: command`, as text"),
        ("[{a: make, b: make}]", "entry 1 must be a command"),
        ('[make, ""]', "entry 2 is empty"),
        ("[{a: make}, {a: make}]", "has two commands called 'a'"),
        ("{a: make}", "must be text, not a mapping"),
    ],
)
def test_a_list_of_commands_that_cannot_be_run_is_refused(
    tmp_path: Path, value: str, said: str
) -> None:
    [problem] = problems(tmp_path, f"products:\n- id: a\n  build_command: {value}\n")
    assert problem.startswith("3: product 'a': ") and said in problem


def test_variables_of_the_defaults_are_added_to_a_products_own(tmp_path: Path) -> None:
    path = tmp_path / "products.yml"
    path.write_text(
        "defaults: {env: {A: all, B: all}, build_name: 'dagster_{{ partition }}'}\n"
        "products:\n- id: a\n  build_command: make\n  env: {B: own}\n"
    )
    [product] = read_products(path)
    assert product.env == {"A": "all", "B": "own"}
    assert build_name(product, "main") == "dagster_main"


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("env: {1A: x}", "`1A` is not the name of a variable"),
        ("env: {BUILD_NAME: x}", "`BUILD_NAME` cannot be set here; use `build_name`"),
        ("env: {PORT: 5432}", "YAML reads this as 5432, not as text"),
        (
            "build_name: '{{ version }}'",
            "is not a template over `partition`: 'version' is undefined",
        ),
        ("build_name: '{{'", "is not a template over `partition`"),
        ("build_name: '{{ \"\" }}'", "is empty once it is rendered"),
    ],
)
def test_variables_and_build_names_that_cannot_be_are_refused(
    tmp_path: Path, field: str, said: str
) -> None:
    text = f"products:\n- id: a\n  build_command: make\n  {field}\n"
    [problem] = problems(tmp_path, text)
    assert problem.startswith("4: product 'a': ") and said in problem


@pytest.mark.parametrize("age", ["90.0", "90", "-5.0", "'90'", "-5d", ".nan", "true", "1e9"])
def test_an_age_has_its_unit(tmp_path: Path, age: str) -> None:
    said = "must be a number of days or hours, such as 90d or 12h"
    [problem] = problems(tmp_path, f"{GOOD}retention: {{older_than: {age}}}\n")
    assert problem.startswith("4: ") and said in problem
