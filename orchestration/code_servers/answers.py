"""What is answered for a location without its code: the replies of a code server, in a file."""

import hashlib
import json
import os
import secrets
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestration.code_servers.dependencies import Dependency, Kind, digest_of, state_of

PROBLEM = "problem"
# What they depend on, and a hash of what that was like.
DEPENDENCIES = "dependencies"
# What comes of a file that is none of these, or is damaged. Source: zipfile and json.
FILE_ERRORS = (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError, EOFError, RuntimeError)


@dataclass(frozen=True)
class Answers:
    """The answers for a location as it was when it was loaded."""

    path: Path
    id: str
    """A hash of them: the same answers have the same."""
    problem: str | None
    """Why the location is broken, if it is."""


def write_answers(
    path: Path,
    replies: Mapping[str, bytes],
    problem: str | None,
    dependencies: Mapping[Dependency, str] | None = None,
    installation: str | None = None,
) -> Answers:
    """Writes the file in one step. Raises OSError when it cannot be written.

    Where all is known that the answers depend on, they can be kept.
    """
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    contents = _contents(replies, problem)
    further = {}
    if dependencies is not None and installation is not None:
        known = [digest_of(dependencies, installation), list(dependencies)]
        further[DEPENDENCIES] = json.dumps(known).encode()
    try:
        with zipfile.ZipFile(new, "w") as file:
            file.comment = _id_of(contents).encode()
            for name, reply in (contents | further).items():
                # Without the time, which would make each file another one.
                file.writestr(zipfile.ZipInfo(name), reply)
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    return Answers(path, _id_of(contents), problem)


def read_answers(path: Path) -> Answers:
    """What is in a file of answers, but for the replies. Raises OSError when it cannot be read."""
    try:
        with zipfile.ZipFile(path) as file:
            problem = file.read(PROBLEM).decode() if PROBLEM in file.namelist() else None
            return Answers(path, file.comment.decode(), problem)
    except (zipfile.BadZipFile, KeyError) as error:
        raise OSError(f"{path} is damaged: {error}") from error


def kept_answers(path: Path, environ: Mapping[str, str], installation: str) -> Answers | None:
    """The answers in the file where a process would load the same now; None otherwise."""
    try:
        with zipfile.ZipFile(path) as file:
            contents = {name: file.read(name) for name in file.namelist()}
            digest, dependencies = json.loads(contents.pop(DEPENDENCIES))
            needed = [(Kind(kind), name) for kind, name in dependencies]
            states = {dependency: state_of(dependency, environ) for dependency in needed}
            if digest_of(states, installation) != digest or PROBLEM in contents:
                return None
            identity = _id_of(contents)
            return Answers(path, identity, None) if identity == file.comment.decode() else None
    except FILE_ERRORS:
        # Damaged, or of an earlier version.
        return None


def read_reply(path: Path, is_it: Callable[[str], bool]) -> bytes | None:
    """The reply whose name is the one, if there is one. Raises OSError when it cannot be read."""
    try:
        with zipfile.ZipFile(path) as file:
            return next((file.read(name) for name in file.namelist() if is_it(name)), None)
    except zipfile.BadZipFile as error:
        raise OSError(f"{path} is damaged: {error}") from error


def id_of(replies: Mapping[str, bytes], problem: str | None) -> str:
    """The id that these answers have."""
    return _id_of(_contents(replies, problem))


def _contents(replies: Mapping[str, bytes], problem: str | None) -> dict[str, bytes]:
    return dict(replies) | ({PROBLEM: problem.encode()} if problem is not None else {})


def _id_of(contents: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, reply in sorted(contents.items()):
        digest.update(f"{name} {len(reply)}\n".encode())
        digest.update(reply)
    return digest.hexdigest()[:32]
