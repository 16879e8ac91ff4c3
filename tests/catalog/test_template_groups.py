from collections import Counter
from pathlib import Path

from dagster import AssetSpec, Definitions
from hypothesis import given
from hypothesis import strategies as st

from orchestration.catalog.checkout import templates_folder
from orchestration.catalog.ingest_templates import IngestTemplate, read_template, read_templates
from orchestration.catalog.template_groups import MOST, template_groups


def groups(*names: str, **named: str) -> dict[str, str]:
    return template_groups([IngestTemplate(name) for name in names], named)


def test_few_templates_are_one_group() -> None:
    assert set(groups("bpl_libraries", "dpr_parks", "dpr_sites").values()) == {"ingest"}


def test_many_are_grouped_by_agency_and_those_that_are_alone_together() -> None:
    lots = [f"dpr_{number}" for number in range(MOST - 2)]
    found = groups(*lots, "doe_zones", "doe_schools", "hud_income", "odd")
    assert found["dpr_0"] == "ingest/dpr"
    assert found["doe_zones"] == found["doe_schools"] == "ingest/doe"
    assert found["hud_income"] == found["odd"] == "ingest/other"


def test_what_the_template_or_products_yml_says_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "dpr_parks.yml"
    path.write_text("id: dpr_parks\nattributes: {custom: {group: Green space}}\n")
    templates = [read_template(path), IngestTemplate("dpr_sites"), IngestTemplate("doe_zones")]
    found = template_groups(templates, {"dpr_parks": "parks", "dpr_sites": "parks"})
    assert found == {
        "dpr_parks": "ingest/Green_space",
        "dpr_sites": "ingest/parks",
        "doe_zones": "ingest",
    }


def test_the_real_templates_can_be_looked_at(nyc: Path) -> None:
    found = template_groups(read_templates(templates_folder(nyc)), {})
    assert len(found) == 206
    sizes = Counter(found.values())
    assert max(sizes.values()) <= MOST
    assert sizes["ingest/dot"] == 9
    assert found["dcp_pluto"] == "ingest/dcp/p_t"
    assert len(sizes) < 40


NAMES = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1),
    unique=True,
    max_size=40,
)


@given(NAMES, st.lists(st.from_regex(r"[a-d]{1,2}_[a-dé]{1,6}", fullmatch=True), unique=True))
def test_whatever_the_names_the_groups_are_such_as_dagster_takes(
    names: list[str], more: list[str]
) -> None:
    every = list(dict.fromkeys([*names, *more]))
    found = groups(*every)
    assert list(found.keys() ^ set(every)) == []
    Definitions([AssetSpec(f"a{n}", group_name=found[name]) for n, name in enumerate(every)])


def test_where_one_letter_has_too_many_it_is_divided_by_the_next() -> None:
    found = groups("dcp_b", *(f"dcp_a{number:03}" for number in range(100)))
    assert max(Counter(found.values()).values()) <= MOST
    assert (found["dcp_a005"], found["dcp_b"]) == ("ingest/dcp/a/0_2", "ingest/dcp/b")
