from pathlib import Path

import pytest

from orchestration import OrchestrationError
from orchestration.catalog.checkout import SAMPLE_ROOT, templates_folder
from orchestration.catalog.ingest_templates import (
    IngestTemplate,
    read_template,
    read_templates,
    templates_of,
)
from tests.harness.mutations import mutated
from tests.harness.processes import NYC


def read(tmp_path: Path, **files: str) -> dict[str, IngestTemplate]:
    for name, text in files.items():
        (tmp_path / f"{name}.yml").write_text(text)
    return {template.id: template for template in read_templates(tmp_path)}


def test_a_template_gives_what_the_ui_shows() -> None:
    template = read_template(templates_folder(SAMPLE_ROOT) / "bpl_libraries.yml")
    assert template == IngestTemplate(
        id="bpl_libraries",
        name="BPL Libraries",
        description="Branches of the Brooklyn Public Library",
        url="https://www.bklynlibrary.org/locations",
        source_type="local_file",
        source="data/bpl_libraries.csv",
        datasets=("bpl_libraries",),
    )


def test_a_template_of_several_datasets_names_them_all() -> None:
    template = read_template(templates_folder(SAMPLE_ROOT) / "dpr_sites.yml")
    assert template.datasets == ("dpr_greenthumb", "dpr_playgrounds")
    assert template.source_type == "local_file"


def test_a_template_that_is_no_yaml_until_it_is_rendered_is_read(tmp_path: Path) -> None:
    text = "id: a\ningestion: {source: {type: s3, key: {{ version }}}}\n"
    template = read(tmp_path, a=text)["a"]
    assert (template.source_type, template.problem) == ("s3", None)


def test_all_real_templates_are_read(nyc: Path) -> None:
    templates = read_templates(templates_folder(nyc))
    assert len(templates) == 206
    assert [t.id for t in templates if t.problem or t.warnings] == []
    assert [t.id for t in templates if not t.name or not t.source_type or not t.datasets] == []


def test_a_broken_template_says_why_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yml").write_bytes(b"id: \xff\n")
    (tmp_path / "folder.yml").mkdir()
    (tmp_path / "gone.yml").symlink_to(tmp_path / "nowhere")
    found = read(tmp_path, good="id: good\n", tab="id: tab\n\tname: x\n", text="hello\n", empty="")
    assert {id for id, template in found.items() if template.problem is None} == {"good"}
    for id, template in found.items():
        assert id == "good" or f"{id}.yml" in str(template.problem)
    assert "tab.yml:2: " in str(found["tab"].problem)


@pytest.mark.parametrize(
    "text",
    [
        *("datasets: 5\n", "datasets: true\n", "datasets: {a: b}\n", "datasets: [5]\n"),
        *("source: 5\n", "attributes: []\n", "attributes: {name: 5}\n"),
        "ingestion: {source: {type: {a: b}}}\n",
    ],
)
def test_a_field_of_another_type_breaks_nothing(tmp_path: Path, text: str) -> None:
    # dcpy has the say on what a template is; here it is only shown
    found = read(tmp_path, odd=text, good="id: good\n")
    assert set(found) == {"good", "odd"}


def test_hidden_files_of_editors_are_no_templates(tmp_path: Path) -> None:
    (tmp_path / ".#a.yml").symlink_to("nobody@nowhere")
    (tmp_path / "a.yml~").touch()
    assert set(read(tmp_path, a="id: a\n")) == {"a"}


def test_a_checkout_without_templates_says_so(tmp_path: Path) -> None:
    with pytest.raises(OrchestrationError, match="DATA_ENGINEERING_ROOT"):
        read_templates(tmp_path / "ingest_templates")


def depends_on(*names: str) -> str:
    return f"depends_on: [{', '.join(names)}]\n"


def test_dependencies_are_kept_each_once(tmp_path: Path) -> None:
    # Dagster refuses an asset that names one twice, and the whole location with it.
    found = read(tmp_path, a=depends_on("b", "c", "b"), b="{}", c="{}")
    assert found["a"].depends_on == ("b", "c")


def test_an_unknown_dependency_is_reported_and_left_out(tmp_path: Path) -> None:
    found = read(tmp_path, a=depends_on("nobody", "b"), b="id: b\n")
    assert found["a"].depends_on == ("b",)
    assert found["a"].warnings == ("depends_on names no template: nobody",)
    assert found["a"].problem is None


def test_a_cycle_is_reported_in_its_direction_and_the_rest_is_kept(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        a=depends_on("b"),
        b=depends_on("c", "d"),
        c=depends_on("a"),
        d="{}",
        e=depends_on("a"),
    )
    assert {id: template.depends_on for id, template in found.items()} == {
        "a": (),
        "b": ("d",),
        "c": (),
        "d": (),
        "e": ("a",),
    }
    shown = {"a -> b -> c -> a", "b -> c -> a -> b", "c -> a -> b -> c"}
    for id in "abc":
        [warning] = found[id].warnings
        assert warning.rpartition(": ")[2] in shown
    assert found["d"].warnings == found["e"].warnings == ()


def test_a_template_that_depends_on_itself_is_told(tmp_path: Path) -> None:
    template = read(tmp_path, a=depends_on("a"))["a"]
    assert template.depends_on == ()
    assert "a -> a" in template.warnings[0]


@pytest.mark.parametrize("value", ["b", "[5]", "{b: c}", "[[b]]"])
def test_dependencies_that_are_no_list_of_names_are_the_templates_problem(
    tmp_path: Path, value: str
) -> None:
    found = read(tmp_path, a=f"depends_on: {value}\n", b="{}")
    assert "depends_on must be a list" in str(found["a"].problem)
    assert found["b"].problem is None


def test_a_dataset_leads_to_the_template_that_gives_it(tmp_path: Path) -> None:
    read(
        tmp_path,
        pad="id: pad\n",
        sites="datasets:\n- id: gardens\n- id: 'playgrounds'\n",
        flow="datasets: [{id: courts}, {id: pools}]\n",
        other="description: 'id: gardens'\n",
    )
    datasets = ["playgrounds", "pad", "gardens", "pools", "nobody", "../pad", "x" * 300]
    assert sorted(templates_of(tmp_path, datasets)) == ["flow", "pad", "sites"]


def test_an_unreadable_template_does_not_hide_the_others_from_lineage(tmp_path: Path) -> None:
    read(tmp_path, sites="datasets:\n- id: gardens\n", a="datasets:\n- id: gardens\n\t- x\n")
    (tmp_path / "b.yml").symlink_to(tmp_path / "nowhere")
    (tmp_path / "c.yml").mkdir()
    (tmp_path / ".#sites.yml").symlink_to("nobody@nowhere")
    assert templates_of(tmp_path, ["gardens"]) == ["sites"]


def test_without_templates_there_is_no_lineage(tmp_path: Path) -> None:
    assert templates_of(tmp_path / "ingest_templates", ["pad"]) == []


def test_damaged_templates_are_read_or_say_why(tmp_path: Path) -> None:
    files = [path for root in (SAMPLE_ROOT, NYC) for path in root.glob("ingest_templates/*.yml")]
    for number, content in enumerate(mutated(sorted(files), 300)):
        (tmp_path / f"t{number}.yml").write_bytes(content)
    templates = read_templates(tmp_path)
    assert len(templates) == 300
    assert 20 < len([t for t in templates if t.problem]) < 280
    assert all(f"{t.id}.yml" in t.problem for t in templates if t.problem)
