"""What is said of a process that has ended."""

from collections import deque

LAST_LINES = 40
TRACEBACKS = 4
TRACEBACK_LINES = 12
MAX_LINE = 300


class Tail:
    """The last lines of a process's output, and the ends of its tracebacks whatever follows them.

    Libraries that are told of an error late, gRPC above all, can write a page about it. Of many
    tracebacks the first ones are kept, which name the cause, and the last ones.
    """

    def __init__(self) -> None:
        self._count = 0
        self._lines: deque[tuple[int, str]] = deque(maxlen=LAST_LINES)
        self._traceback: deque[tuple[int, str]] | None = None
        self._tracebacks: dict[tuple[str, ...], list[tuple[int, str]]] = {}

    def add(self, text: str) -> None:
        """Takes the next line."""
        line = (self._count, text[:MAX_LINE])
        self._count += 1
        self._lines.append(line)
        if "Traceback (most recent call last)" in text:
            self._traceback = deque(maxlen=TRACEBACK_LINES)
        if self._traceback is not None:
            self._traceback.append(line)
            if text[:1].strip() and len(self._traceback) > 1:
                self._keep(list(self._traceback))
                self._traceback = None

    def _keep(self, traceback: list[tuple[int, str]]) -> None:
        self._tracebacks.setdefault(tuple(text for _, text in traceback), traceback)
        if len(self._tracebacks) > TRACEBACKS:
            del self._tracebacks[list(self._tracebacks)[TRACEBACKS // 2]]

    def __str__(self) -> str:
        kept = sorted({*self._lines, *(line for t in self._tracebacks.values() for line in t)})
        shown, expected = [], kept[0][0] if kept else 0
        for number, text in kept:
            if number != expected:
                shown.append("…")
            shown.append(text)
            expected = number + 1
        return "\n".join(shown)
