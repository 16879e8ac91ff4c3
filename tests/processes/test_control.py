import pytest

from orchestration.processes.control import Run, decoded, encoded


def test_what_is_asked_arrives() -> None:
    request = Run("1", "roads", ["dagster", "api"])
    assert decoded(encoded(request)) == request


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\xff\n",
        b"[]\n",
        b'{"do": "dance"}\n',
        b'{"do": []}\n',
        b'{"do": "cancel"}\n',
        b'{"do": "cancel", "run_id": []}\n',
        b'{"do": "run", "run_id": "1", "location": "a", "command": "ls"}\n',
        b"[" * 100_000,
    ],
)
def test_what_is_no_request_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="not understood"):
        decoded(line)
