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
from orchestration.catalog.recipes import recipe_inputs
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
        source_id="bpl_libraries",
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


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("key: \"{{ version.split('-')[0] }}/x.csv\"", "{{ version }}/x.csv"),
        ("key: 'x/{{ version[:4] | int - 1 }}.csv'", "x/{{ version }}.csv"),
        (
            "key: '{% set y = version[:4] | int %}{{ y }}/{{ 100 // y }}'",
            "{{ version }}/{{ version }}",
        ),
        (
            "key: '{% set y, q = version.split(\"Q\") %}20{{ y }}_{{ q }}'",
            "20{{ version }}_{{ version }}",
        ),
        ("key: '{{ \"%02d\" % (version | int) }}/{{ version | nosuchtest }}'", None),
        ('key: \'{{ {"25A": "a"}[version] }}\'', "{{ version }}"),
        ("key: '{{ months[version[2:] | int] }}/{{ [].pop() }}'", "{{ version }}/{{ version }}"),
        ("key: '{% raw %}{{ x }}{% endraw %}{{ 5 | dictsort }}'", "{{ x }}{{ version }}"),
    ],
)
def test_what_only_the_version_decides_does_not_keep_a_template_from_running(
    tmp_path: Path, text: str, source: str | None
) -> None:
    body = f"id: a\ningestion:\n  source:\n    type: s3\n    {text}\n"
    template = read(tmp_path, a=body)["a"]
    if source is None:
        assert ":5: not valid Jinja: No filter named 'nosuchtest'" in str(template.problem)
    else:
        assert (template.source, template.datasets) == (source, ("a",))
        assert (template.problem, template.warnings) == (None, ())


@pytest.mark.parametrize(
    "text",
    [
        "{% if version == '25A' %}id: a{% endif %}",
        "{% for part in version.split('-') %}id: a{% endfor %}",
        "id: a\nday: !!timestamp {{ version }}\n",
        "id: a\n{{ version }}: b: c\n",
        "{% if version %}id: a{% else %}id: b{% endif %}\nx: {{ 5 | dictsort }}\n",
    ],
)
def test_what_cannot_be_shown_without_the_version_is_a_warning_at_most(
    tmp_path: Path, text: str
) -> None:
    template = read(tmp_path, a=text)["a"]
    assert template.problem is None
    assert template.datasets or "without its variables" in template.warnings[0]


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
    assert templates_of(tmp_path, datasets) == {
        "playgrounds": "sites",
        "pad": "pad",
        "gardens": "sites",
        "pools": "flow",
    }


def test_a_template_leads_to_what_it_gives_and_not_to_what_it_is_called(tmp_path: Path) -> None:
    read(
        tmp_path,
        courts="id: nyc_courts\n",
        gdb="id: gdb\ndatasets: [{id: rail}, {id: nodes}]\n",
        other="'id' : other\n",
        torn="id: [\n",
    )
    datasets = ["courts", "nyc_courts", "gdb", "rail", "other", "torn"]
    assert templates_of(tmp_path, datasets) == {
        "nyc_courts": "courts",
        # what was read, as it was, is archived, too
        "gdb": "gdb",
        "rail": "gdb",
        "other": "other",
        "torn": "torn",
    }


def test_an_unreadable_template_does_not_hide_the_others_from_lineage(tmp_path: Path) -> None:
    read(tmp_path, sites="datasets:\n- id: gardens\n", a="datasets:\n- id: gardens\n\t- x\n")
    (tmp_path / "b.yml").symlink_to(tmp_path / "nowhere")
    (tmp_path / "c.yml").mkdir()
    (tmp_path / ".#sites.yml").symlink_to("nobody@nowhere")
    assert templates_of(tmp_path, ["gardens"]) == {"gardens": "sites"}


def test_without_templates_there_is_no_lineage(tmp_path: Path) -> None:
    assert templates_of(tmp_path / "ingest_templates", ["pad"]) == {}


def test_the_real_inputs_lead_to_templates_that_give_them(nyc: Path) -> None:
    datasets = {
        dataset
        for path in (nyc / "products").glob("*/recipe*.yml")
        for dataset in recipe_inputs(path).datasets
    }
    given = {
        dataset: template.id
        for template in read_templates(templates_folder(nyc))
        for dataset in (*template.datasets, template.source_id or "")
    }
    found = templates_of(templates_folder(nyc), datasets)
    assert found == {dataset: given[dataset] for dataset in datasets & set(given)}
    assert templates_of(templates_folder(nyc), ["dcp_cscl_rail"]) == {
        "dcp_cscl_rail": "dcp_cscl_gdb"
    }
    assert not {"dcp_mappluto_clipped", "dcp_projects"} & set(found)


def test_damaged_templates_are_read_or_say_why(tmp_path: Path) -> None:
    files = [path for root in (SAMPLE_ROOT, NYC) for path in root.glob("ingest_templates/*.yml")]
    for number, content in enumerate(mutated(sorted(files), 300)):
        (tmp_path / f"t{number}.yml").write_bytes(content)
    templates = read_templates(tmp_path)
    assert len(templates) == 300
    assert 20 < len([t for t in templates if t.problem]) < 280
    assert all(f"{t.id}.yml" in t.problem for t in templates if t.problem)
