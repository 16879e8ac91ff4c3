"""What the container's image has of its own: the script that is its command."""

import os
import re
import subprocess
import sys
from pathlib import Path

from orchestration.catalog.checkout import PROJECT_ROOT


def test_a_container_that_was_ended_while_it_began_begins_again(tmp_path: Path) -> None:
    [writing] = re.findall(
        r"^RUN (printf .*?) && chmod", (PROJECT_ROOT / "Dockerfile").read_text(), re.S | re.M
    )
    script, copy, program = tmp_path / "script", tmp_path / "copy", tmp_path / "program"
    for path, here in (
        ("/usr/local/bin/orchestration", script),
        ("/opt/orchestration", program),
        ("/tmp/orchestration", copy),
    ):
        writing = writing.replace(path, str(here))
    subprocess.run(["sh", "-c", writing], check=True)
    (program / "orchestration").mkdir(parents=True)
    (program / "orchestration" / "__main__.py").write_text("print('begun')")
    # The first process of a container has the same number each time.
    begin = f'mkdir "{copy}.$$" && exec sh {script}'
    begun = subprocess.run(
        ["sh", "-c", begin],
        env={"PATH": f"{Path(sys.executable).parent}:{os.defpath}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (begun.stdout, begun.stderr) == ("begun\n", "")
    assert [path.name for path in tmp_path.glob("copy*")] == ["copy"]
