"""Messages that are to be sent: each a file until everybody has it."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orchestration.lifecycle.results import locked_if_free, make_private, write_whole

Kind = Literal["failure", "success", "info", "warning"]
# So long after the first attempt a message is given up.
MAX_AGE_SECONDS = 3 * 86_400.0
FIRST_DELAY_SECONDS = 60.0
MAX_DELAY_SECONDS = 3600.0
# What is sent at one time: the daemon does not wait for ever.
BATCH_SECONDS = 30.0


@dataclass(frozen=True)
class Message:
    """What somebody is told."""

    kind: Kind
    title: str
    body: str


def put(folder: Path, message: Message, moment: float) -> None:
    """Has it sent, when `deliver` is called.

    `moment` is when it happened, in seconds since the epoch; the same message of the same moment
    waits but once.
    """
    outbox = make_private(folder / "outbox")
    mark = _mark(message.title + message.body)
    entry = {**message.__dict__, "created": time.time(), "done": [], "attempts": 0, "next": 0.0}
    _write(outbox / f"{moment * 1e6:.0f}-{mark}.json", entry)


def deliver(
    folder: Path,
    addresses: Sequence[str],
    complain: Callable[[str], None],
    *,
    are_all: bool = True,
) -> None:
    """Sends what waits to each of the addresses, once. What cannot be sent is sent later.

    `complain` is told what could not, without what is secret in the address. Unless these
    `are_all` there are, what was sent waits for the others. Nothing is done where somebody else is
    sending.
    """
    with locked_if_free(make_private(folder / "outbox")) as is_free:
        if is_free:
            _deliver(folder, addresses, complain, are_all)


def _deliver(
    folder: Path, addresses: Sequence[str], complain: Callable[[str], None], are_all: bool
) -> None:
    end = time.monotonic() + BATCH_SECONDS
    for path, entry in _waiting(folder, complain):
        if time.monotonic() > end:
            break
        message = Message(entry["kind"], entry["title"], entry["body"])
        problems = []
        for address in addresses:
            mark = _mark(address)
            if mark not in entry["done"]:
                if problem := _send(address, message):
                    problems.append(problem)
                else:
                    entry["done"].append(mark)
                    _write(path, entry)
        if not problems:
            if are_all:
                path.unlink()
            continue
        entry["attempts"] += 1
        delay = min(FIRST_DELAY_SECONDS * 2 ** (entry["attempts"] - 1), MAX_DELAY_SECONDS)
        entry["next"] = time.time() + delay
        if time.time() - entry["created"] > MAX_AGE_SECONDS:
            path.unlink()
            then = "It is given up."
        else:
            _write(path, entry)
            then = f"It is tried again in {delay:.0f} s."
        for problem in problems:
            complain(f"Not sent: {message.title!r}: {problem} {then}")


def _waiting(
    folder: Path, complain: Callable[[str], None]
) -> Iterator[tuple[Path, dict[str, Any]]]:
    outbox = folder / "outbox"
    for path in sorted(outbox.glob("*.json")):
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            bad = path.replace(path.with_suffix(".bad"))
            complain(f"Not sent: {path} cannot be read ({error}) and is {bad.name} now.")
            continue
        # One that is due long after it could be is of a clock that was wrong.
        if not time.time() < entry["next"] < time.time() + MAX_DELAY_SECONDS:
            yield path, entry


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _write(path: Path, entry: dict[str, Any]) -> None:
    write_whole(path, json.dumps(entry))


def problem_with(address: str) -> str | None:
    """Why nothing can be sent there at all, without what is secret in the address."""
    # Not before there is something to ask or to send: it takes as long as all else.
    import apprise

    if apprise.Apprise.instantiate(address):
        return None
    scheme = address.partition("://")[0]
    return f"{scheme}://… is no address that apprise knows."


def _send(address: str, message: Message) -> str | None:
    """Sends the message; gives the reason where that does not work."""
    import apprise

    target = apprise.Apprise.instantiate(address)
    if not target:
        return problem_with(address)
    with apprise.LogCapture(level=apprise.logging.WARNING, fmt="%(message)s") as said:
        is_sent = target.notify(title=message.title, body=message.body, notify_type=message.kind)
        why = " ".join(line.strip() for line in said.getvalue().splitlines())
    where = target.url(privacy=True).partition("?")[0]
    return None if is_sent else f"{where} does not take it. {why}".strip()
