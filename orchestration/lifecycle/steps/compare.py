"""Compares the files of two results, tabular ones row by row."""

import filecmp
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import step
import tabular

SHOWN_KEYS = 5
CHANGES = ("added", "removed", "changed")

Columns = Sequence[dict[str, str]]


def compare(parameters: dict[str, Any]) -> dict[str, Any]:
    """Gives, of each of the `files` (what it is called, in the old and in the new folder), how it
    changed.
    """
    import duckdb

    old, new = Path(parameters["old"]), Path(parameters["new"])
    found: list[dict[str, Any]] = []
    with tabular.connect() as connection:
        for name, before, after in parameters["files"]:
            paths = old / before if before else None, new / after if after else None
            try:
                found += _compared(connection, name, paths, parameters["key"])
            except duckdb.Error as error:
                problem = str(error).partition("\n")[0]
                found.append({"name": name, "change": "unreadable", "problem": problem})
    return {"files": found}


def _compared(
    connection: Any, name: str, paths: tuple[Path | None, Path | None], key: Sequence[str]
) -> list[dict[str, Any]]:
    sizes = [path.stat().st_size if path else None for path in paths]
    file = {"name": name, "bytes": sizes}
    old, new = paths
    if old and new and sizes[0] == sizes[1] and filecmp.cmp(old, new, shallow=False):
        return [{**file, "change": "same"}]
    if not name.endswith(tabular.FORMATS):
        changes = {(True, True): "changed", (True, False): "removed", (False, True): "added"}
        return [{**file, "change": changes[bool(old), bool(new)]}]
    with ExitStack() as stack:
        tables = [
            dict(stack.enter_context(tabular.tables(connection, path, alias))) if path else {}
            for path, alias in zip(paths, ("old", "new"), strict=True)
        ]
        return [
            {
                **file,
                "name": f"{name}: {table}" if table else name,
                **_table(connection, [known.get(table) for known in tables], key),
            }
            for table in dict.fromkeys([*tables[0], *tables[1]])
        ]


def _table(connection: Any, sources: Sequence[str | None], key: Sequence[str]) -> dict[str, Any]:
    old_source, new_source = sources
    if not (old_source and new_source):
        rows = [each and _number(connection, f"SELECT count(*) FROM {each}") for each in sources]
        return {"change": "removed" if old_source else "added", "rows": rows}
    old, new = (
        {column["name"]: column["type"] for column in tabular.columns_of(connection, source)}
        for source in (old_source, new_source)
    )
    both = [name for name in new if name in old]
    columns = {
        "columns_added": [name for name in new if name not in old],
        "columns_removed": [name for name in old if name not in new],
        "types_changed": {name: [old[name], new[name]] for name in both if old[name] != new[name]},
    }
    # A CSV's values are compared as they stand there, not as what they seem to be.
    before, after = (tabular.as_text(source) for source in (old_source, new_source))
    are_texts = before != old_source and after != new_source
    values = {
        name: _value(name, new[name], is_mixed=old[name] != new[name] and not are_texts)
        for name in both
    }
    compared = _by_key if key and set(key) <= set(both) else _as_a_whole
    counted = compared(connection, before, after, values, key)
    is_same = not any([*columns.values(), *(counted.get(change) for change in CHANGES)])
    return {"change": "same" if is_same else "changed", **columns, **counted}


def _value(name: str, kind: str, *, is_mixed: bool) -> str:
    """What is compared of the column of table `t`: two types by how their values are written."""
    column = f"t.{tabular.quoted(name)}"
    if is_mixed:
        return f"{column}::VARCHAR"
    return f"ST_AsWKB({column})" if kind == "GEOMETRY" else column


def _as_a_whole(
    connection: Any, old: str, new: str, values: dict[str, str], key: Sequence[str]
) -> dict[str, Any]:
    def counted(source: str) -> str:
        return f"SELECT {_hash(values.values())} AS h, count(*) AS c FROM {source} t GROUP BY h"

    before, after, added, removed = connection.execute(
        "SELECT sum(o.c)::BIGINT, sum(n.c)::BIGINT, "
        "sum(greatest(coalesce(n.c, 0) - coalesce(o.c, 0), 0))::BIGINT, "
        "sum(greatest(coalesce(o.c, 0) - coalesce(n.c, 0), 0))::BIGINT "
        f"FROM ({counted(old)}) o FULL JOIN ({counted(new)}) n USING (h)"
    ).fetchone()
    rows = [before or 0, after or 0]
    return {"rows": rows, "added": added or 0, "removed": removed or 0}


def _by_key(
    connection: Any, old: str, new: str, values: dict[str, str], key: Sequence[str]
) -> dict[str, Any]:
    others = [name for name in values if name not in key]
    keys = ", ".join(f"{values[name]} AS k{number}" for number, name in enumerate(key))
    names = ", ".join(f"k{number}" for number in range(len(key)))
    for table, source in (("o", old), ("n", new)):
        # Of a key that occurs twice, all rows are one.
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE {table} AS SELECT {names}, "
            f"sum(h) AS h, count(*) AS c FROM (SELECT {keys}, "
            f"{_hash(values[name] for name in others)} AS h FROM {source} t) GROUP BY {names}"
        )

    def same_key(one: str, other: str) -> str:
        return " AND ".join(
            f"{one}.k{number} IS NOT DISTINCT FROM {other}.k{number}" for number in range(len(key))
        )

    is_same_key = same_key("o", "n")
    which = {
        "added": f"n WHERE NOT EXISTS (FROM o WHERE {is_same_key})",
        "removed": f"o WHERE NOT EXISTS (FROM n WHERE {is_same_key})",
        "changed": f"n WHERE EXISTS (FROM o WHERE {is_same_key} AND (o.h != n.h OR o.c != n.c))",
    }
    result: dict[str, Any] = {"key": list(key)}
    for change, rows in which.items():
        result[change] = _number(connection, f"SELECT count(*) FROM {rows}")
        shown = connection.execute(
            f"SELECT {names} FROM {rows} ORDER BY ALL LIMIT {SHOWN_KEYS}"
        ).fetchall()
        result[f"{change}_keys"] = [[str(part) for part in row] for row in shown]
    result["rows"], result["repeated_keys"] = (
        [_number(connection, f"SELECT coalesce(sum({of}), 0)::BIGINT FROM {each}") for each in "on"]
        for of in ("c", "c - 1")
    )
    if result["changed"] and others:
        columns = ", ".join(f"{values[name]} AS v{number}" for number, name in enumerate(others))
        counts = ", ".join(
            f"count(*) FILTER (o.v{number} IS DISTINCT FROM n.v{number})"
            for number in range(len(others))
        )
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE c AS SELECT {names} FROM {which['changed']}"
        )
        sides = (
            f"(SELECT * FROM (SELECT {keys}, {columns} FROM {source} t) n "
            f"WHERE EXISTS (FROM c WHERE {same_key('c', 'n')}))"
            for source in (old, new)
        )
        row = connection.execute(
            f"SELECT {counts} FROM {next(sides)} o JOIN {next(sides)} n ON {is_same_key}"
        ).fetchone()
        result["changed_columns"] = {
            name: count for name, count in zip(others, row, strict=True) if count
        }
    return result


def _hash(values: Any) -> str:
    listed = ", ".join(values)
    return f"hash({listed})" if listed else "0::UBIGINT"


def _number(connection: Any, query: str) -> int:
    [(number,)] = connection.execute(query).fetchall()
    return int(number)


if __name__ == "__main__":
    step.run(compare, needs_dcpy=False)
