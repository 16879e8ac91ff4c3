from orchestration.processes.tail import LAST_LINES, Tail

CAUSE = ["Traceback (most recent call last):", '  File "definitions.py", line 3', "MemoryError"]
NOISE = [f"E0000 thd.cc:163] pthread_create failed {number}" for number in range(100)]


def tail_of(lines: list[str]) -> list[str]:
    tail = Tail()
    for line in lines:
        tail.add(line)
    return str(tail).split("\n")


def test_a_short_output_is_kept_whole() -> None:
    assert tail_of([*CAUSE, "", "more"]) == [*CAUSE, "", "more"]


def test_of_a_long_one_the_last_lines_are_kept() -> None:
    assert tail_of(NOISE) == NOISE[-LAST_LINES:]


def test_noise_does_not_push_out_the_error() -> None:
    assert tail_of([*CAUSE, *NOISE]) == [*CAUSE, "…", *NOISE[-LAST_LINES:]]


def test_of_a_deep_recursion_the_end_is_kept() -> None:
    deep = [CAUSE[0], *[f"  File {number}" for number in range(500)], "RecursionError: too deep"]
    kept = tail_of([*deep, *NOISE])
    assert "RecursionError: too deep" in kept
    assert "  File 499" in kept
    assert "  File 480" not in kept


def test_the_first_traceback_stays_whatever_number_follows() -> None:
    consequences = [line for number in range(50) for line in (*CAUSE[:2], f"Error: {number}")]
    kept = tail_of([*CAUSE, *consequences, *NOISE])
    assert kept[:3] == CAUSE
    assert "Error: 49" in kept
    assert len(kept) < 60
