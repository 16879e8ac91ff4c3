"""Whatever becomes of the terminal, or the pipe, that `up` prints to, it goes on."""

import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.processes import PATIENCE
from tests.harness.up_server import copy_project, started, write_products

ENCODINGS = ({"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "POSIX"})
LINE, LINES = "a line of text" * 5, 50_000


def program(text: str, *, waits: bool, times: int = 1) -> str:
    """A program that prints the text, so many times, then more."""
    return (
        "from orchestration.processes import console\n"
        f"console.settle(waits={waits})\n"
        f"for _ in range({times}):\n"
        f"    print({text!r})\n"
        "print('more')\n"
    )


def printing(
    text: str, *, waits: bool, output: int, times: int = 1, env: dict[str, str] | None = None
) -> int:
    """The exit code of that program."""
    return subprocess.run(
        [sys.executable, "-c", program(text, waits=waits, times=times)],
        stdout=output,
        env={**os.environ, **(env or {})},
        timeout=PATIENCE,
    ).returncode


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("env", ENCODINGS, ids=str)
def test_any_text_is_printed(waits: bool, env: dict[str, str], tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        assert printing("→ ü \udcff", waits=waits, output=out.fileno(), env=env) == 0
    lines = (tmp_path / "out").read_bytes().splitlines()
    assert lines[0] in (
        rb"\u2192 \xfc \udcff",
        b"\\u2192 \xfc \\udcff",
        "→ ü \\udcff".encode(),
    )
    assert lines[1:] == [b"more"]


@pytest.mark.parametrize("waits", [True, False])
def test_a_reader_that_has_gone_is_no_error(waits: bool) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    assert printing("x", waits=waits, output=writer) == 0
    os.close(writer)


def test_a_pipe_that_nobody_reads_keeps_nobody_waiting() -> None:
    reader, writer = os.pipe()
    assert printing(LINE, times=LINES, waits=False, output=writer) == 0
    # That it is in no other program's way either: theirs still wait.
    assert os.get_blocking(writer)
    for end in (reader, writer):
        os.close(end)


def test_neither_does_a_terminal_that_has_stopped() -> None:
    controller, terminal = pty.openpty()
    assert printing(LINE, times=LINES, waits=False, output=terminal) == 0
    for end in (controller, terminal):
        os.close(end)


def test_a_reader_who_comes_late_is_told_what_is_missing() -> None:
    text = program(LINE, waits=False, times=LINES)
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE) as process:
        assert process.stdout
        # It has begun to write; all that it has to say takes it longer than this process to wake.
        assert select.select([process.stdout], [], [], 10)[0]
        said = process.stdout.read()
    *lines, last = said.decode().splitlines()
    assert lines[0] == LINE
    lost = re.fullmatch(r"… nobody read (\d+) more bytes", last)
    missing = LINES * (len(LINE) + 1) + len("more\n") - sum(len(line) + 1 for line in lines)
    assert missing == (int(lost[1]) if lost else len("more\n"))


def test_a_full_disk_is_an_error_where_the_output_is_the_result() -> None:
    with open("/dev/full", "wb") as full:
        assert printing("x", waits=True, output=full.fileno()) == 1
        assert printing("x", waits=False, output=full.fileno()) == 0


def test_up_serves_in_an_ascii_locale_from_a_folder_with_umlauts_into_a_pipe_that_is_full(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "Städte und Flüsse"
    folder.mkdir()
    project = copy_project(folder)
    write_products(project, {"loud": "true"})
    reader, writer = os.pipe()
    with started(
        project,
        "--only",
        "loud",
        env={"PYTHONIOENCODING": "ascii", "LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0"},
        output=writer,
    ) as server:
        server.wait_for_locations("loud")
        (server.product_folder("loud") / "definitions.py").write_text(
            "import sys\n"
            "for _ in range(20_000):\n"
            "    print('→ a long line of output that nobody reads', file=sys.stderr)\n"
            "import dagster as dg\n"
            "defs = dg.Definitions(assets=[dg.AssetSpec('new')])\n",
            encoding="utf-8",
        )
        server.wait_for(lambda: server.asset("new"))
        server.stop()
    os.set_blocking(reader, False)
    assert b"[loud] \\u2192 a long line" in os.read(reader, 1_000_000)
    for end in (reader, writer):
        os.close(end)
