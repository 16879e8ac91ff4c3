"""What a partition key means, and which keys are accepted."""

import hashlib
import re
import unicodedata
from dataclasses import dataclass

from orchestration import OrchestrationError
from orchestration.catalog.names import build_partition_set, ingest_partition_set

MAX_KEY_LENGTH = 200
# What cannot be in a folder's name, and, from the comma on, what Dagster's UI takes in no key.
REFUSED = frozenset("/\\,[] ")
# 63 bytes is Postgres's limit, and dcpy makes a second schema with `__tests` appended.
MAX_SCHEMA_LENGTH = 63 - len("__tests")


class PartitionKeyError(OrchestrationError):
    """A partition key that cannot be a version or a build, and the reason."""

    def __init__(self, key: str, reason: str, advice: str = "") -> None:
        self.reason = f"of {key[:MAX_KEY_LENGTH]!r}, {reason}"
        super().__init__(
            f"The partition key {key[:MAX_KEY_LENGTH]!r} cannot be used: {reason}.{advice}"
        )


@dataclass(frozen=True)
class BuildKey:
    """A build's partition key, read: `version` is None where the recipe decides."""

    version: str | None
    note: str


def check_key(key: str) -> str:
    """The key itself, if it can name a folder of its own.

    Raises PartitionKeyError otherwise.
    """
    if problem := _problem(key):
        raise PartitionKeyError(key, problem, " Use another key.")
    return key


def _problem(key: str) -> str | None:
    if not key.strip():
        return "it is empty"
    if len(key) > MAX_KEY_LENGTH:
        return f"it has {len(key)} characters, and at most {MAX_KEY_LENGTH} are allowed"
    for character in key:
        category = unicodedata.category(character)
        if category[0] == "C" or category in ("Zl", "Zp"):
            return f"it holds the control character {character!r}"
        if character in REFUSED:
            return f"it holds {character!r}"
    if "..." in key:
        return "it holds '...'"
    if key[0] == ".":
        return "it begins with a dot"
    if key != key.strip():
        return "it begins or ends with a space"
    if key != unicodedata.normalize("NFC", key):
        return "it holds an accent written as a character of its own (not in Unicode's form NFC)"
    if len(key.encode()) > MAX_KEY_LENGTH:
        return f"it has {len(key.encode())} bytes, too many for a folder's name"
    return None


def read_build_key(key: str) -> BuildKey:
    """`<version>-<build note>`, split at the last dash; without a dash it is all note.

    Raises PartitionKeyError where the key is refused, or has a dash with nothing on one side.
    """
    version, dash, note = check_key(key).rpartition("-")
    if not dash:
        return BuildKey(version=None, note=key)
    if not version.strip() or not note.strip():
        raise PartitionKeyError(
            key,
            "it needs a version before its last dash and a build note after it, such as "
            "2026.1-1_first",
        )
    return BuildKey(version=version, note=note)


def check_key_of(partition_set: str, key: str) -> None:
    """Raises PartitionKeyError where the key cannot be one of the set, be it of builds or versions.

    What a team's own sets hold is for the team to decide.
    """
    if partition_set.startswith(build_partition_set("")):
        read_build_key(key)
    elif partition_set.startswith(ingest_partition_set("")):
        check_key(key)


def schema_name(slug: str, key: str) -> str:
    """The Postgres schema of a build: a valid identifier, and no other build's.

    Readable at the front; the hash at the end keeps apart what reads alike.
    """
    digest = hashlib.sha256(f"{slug}\0{key}".encode()).hexdigest()[:10]
    readable = re.sub(r"[^a-z0-9_]+", "_", f"{slug}_{key}".lower())
    if readable[0].isdigit() or readable.startswith("pg_"):
        readable = f"_{readable}"
    return f"{readable[: MAX_SCHEMA_LENGTH - len(digest) - 1]}_{digest}"
