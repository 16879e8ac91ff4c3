from pathlib import Path

import pytest

from orchestration import OrchestrationError
from orchestration.catalog.checkout import SAMPLE_ROOT
from orchestration.catalog.recipes import RecipeInputs, recipe_inputs
from orchestration.catalog.templated_yaml import UNKNOWN, templated_mapping
from tests.harness.mutations import mutated
from tests.harness.processes import NYC


def recipe(tmp_path: Path, text: str, name: str = "recipe.yml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def dataset_list(*ids: str) -> str:
    return "inputs:\n  datasets:\n" + "".join(f"  - name: {each}\n" for each in ids)


def test_a_recipe_that_is_no_yaml_until_it_is_rendered_is_read(tmp_path: Path) -> None:
    text = "version: {{ BUILD_ENV_VERSION }}\nenv: {A: {{ B.c[0] }}}\n" + dataset_list("pad")
    assert recipe_inputs(recipe(tmp_path, text)).datasets == ("pad",)


def test_a_dataset_that_depends_on_a_variable_does_not_hide_the_others(tmp_path: Path) -> None:
    text = dataset_list("pad") + "{% if X == 'y' %}\n  - name: no\n{% endif %}\n  - id: pluto\n"
    assert recipe_inputs(recipe(tmp_path, text)).datasets == ("pad", "pluto")


def test_a_recipe_is_read_without_what_the_environment_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # or a location would look different to everybody who loads it
    monkeypatch.setenv("BUILD_ENV_SOURCE", "secret")
    path = recipe(tmp_path, "a: {{ BUILD_ENV_SOURCE }}\n")
    assert templated_mapping(path) == {"a": UNKNOWN}


def test_a_base_recipe_gives_its_datasets_too_each_once(tmp_path: Path) -> None:
    recipe(tmp_path, dataset_list("pluto", "cscl"), "base.yml")
    path = recipe(tmp_path, "base_recipe: base.yml\n" + dataset_list("zap", "pluto"))
    assert recipe_inputs(path) == RecipeInputs(("zap", "pluto", "cscl"))


def test_only_what_ingest_archives_is_an_input(tmp_path: Path) -> None:
    text = """\
inputs:
  dataset_defaults: {source: edm.private}
  datasets:
  - id: secret
  - {id: gdb, source: edm.recipes.raw_datasets}
  - {id: pad, source: edm.recipes.datasets}
  - {id: db-zap, source: edm.publishing.published}
"""
    assert recipe_inputs(recipe(tmp_path, text)).datasets == ("gdb", "pad")


def test_the_base_of_a_base_gives_nothing_as_in_dcpy_and_a_warning(tmp_path: Path) -> None:
    recipe(tmp_path, dataset_list("pad"), "base.yml")
    recipe(tmp_path, "base_recipe: base.yml\n" + dataset_list("pluto"), "middle.yml")
    path = recipe(tmp_path, "base_recipe: middle.yml\n" + dataset_list("zap"))
    inputs = recipe_inputs(path)
    assert inputs.datasets == ("zap", "pluto")
    assert inputs.warning and "Add to recipe.yml what it needs of base.yml" in inputs.warning


def test_the_versions_that_a_recipe_or_its_base_names_are_known(tmp_path: Path) -> None:
    recipe(tmp_path, "inputs: {datasets: [{id: pad, version: 24v4}, {id: zap}]}", "base.yml")
    text = "base_recipe: base.yml\ninputs: {datasets: [{id: dob, version: 20250430}]}"
    assert recipe_inputs(recipe(tmp_path, text)).pinned == {("pad", "24v4"), ("dob", "20250430")}


@pytest.mark.parametrize("base", ["recipe.yml", "./recipe.yml", "other.yml", "../{}/recipe.yml"])
def test_a_base_recipe_that_leads_back_gives_what_dcpy_takes(tmp_path: Path, base: str) -> None:
    recipe(tmp_path, "base_recipe: recipe.yml\n" + dataset_list("pad"), "other.yml")
    text = f"base_recipe: {base.format(tmp_path.name)}\n" + dataset_list("zap")
    inputs = recipe_inputs(recipe(tmp_path, text))
    assert inputs == RecipeInputs(("zap", "pad") if base == "other.yml" else ("zap",))


@pytest.mark.parametrize(
    "text", ["a: 1\n", "inputs:\n", "inputs:\n  datasets:\n", "inputs: {datasets: {}}\n"]
)
def test_a_recipe_without_inputs_has_none(tmp_path: Path, text: str) -> None:
    assert recipe_inputs(recipe(tmp_path, text)).datasets == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [\n", ":2: not valid YAML"),
        ("a: b\n\tc: d\n", ":2: not valid YAML"),
        ("a: 1\nb: {{ x\n", ":2: not valid Jinja"),
        ("a: 1\nb: {{ x|nosuch }}\n", ":2: not valid Jinja"),
        ("a: {{ x }}: b: c\n", "without its variables"),
        ("a: 1\nb: !!timestamp x\n", "not valid YAML"),
        ("a: 1\nb: !!bool x\n", "not valid YAML"),
        ("- a\n", "must be a mapping"),
        ("", "must be a mapping"),
        ("inputs: {datasets: [pad]}\n", "must have an id"),
        ("inputs: {datasets: [{id: 311}]}\n", "must have an id"),
        ("base_recipe: gone.yml\n", "gone.yml cannot be read: No such file"),
        ("base_recipe: .\n", "cannot be read"),
        ('base_recipe: "a\\0b"\n', "null byte"),
        ("[" * 200_000, "not valid YAML"),
        ("- " * 200_000, "not valid YAML"),
    ],
)
def test_a_recipe_that_cannot_be_read_says_where_and_why(
    tmp_path: Path, text: str, said: str
) -> None:
    path = recipe(tmp_path, text)
    with pytest.raises(OrchestrationError) as error:
        recipe_inputs(path)
    assert str(tmp_path) in str(error.value)
    assert said in str(error.value)


def test_bytes_that_are_no_text_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yml"
    path.write_bytes(b"a: \xff\n")
    with pytest.raises(OrchestrationError, match=r"recipe\.yml.*UTF-8"):
        recipe_inputs(path)


def test_a_template_expression_cannot_reach_the_program(tmp_path: Path) -> None:
    path = recipe(tmp_path, "a: {{ ''.__class__.__mro__[1].__subclasses__() }}\n")
    try:
        assert "class" not in str(templated_mapping(path))
    except OrchestrationError as error:
        assert str(path) in str(error)


def test_the_real_recipes_name_their_inputs(nyc: Path) -> None:
    products = nyc / "products"
    found = {path: recipe_inputs(path).datasets for path in products.glob("*/recipe*.yml")}
    assert len(found) == 18
    assert all(found.values())
    libraries = ["nypl_libraries", "bpl_libraries", "qpl_libraries"]
    assert list(found[products / "template" / "recipe.yml"][:3]) == libraries
    pluto = products / "pluto"
    # its base recipe is the other one
    assert set(found[pluto / "recipe-minor.yml"]) >= set(found[pluto / "recipe.yml"])


def test_damaged_recipes_give_a_list_or_a_sentence(tmp_path: Path) -> None:
    files = [path for root in (SAMPLE_ROOT, NYC) for path in root.glob("products/*/recipe*.yml")]
    path = tmp_path / "recipe.yml"
    refused = 0
    for content in mutated(sorted(files), 300):
        path.write_bytes(content)
        try:
            assert all(isinstance(dataset, str) for dataset in recipe_inputs(path).datasets)
        except OrchestrationError as error:
            refused += 1
            assert str(tmp_path) in str(error)
    assert 20 < refused < 280
