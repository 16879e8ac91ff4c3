from orchestration.definitions.metadata import tail_of


def test_the_logs_end_is_no_wider_than_the_uis_column() -> None:
    lines = "short\n\n  indented " + "a word " * 20 + "\n" + "/a/long/path" * 20
    shown = str(tail_of(lines).value).split("\n")
    assert max(map(len, shown)) <= 60
    assert shown[1:4] == ["short", "", "  indented " + "a word " * 7]
    assert "".join(shown[1:-1]) == lines.replace("\n", "")
