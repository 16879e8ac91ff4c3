"""What the system refuses for now ends nothing."""

import errno
import os

import pytest

from orchestration.processes.refusals import Refusals
from tests.harness.processes import wait_until


def test_what_is_refused_is_said_once_and_tried_again(capsys: pytest.CaptureFixture[str]) -> None:
    refusals, tries = Refusals(), []

    def step() -> str:
        tries.append("tried")
        if len(tries) < 3:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return "done"

    assert refusals.outlast("It cannot be done", step, "refused") == "refused"
    assert refusals.outlast("It cannot be done", step, "refused") == "refused"
    # Not before there was a pause.
    assert len(tries) == 1
    assert wait_until(lambda: refusals.outlast("It cannot be done", step, "refused") == "done")
    assert len(tries) == 3
    said = f"It cannot be done: {os.strerror(errno.EAGAIN)}. It is tried again every second.\n"
    assert capsys.readouterr().out == said
