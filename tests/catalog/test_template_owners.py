from pathlib import Path

import pytest

from orchestration.catalog.ingest_groups import IngestGroup
from orchestration.catalog.ingest_templates import read_templates
from orchestration.catalog.template_owners import template_owners

TEMPLATES = {
    "dcp_lots": "id: dcp_lots",
    "dpr_parks": "id: dpr_parks\nattributes: {custom: {owners: ['team:parks']}}",
    "dot_many": "id: dot_raw\ndatasets: [{id: dot_signs}, {id: dot_lights}]",
    "doe_schools": "id: doe_schools",
    "unused": "id: unused",
}
RECIPES = {
    "pluto": ["dcp_lots", "dot_lights", "dpr_parks", "doe_schools", "of_no_template"],
    "colp": ["dcp_lots"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in TEMPLATES.items():
        (tmp_path / f"{name}.yml").write_text(text)
    for name, inputs in RECIPES.items():
        datasets = ", ".join(f"{{id: {each}}}" for each in inputs)
        recipe = tmp_path / name / "recipe.yml"
        recipe.parent.mkdir()
        recipe.write_text(f"inputs: {{datasets: [{datasets}]}}\n")
    return tmp_path


def test_a_template_is_owned_by_itself_its_group_or_those_who_take_it_in(folder: Path) -> None:
    groups = [
        IngestGroup(name="schools", templates=("doe_*",), owners=("team:schools",)),
        IngestGroup(name="all", templates=("*_schools", "dcp_*")),
    ]
    recipes = {
        folder / "pluto" / "recipe.yml": ["team:tax", "a@example.org"],
        folder / "colp" / "recipe.yml": ["team:lots", "team:tax"],
        folder / "missing" / "recipe.yml": ["team:nobody"],
    }
    assert template_owners(read_templates(folder), groups, recipes) == {
        "dcp_lots": ("team:tax", "a@example.org", "team:lots"),
        "dot_many": ("team:tax", "a@example.org"),
        "dpr_parks": ("team:parks",),
        "doe_schools": ("team:schools",),
    }


def test_an_owner_whom_dagster_would_refuse_is_a_warning_of_the_template(tmp_path: Path) -> None:
    custom = "attributes: {custom: {owners: [nobody, 'team:parks']}}\n"
    (tmp_path / "dpr_parks.yml").write_text(f"id: dpr_parks\n{custom}")
    [template] = read_templates(tmp_path)
    assert template.owners == ("team:parks",)
    assert template.warnings == (
        "attributes.custom.owners: 'nobody' must be an e-mail address or `team:` and a name, such "
        "as team:housing",
    )
