import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration.catalog.names import STARTER_KEYS
from orchestration.catalog.partition_keys import (
    BuildKey,
    PartitionKeyError,
    check_key,
    read_build_key,
    schema_name,
)

AWKWARD = st.sampled_from(
    [
        *("..", ".", "/", "\\", "-", ",", " ", "\0", "\n", "\x85", "\u200b", "\u2028", "\ud800"),
        *("é", "e\u0301", "~", "$(id)", "CON", "%2e", "a" * 190, "é" * 90),
    ]
)
KEYS = st.lists(AWKWARD | st.text(max_size=4), max_size=5).map("".join)
READABLE = st.text("abAB-._ 19é", min_size=1, max_size=9)


@given(keys=st.lists(KEYS | READABLE, min_size=2, max_size=2, unique=True))
@settings(max_examples=1000)
def test_a_key_is_refused_or_names_a_folder_of_its_own_directly_below(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str]
) -> None:
    parent = tmp_path_factory.getbasetemp() / "builds"
    parent.mkdir(exist_ok=True)
    made: list[Path] = []
    for key in keys:
        try:
            folder = parent / check_key(key)
        except PartitionKeyError as error:
            assert "cannot be used" in str(error)
            continue
        folder.mkdir()
        made.append(folder)
    try:
        assert sorted(parent.iterdir()) == sorted(made)
    finally:
        for folder in made:
            folder.rmdir()


@pytest.mark.parametrize(
    "key",
    [
        *("", " ", "../x", "..", ".", ".hidden", "a/b", "/etc", "a\\b", "a,b", " a", "a "),
        *("a b", "[a", "a]", "a...b"),
        *("a\nb", "a\0b", "a\x7fb", "a\u200bb", "a\u2028b", "e\u0301", "\ud800"),
        *("a" * 201, "é" * 150),
    ],
)
def test_a_key_that_could_do_harm_is_refused(key: str) -> None:
    with pytest.raises(PartitionKeyError) as error:
        check_key(key)
    assert str(error.value).isprintable(), "a control character must not reach the terminal"


@pytest.mark.parametrize(
    "key", ["2026.1-1_first", "2025-05-30-2_ar_build", "a" * 200, "Ünïté", "a..b", "v1(draft)", "~"]
)
def test_a_key_that_a_person_would_choose_is_accepted(key: str) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize(
    ("key", "version", "note"),
    [
        ("2026.1-1_first", "2026.1", "1_first"),
        ("2025.1.1-2_ar_build", "2025.1.1", "2_ar_build"),
        ("2025-05-30-2_ar_build", "2025-05-30", "2_ar_build"),
        ("26v1--note", "26v1-", "note"),
        ("main", None, "main"),
        ("nightly_qa", None, "nightly_qa"),
        ("2026.1", None, "2026.1"),
    ],
)
def test_a_build_key_is_split_at_its_last_dash(key: str, version: str | None, note: str) -> None:
    assert read_build_key(key) == BuildKey(version, note)


@pytest.mark.parametrize("key", ["-", "2026.1-", "-note", "2026.1- ", "../x-note"])
def test_a_build_key_with_a_part_missing_is_refused(key: str) -> None:
    with pytest.raises(PartitionKeyError):
        read_build_key(key)


def test_the_starter_keys_are_keys() -> None:
    assert [read_build_key(key).version for key in STARTER_KEYS] == [None, None]


SLUGS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,60}", fullmatch=True)
BUILDS = st.tuples(SLUGS, (KEYS | READABLE).filter(lambda key: "\ud800" not in key))


@given(builds=st.lists(BUILDS, min_size=2, max_size=2, unique=True))
@settings(max_examples=500)
def test_a_schema_is_one_builds_and_needs_no_quotes_in_postgres(
    builds: list[tuple[str, str]],
) -> None:
    names = [schema_name(slug, key) for slug, key in builds]
    for name in names:
        assert re.fullmatch(r"[a-z_][a-z0-9_]*", name)
        assert not name.startswith("pg_")
        # dcpy appends `__tests` to it, and Postgres cuts names off at 63 bytes.
        assert len(name) <= 56
    assert names[0] != names[1]


def test_a_schema_is_readable_at_its_front() -> None:
    assert schema_name("libraries", "2026.1-1_first").startswith("libraries_2026_1_1_first_")
