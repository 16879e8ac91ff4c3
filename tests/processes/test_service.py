"""What the processes of `up` print, and what they leave behind prints in their place."""

import os
import selectors
import subprocess
from threading import Thread

import pytest

from orchestration.processes.service import Service
from tests.harness.processes import PATIENCE


def test_what_is_written_without_end_is_not_shown_without_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with selectors.DefaultSelector() as selector:
        service = Service(
            "endless",
            lambda output: subprocess.Popen(["yes"], stdout=output),
            os.environ,
            selector,
        )
        try:
            assert selector.select(timeout=PATIENCE)
            draining = Thread(target=service.drain)
            draining.start()
            draining.join(10)
            assert not draining.is_alive()
            assert "[endless] y\n" in capsys.readouterr().out
        finally:
            service.process.kill()
