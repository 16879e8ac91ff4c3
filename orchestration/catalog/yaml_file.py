"""A YAML file as plain data, with the line of every place in it, and all that is wrong with it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from orchestration import OrchestrationError

MAX_FILE_BYTES = 1_000_000
MAX_NODES = 100_000
MAX_DEPTH = 20
CONFLICT = re.compile(r"^<{7} ", re.MULTILINE)
MERGE_TAG = "tag:yaml.org,2002:merge"

Place = tuple[str | int, ...]
"""The keys and indexes that lead to a value."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a file; `line` counts from 1."""

    line: int
    text: str


class YamlFileError(OrchestrationError):
    """A file cannot be used; `problems` holds all that is wrong with it."""

    def __init__(self, path: Path, problems: list[Problem]) -> None:
        self.problems = sorted(problems, key=lambda problem: problem.line)
        super().__init__("\n".join(f"{path}:{p.line}: {p.text}" for p in self.problems))


def read_yaml_mapping(path: Path) -> tuple[dict[str, Any], dict[Place, int]]:
    """The mapping in the file, and the line of every place in it.

    Raises YamlFileError with everything that is wrong with the YAML, and OrchestrationError when
    the file cannot be read.
    """
    node = _compose(path, _read_text(path))
    document = _Document(path)
    data = document.build(node)
    if document.problems:
        raise YamlFileError(path, document.problems)
    return data, document.lines


def _read_text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            message = f"the file has {size:,} bytes; at most {MAX_FILE_BYTES:,} are read"
            raise YamlFileError(path, [Problem(1, message)])
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise YamlFileError(path, [Problem(line, f"not UTF-8 text: {error.reason}")]) from error
    except OSError as error:
        raise OrchestrationError(f"{path} cannot be read: {error.strerror}") from error


def _compose(path: Path, text: str) -> yaml.MappingNode:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        if conflict := CONFLICT.search(text):
            line = text.count("\n", 0, conflict.start()) + 1
            message = "a merge conflict begins here; resolve it"
            raise YamlFileError(path, [Problem(line, message)]) from error
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise YamlFileError(path, [Problem(line, f"not valid YAML: {error.problem}")]) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"not valid YAML: the character {chr(error.character)!r} is not allowed"
        raise YamlFileError(path, [Problem(line, message)]) from error
    except RecursionError as error:
        raise YamlFileError(path, [Problem(1, "nested too deeply")]) from error
    # What PyYAML lets through for a number that is too large, of a character or of a version.
    except (ValueError, OverflowError) as error:
        raise YamlFileError(path, [Problem(1, f"not valid YAML: {error}")]) from error
    if isinstance(node, yaml.MappingNode):
        return node
    is_list = isinstance(node, yaml.SequenceNode)
    found = "an empty file" if node is None else "a list" if is_list else "a single value"
    raise YamlFileError(path, [Problem(1, f"must be a mapping with keys, not {found}")])


class _Document:
    """YAML nodes turned into plain data."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[Place, int] = {}
        self.problems: list[Problem] = []
        self._scalars = yaml.constructor.SafeConstructor()
        self._open: set[int] = set()
        self._nodes = 0

    def build(self, node: yaml.Node, place: Place = ()) -> Any:
        """The node's value; what is wrong with it goes to `problems`."""
        self.lines.setdefault(place, _line(node))
        self._count(node, too_deep=len(place) > MAX_DEPTH or id(node) in self._open)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, place)
            if isinstance(node, yaml.SequenceNode):
                return [self.build(item, (*place, i)) for i, item in enumerate(node.value)]
            return self._scalar(node)
        finally:
            self._open.discard(id(node))

    def _count(self, node: yaml.Node, *, too_deep: bool = False) -> None:
        self._nodes += 1
        if too_deep or self._nodes > MAX_NODES:
            message = "aliases or nesting make this file too large"
            raise YamlFileError(self.path, [Problem(_line(node), message)])

    def _scalar(self, node: yaml.Node) -> Any:
        try:
            return self._scalars.construct_object(node)
        # What PyYAML's constructors raise for a value that is not what its tag says.
        except (yaml.YAMLError, ValueError, LookupError, AttributeError, OverflowError) as error:
            detail = getattr(error, "problem", None) or f"{node.value!r} is not {node.tag}"
            self.problems.append(Problem(_line(node), f"not a value that can be read: {detail}"))
            return None

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        first: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.problems.append(Problem(_line(key), "a key must be a word"))
            elif key.tag != MERGE_TAG:
                if key.value in first:
                    message = f"key `{key.value}` is there twice, first in line {first[key.value]}"
                    self.problems.append(Problem(_line(key), message))
                first.setdefault(key.value, _line(key))
        values = {
            key.value: (key, value)
            for key, value in self._with_merged(node)
            if isinstance(key, yaml.ScalarNode)
        }
        for name, (key, _) in values.items():
            self.lines[(*place, name)] = _line(key)
        return {name: self.build(value, (*place, name)) for name, (_, value) in values.items()}

    def _with_merged(self, node: yaml.MappingNode) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        """The pairs of a mapping after those that `<<` merges into it: the last of a key counts."""
        self._count(node, too_deep=False)
        for key, value in node.value:
            if key.tag != MERGE_TAG:
                continue
            merged = value.value[::-1] if isinstance(value, yaml.SequenceNode) else [value]
            for mapping in merged:
                if isinstance(mapping, yaml.MappingNode) and mapping is not node:
                    yield from self._with_merged(mapping)
                else:
                    self.problems.append(Problem(_line(key), "`<<` can merge mappings only"))
        yield from (pair for pair in node.value if pair[0].tag != MERGE_TAG)


def _line(node: yaml.Node) -> int:
    line: int = node.start_mark.line + 1
    return line
