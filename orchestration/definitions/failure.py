"""The failure of a stage as Dagster shows it: the sentence that says why, and nothing below it."""

from collections.abc import Mapping
from typing import Any

from dagster import Failure, RetryRequested
from dagster_shared.error import SerializableErrorInfo

try:
    from dagster._core.errors import DagsterUserCodeProcessError as OfAnotherProcess
except ImportError:
    # A release of Dagster that has moved it shows its own frames below the sentence.
    class OfAnotherProcess(Exception):  # type: ignore[no-redef]
        """What Dagster raises where another process has failed."""

        def __init__(self, *args: Any, user_code_process_error_infos: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)


# Of what failed in another process, Dagster shows what that has told, and no frames of this one.
class StageFailure(OfAnotherProcess, Failure):
    """The failure of a stage."""

    def __init__(self, sentence: str, metadata: Mapping[str, Any]) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            sentence, metadata=metadata, user_code_process_error_infos=[_told(sentence)]
        )


class StageRetry(OfAnotherProcess, RetryRequested):
    """A stage that is to be tried again; the StageFailure that it had is the cause."""

    def __init__(self, sentence: str, max_retries: int) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            max_retries, user_code_process_error_infos=[_told(sentence)]
        )


def _told(sentence: str) -> SerializableErrorInfo:
    return SerializableErrorInfo(sentence, [], Failure.__name__)
