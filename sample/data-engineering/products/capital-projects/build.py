"""Run every query in sql/ and write its result to a CSV of the same name."""

import os
from pathlib import Path

import duckdb


def main() -> None:
    folder = Path(os.environ["BUILD_ENV_OUTPUT_DIR"])
    database = folder / f"db-capital-projects_{os.environ['VERSION']}.duckdb"
    with duckdb.connect(str(database), read_only=True) as connection:
        connection.execute(f"""SET schema = '{os.environ["BUILD_ENGINE_SCHEMA"]}'""")
        for query in sorted(Path("sql").glob("*.sql")):
            result = connection.sql(query.read_text())
            result.write_csv(str(folder / f"{query.stem}.csv"))
            print(f"Wrote {len(result.fetchall())} rows to {query.stem}.csv", flush=True)


main()
