"""Join the branches of the three library systems into one list."""

import os
from pathlib import Path

import duckdb

SYSTEMS = {"bpl": "bpl_libraries", "nypl": "nypl_libraries", "qpl": "qpl_libraries"}


def main() -> None:
    folder = Path(os.environ["BUILD_ENV_OUTPUT_DIR"])
    database = folder / f"libraries_{os.environ['VERSION']}.duckdb"
    schema = os.environ["BUILD_ENGINE_SCHEMA"]
    output = folder / "libraries.csv"

    print(f"Reading {database.name}", flush=True)
    with duckdb.connect(str(database), read_only=True) as connection:
        selects = []
        for system, table in SYSTEMS.items():
            source = f'"{schema}"."{table}"'
            [[count]] = connection.sql(f"SELECT count(*) FROM {source}").fetchall()
            print(f"{system}: {count} branches", flush=True)
            selects.append(
                f"SELECT '{system}' AS system, name, address, borough, zipcode,"
                f" data_library_version FROM {source}"
            )
        branches = connection.sql(" UNION ALL ".join(selects)).order("system, name")
        total = len(branches.fetchall())
        branches.write_csv(str(output))
    print(f"Wrote {total} branches to {output.name}", flush=True)


main()
