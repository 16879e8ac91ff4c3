"""What goes wrong in dcpy, in sentences; failures.toml has them, and says how it is read."""

import errno
import json
import re
import sys
import tomllib
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

# What the code itself lacks, it will lack the next time, too.
CERTAIN = (ImportError, SyntaxError, NameError, NotImplementedError)
# So does what is not there, or not allowed; of the rest of a system's errors some may pass.
LASTING = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.EINVAL,
    }
)
TABLE = Path(__file__).with_suffix(".toml")


def explain(error: Exception, parameters: Mapping[str, Any]) -> tuple[str, bool]:
    """The exception as a sentence or two, beginning with the step's subject.

    The second of the pair tells whether it may pass without anybody doing anything, which of what
    nobody has met before is as `may_pass` says.
    """
    text = str(error).strip() or _place(error)
    first = text.partition("\n")[0]
    for row in rows(parameters["stage"]):
        if match := found(row, error, text):
            known = {**_known(parameters, match), "text": first}
            for sentence in row["say"]:
                with suppress(KeyError):
                    said = f"{parameters['subject']}: {sentence.format_map(known)}"
                    return said, row.get("transient", False)
    said = f"{parameters['subject']}: dcpy raised {type(error).__name__}: {first}"
    return said, may_pass(error)


def may_pass(error: Exception) -> bool:
    """Whether what nobody has met before could go well the next time.

    It is not known, and so it could, but for what the code itself lacks, and what only somebody
    can put right, such as a folder that is not to be written to.
    """
    is_lasting = isinstance(error, OSError) and error.errno in LASTING
    return not isinstance(error, CERTAIN) and not is_lasting


def rows(stage: str) -> Iterator[dict[str, Any]]:
    """The table's rows for the stage, in their order, with their fragments in the sentences."""
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    for row in table.get(stage, []) + table["any"]:
        said = [row["say"]] if isinstance(row["say"], str) else row["say"]
        for name, fragment in table["fragments"].items():
            said = [sentence.replace(f"{{{name}}}", fragment) for sentence in said]
        yield {**row, "say": said}


def found(row: Mapping[str, Any], error: Exception, text: str) -> re.Match[str] | None:
    """Where the row's pattern is in the text, if the exception is of one of the row's classes."""
    names = {
        name
        for kind in type(error).__mro__
        for name in (kind.__name__, f"{kind.__module__.partition('.')[0]}.{kind.__name__}")
    }
    return re.search(row.get("text", ""), text) if names & set(row["error"].split()) else None


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"in {frames[-1].name}" if frames else "no message"


def _known(parameters: Mapping[str, Any], match: re.Match[str]) -> dict[str, Any]:
    groups = {name.rstrip("_"): text for name, text in match.groupdict().items() if text}
    known = {
        **parameters,
        **groups,
        "python": sys.executable,
        "python_version": ".".join(map(str, sys.version_info[:3])),
    }
    if template := parameters.get("templates_of", {}).get(groups.get("dataset")):
        known["ingested_by"] = template
    if parameters["stage"] == "ingest":
        known["template"] = f"{parameters['templates']}/{parameters['name']}.yml"
        with suppress(OSError, ValueError, KeyError):
            known["source"] = _source(Path(parameters["folder"]))
    return known


def _source(folder: Path) -> str:
    # dcpy writes what it has made of the template before it reads the source.
    lock = json.loads((folder / "definition.lock.json").read_text(encoding="utf-8"))
    return ", ".join(f"{name} {value}" for name, value in lock["source"].items() if name != "type")
