"""Schedules and ingest groups in products.yml: read with their short forms, or refused."""

from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from dagster._utils.schedules import is_valid_cron_string
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from orchestration.catalog.products import ProductsFile, read_products_file
from orchestration.catalog.schedules import Cron, Schedule
from orchestration.catalog.yaml_file import YamlFileError


def read(tmp_path: Path, text: str) -> ProductsFile:
    path = tmp_path / "products.yml"
    path.write_text(text)
    return read_products_file(path)


def problems(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(YamlFileError) as raised:
        read(tmp_path, text)
    return [f"{problem.line}: {problem.text}" for problem in raised.value.problems]


def product(schedule: str) -> str:
    return f"products:\n- id: a\n  build_command: make\n  schedule: {schedule}\n"


@pytest.mark.parametrize(
    ("text", "schedules"),
    [
        ("0 5 * * *", [Schedule(cron="0 5 * * *")]),
        ("on_new_inputs", [Schedule(cron="on_new_inputs")]),
        (
            '{cron: "@daily", timezone: America/New_York, partition: "{{ date }}-nightly"}',
            [Schedule(cron="@daily", timezone="America/New_York", partition="{{ date }}-nightly")],
        ),
        (
            "[0 5 * * *, {cron: 0 6 * * 0, partition: main}]",
            [Schedule(cron="0 5 * * *"), Schedule(cron="0 6 * * 0", partition="main")],
        ),
        ("[]", []),
    ],
)
def test_a_schedule_is_a_time_a_mapping_or_a_list(
    tmp_path: Path, text: str, schedules: list[Schedule]
) -> None:
    [found] = read(tmp_path, product(text)).products
    assert list(found.schedule) == schedules


def test_a_products_own_schedule_replaces_that_of_the_defaults(tmp_path: Path) -> None:
    text = """\
defaults:
  schedule: 0 5 * * *
products:
- {id: a, build_command: make}
- {id: b, build_command: make, schedule: 0 6 * * *}
- {id: c, build_command: make, schedule: []}
"""
    found = {each.id: [s.cron for s in each.schedule] for each in read(tmp_path, text).products}
    assert found == {"a": ["0 5 * * *"], "b": ["0 6 * * *"], "c": []}


def test_everything_wrong_with_schedules_and_groups_is_said_with_its_line(tmp_path: Path) -> None:
    text = """\
defaults:
  schedule: 0 5 * *
products:
- id: a
  build_command: make
  schedule: on_new_input
- id: b
  build_command: make
  schedule:
    cron: 0 5 31 2 *
    timezone: America/NewYork
    partiton: main
- id: c
  build_command: make
  schedule:
  - cron: 0 5 * * *
    partition: a/{{ date }}
  - cron: 0 5 * * *
    partition: "{{ datum }}"
  - partition: main
ingest:
  groups:
  - name: open data
    template: [a]
    templates: []
    schedule: on_new_inputs
    version: ../x
  - open data
  grups: []
"""
    expected = [
        "2: `schedule` is neither a time in cron's notation",
        "6: product 'a': `schedule` is no time in cron's notation; did you mean `on_new_inputs`?",
        "10: product 'b': `cron` is neither a time in cron's notation",
        "11: product 'b': `timezone` is no time zone",
        "12: product 'b': unknown key `partiton`; did you mean `partition`?",
        "17: product 'c': `partition` gives no partition key: of 'a/2026-01-31', it holds '/'",
        "19: product 'c': `partition` is not a template over `date` and `time`: 'datum' is undef",
        "20: product 'c': `cron` is missing",
        "24: ingest group 'open data': unknown key `template`; did you mean `templates`?",
        "25: ingest group 'open data': `templates` is an empty list",
        "26: ingest group 'open data': `schedule` is no time in cron's notation",
        "27: ingest group 'open data': `version` gives no version: of '../x', it holds '/'",
        "28: ingest group 2: must be a mapping with the keys name and templates",
        "29: unknown key `grups`; did you mean `groups`?",
    ]
    found = problems(tmp_path, text)
    assert [line[: len(start)] for line, start in zip(found, expected, strict=True)] == expected


def test_two_groups_that_would_be_one_job_are_both_named(tmp_path: Path) -> None:
    groups = "- {name: x y, templates: [a]}\n  - {name: X-y, templates: [b]}"
    [found] = problems(tmp_path, f"products: []\ningest:\n  groups:\n  {groups}\n")
    assert found.startswith("5: ingest groups 'x y' and 'X-y' would both be called `X_y`")


@given(st.lists(st.sampled_from([*"0159*/,-LRH#", "@daily", " ", "MON", "31"]), max_size=12))
@settings(max_examples=500)
def test_what_is_accepted_as_a_time_dagster_accepts(parts: list[str]) -> None:
    text = "".join(parts)
    try:
        TypeAdapter(Cron).validate_python(text)
    except ValidationError:
        return
    assert is_valid_cron_string(text)


def test_the_date_of_a_key_is_that_of_the_schedules_own_time_zone() -> None:
    time = datetime(2026, 1, 1, 3, tzinfo=UTC).astimezone(ZoneInfo("America/New_York"))
    schedule = Schedule(cron="@daily", partition="{{ date }}-at_{{ time.strftime('%H%M') }}")
    assert schedule.key_at(time) == "2025-12-31-at_2200"


def test_a_group_has_the_templates_that_it_names_and_tells_what_names_none(tmp_path: Path) -> None:
    text = "products: []\ningest:\n  groups:\n  - {name: g, templates: [b, dcp_*, x, y_*]}\n"
    [group] = read(tmp_path, text).ingest.groups
    known = ["a", "b", "dcp_a", "dcp_b"]
    assert group.members(known) == ["b", "dcp_a", "dcp_b"]
    assert group.unmatched(known) == ["x", "y_*"]
    assert group.asks_source
