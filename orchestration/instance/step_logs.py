"""What a step prints, kept in files that the UI shows."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from dagster._core.execution.compute_logs import redirect_to_file
from dagster._core.storage.compute_log_manager import CapturedLogContext
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._serdes import ConfigurableClassData


class StepLogs(LocalComputeLogManager):
    """Dagster's own files, without the copy on the terminal.

    Each stage says there in a line what came of it. For the copy, Dagster starts four processes a
    step, two of them interpreters.
    """

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        """The one that an instance's configuration asks for."""
        return cls(inst_data=inst_data, **config_value)

    @contextmanager
    def capture_logs(self, log_key: Sequence[str]) -> Iterator[CapturedLogContext]:
        """Has both standard streams go to the step's files until the block ends."""
        out, err, complete = (
            Path(self.get_captured_local_path(log_key, kind)) for kind in ("out", "err", "complete")
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        with redirect_to_file(sys.stdout, str(out)), redirect_to_file(sys.stderr, str(err)):
            yield CapturedLogContext(log_key)
        complete.touch()
