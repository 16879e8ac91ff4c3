"""Files as accidents leave them."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path


def mutated(files: Sequence[Path], count: int) -> Iterator[bytes]:
    """`count` broken versions of the files, the same ones each time."""
    chosen = random.Random(20260101)
    for _ in range(count):
        content = chosen.choice(files).read_bytes()
        for _ in range(chosen.randint(1, 3)):
            content = chosen.choice(ACCIDENTS)(chosen, content)
        yield content


def _flip(chosen: random.Random, content: bytes) -> bytes:
    damaged = bytearray(content)
    for _ in range(min(len(damaged), chosen.randint(1, 8))):
        damaged[chosen.randrange(len(damaged))] ^= 1 << chosen.randrange(8)
    return bytes(damaged)


def _cut(chosen: random.Random, content: bytes) -> bytes:
    return content[: chosen.randrange(len(content) + 1)]


def _drop_line(chosen: random.Random, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True) or [b""]
    del lines[chosen.randrange(len(lines))]
    return b"".join(lines)


def _double_line(chosen: random.Random, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True) or [b""]
    line = chosen.choice(lines)
    lines.insert(chosen.randrange(len(lines)), line)
    return b"".join(lines)


def _other_value(chosen: random.Random, content: bytes) -> bytes:
    """A value of another type, or a half-written expression, in the place of one."""
    lines = content.splitlines(keepends=True) or [b""]
    place = chosen.randrange(len(lines))
    key, colon, _ = lines[place].partition(b":")
    lines[place] = key + colon + b" " + chosen.choice(VALUES) + b"\n"
    return b"".join(lines)


VALUES = [
    *(b"", b"5", b"no", b"~", b"[]", b"{}", b"[a, [b]]", b"{a: {b: c}}", b"2025-01-01", b".nan"),
    *(b"*a", b"&a [*a]", b"!!timestamp x", b"!!bool x", b"!!int ''", b"!!binary '*'", b"9:9:9.e9"),
    *(
        b"{{ version",
        b"{% if %}",
        b"{{ 1/0 }}",
        b"{{ [].pop() }}",
        b"{{ 5|dictsort }}",
        b"{{ x.y }}",
    ),
]
ACCIDENTS = [_flip, _cut, _drop_line, _double_line, _other_value, _other_value]
