"""What tabular files hold: parquet, CSV and DuckDB. On DuckDB alone, without its extensions."""

import codecs
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PREVIEW_ROWS = 10
PREVIEW_COLUMNS = 40
CELL_CHARACTERS = 60
MAX_TABLES = 200
CHUNK = 1 << 20
SMALL_BYTES = 4_000_000
# The header is never guessed: a column of words would lose its name.
CSV_OPTIONS = "header = true, hive_partitioning = false"
# As RFC 4180 has it, where nothing else in the header can divide it.
USUAL_CSV = """delim = ',', quote = '"', escape = '"'"""
OTHERS = set(b";|\t")
FORMATS = (".parquet", ".csv", ".duckdb")


def connect() -> Any:
    """A database in memory that fetches nothing from the network.

    Raises ImportError where this interpreter has no DuckDB.
    """
    import duckdb

    return duckdb.connect(
        config={"autoinstall_known_extensions": False, "memory_limit": "700MB", "threads": 2}
    )


def describe(connection: Any, folder: Path, file: str) -> list[dict[str, Any]]:
    """The tables of a file below the folder: one, or as many as a DuckDB database has.

    Of each: name, rows, columns with their name and type, and `preview`, its first rows as texts.
    Of a file that cannot be read: name, and `problem`, a sentence.
    """
    import duckdb

    try:
        with tables(connection, folder / file) as found:
            return [
                {
                    "name": f"{file}: {name}" if name else file,
                    **described(connection, _read_once(connection, folder / file, source)),
                }
                for name, source in found[:MAX_TABLES]
            ]
    except duckdb.Error as error:
        return [{"name": file, "problem": str(error).partition("\n")[0]}]


@contextmanager
def tables(connection: Any, path: Path, alias: str = "file") -> Iterator[list[tuple[str, str]]]:
    """The file's tables, each with its name in the file, and what it is called in SQL."""
    if path.suffix == ".parquet":
        yield [("", f"read_parquet({_pattern(path)}, hive_partitioning = false)")]
    elif path.suffix == ".csv":
        yield [("", _csv(path))]
    else:
        connection.execute(f"ATTACH {_text(path)} AS {alias} (READ_ONLY)")
        try:
            rows = connection.execute(
                "SELECT schema_name, table_name FROM duckdb_tables() "
                "WHERE database_name = ? ORDER BY ALL",
                [alias],
            ).fetchall()
            # A build's schema has its partition in its name, which is another in every build.
            schemas = {schema for schema, _ in rows}
            shortest = min(schemas, key=len, default="")
            own = shortest if all(each.startswith(shortest) for each in schemas) else ""
            yield [
                (
                    table if schema in ("main", own) else f"{schema.removeprefix(own)}.{table}",
                    f"{alias}.{quoted(schema)}.{quoted(table)}",
                )
                for schema, table in rows
            ]
        finally:
            connection.execute(f"DETACH {alias}")


def _read_once(connection: Any, path: Path, source: str) -> str:
    """The source; a small CSV as a table, since what is in it is guessed each time it is read.

    One that looks as most do is first read as they are: to guess takes four times as long.
    """
    import duckdb

    if path.suffix != ".csv" or path.stat().st_size > SMALL_BYTES:
        return source
    with path.open("rb") as file:
        header = file.readline(CHUNK)
    attempts = [source]
    if b"," in header and not set(header) & OTHERS:
        attempts.insert(0, source.replace(CSV_OPTIONS, f"{CSV_OPTIONS}, {USUAL_CSV}"))
    for attempt in attempts:
        # A value further down is not what the first ones are; its rows can be told all the same.
        with suppress(duckdb.Error):
            connection.execute(f"CREATE OR REPLACE TEMP TABLE small AS FROM {attempt}")
            return "small"
    return source


def as_text(source: str) -> str:
    """The source with a CSV's values as the file has them, instead of what they seem to be."""
    return source.replace(CSV_OPTIONS, f"{CSV_OPTIONS}, all_varchar = true")


def _csv(path: Path) -> str:
    # In latin-1 each byte is a character.
    encoding = "" if _is_utf8(path) else ", encoding = 'latin-1'"
    return f"read_csv({_pattern(path)}, {CSV_OPTIONS}{encoding})"


def _is_utf8(path: Path) -> bool:
    """Whether it is; to read it as a table, which ends at what is not, takes a second or two."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def described(connection: Any, source: str) -> dict[str, Any]:
    """The rows, columns and preview of what `source` is in SQL."""
    columns = columns_of(connection, source)
    [(rows,)] = connection.execute(f"SELECT count(*) FROM {source}").fetchall()
    shown = ", ".join(_shown(**column) for column in columns[:PREVIEW_COLUMNS])
    first = connection.execute(f"SELECT {shown} FROM {source} LIMIT {PREVIEW_ROWS}").fetchall()
    return {
        "rows": rows,
        "columns": columns,
        "preview": [[value or "" for value in row] for row in first],
    }


def kind_of(kind: str) -> str:
    """The type without the coordinate system that a geometry's spells out whole."""
    return "GEOMETRY" if kind.startswith("GEOMETRY") else kind


def columns_of(connection: Any, source: str) -> list[dict[str, str]]:
    """Each column's name and type."""
    rows = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
    return [{"name": name, "type": kind_of(kind)} for name, kind, *_ in rows]


def _shown(name: str, type: str) -> str:
    text = f"{quoted(name)}::VARCHAR"
    if type == "GEOMETRY":
        text = f"ST_AsText({quoted(name)})"
    elif type == "BLOB":
        text = f"octet_length({quoted(name)})::VARCHAR || ' bytes'"
    return (
        f"CASE WHEN length({text}) > {CELL_CHARACTERS} "
        f"THEN left({text}, {CELL_CHARACTERS}) || '…' ELSE {text} END"
    )


def quoted(name: str) -> str:
    """The name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def _pattern(path: Path) -> str:
    # What is a wildcard in SQL can be in a file's name.
    return _text(Path(re.sub(r"[*?[]", r"[\g<0>]", str(path))))


def _text(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
