"""What is known to be broken, so that each is told of once. A file beside Dagster's state."""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from orchestration.lifecycle.results import locked, make_private, write_whole


@dataclass
class Entry:
    """How something was, when last anything was known of it."""

    time: float = 0.0
    """When that was, in seconds since the epoch."""
    since: float | None = None
    """Since when it is broken; None where it is well."""
    what: str = ""
    """What of it is broken: a product's stage, or a sentence."""
    is_told: bool = False


# The kind of the subjects that runs tell of; the others have a word of their own.
OF_RUNS = ""


@dataclass
class Ledger:
    """An entry for each subject, by its kind, and when the last digest was told."""

    subjects: dict[str, dict[str, Entry]] = field(default_factory=dict)
    digest: float = 0.0

    def broken(self) -> dict[str, Entry]:
        """What is broken now, by its kind and name."""
        return {
            f"{kind} {name}".strip(): entry
            for kind, entries in self.subjects.items()
            for name, entry in entries.items()
            if entry.since is not None
        }

    def breaks(self, subject: str, *, what: str, time: float) -> bool:
        """Notes that what runs tell of is broken; gives whether that is news."""
        entry = self._of(OF_RUNS).setdefault(subject, Entry())
        if time < entry.time:
            # What came after it is known already.
            return False
        is_news = entry.since is None
        entry.time, entry.what, entry.is_told = time, what, True
        if is_news:
            entry.since = time
        return is_news

    def recovers(self, subject: str, *, whats: frozenset[str] | None, time: float) -> float | None:
        """Notes that what runs tell of is well; gives since when it was not, if that is so.

        Only where what was broken is one of `whats`, if these are given.
        """
        entry = self._of(OF_RUNS).setdefault(subject, Entry())
        is_other = entry.since is not None and whats is not None and entry.what not in whats
        if time < entry.time or is_other:
            return None
        since, entry.since, entry.time = entry.since, None, time
        return since if entry.is_told else None

    def observe(
        self, kind: str, now: Mapping[str, str], *, unknown: Collection[str], time: float
    ) -> tuple[set[str], dict[str, float]]:
        """Notes which subjects of a kind are broken now, each with its sentence.

        Those that are `unknown` stay as they were.

        Gives those that are so for the second time in a row, which is news, and those that were
        told and are well again, with since when they were not.
        """
        news: set[str] = set()
        well: dict[str, float] = {}
        entries = self._of(kind)
        for subject, sentence in now.items():
            entry = entries.setdefault(subject, Entry(since=time))
            if not entry.is_told and entry.time:
                entry.is_told = True
                news.add(subject)
            entry.time, entry.what = time, sentence
        for subject in entries.keys() - {*now, *unknown}:
            if (entry := entries.pop(subject)).is_told:
                well[subject] = entry.since or time
        return news, well

    def _of(self, kind: str) -> dict[str, Entry]:
        return self.subjects.setdefault(kind, {})


@contextmanager
def opened(folder: Path) -> Iterator[Ledger]:
    """The ledger in that folder; what the block changes is written at its end."""
    path = make_private(folder) / "ledger.json"
    with locked(path, waiting=lambda: None):
        ledger = _read(path)
        yield ledger
        write_whole(path, json.dumps(asdict(ledger), indent=1))


def _read(path: Path) -> Ledger:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        subjects = {
            kind: {name: Entry(**entry) for name, entry in entries.items()}
            for kind, entries in data.get("subjects", {}).items()
        }
        return Ledger(subjects, data["digest"])
    except FileNotFoundError:
        return Ledger()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        bad = path.replace(path.with_suffix(".bad"))
        print(
            f"warning: {path} cannot be read ({error!r}) and is {bad.name} now. What is known "
            "to be broken begins anew: what still is may be told once more.",
            flush=True,
        )
        return Ledger()
