"""Count the parks, playgrounds and gardens of each borough: access.py DATABASE OUTPUT."""

import json
import os
import sys
from pathlib import Path

import duckdb

QUERY = """
    SELECT borough, count(*) AS parks, round(sum(acres), 1) AS park_acres,
        (SELECT count(*) FROM read_parquet(?) AS p WHERE p.borough = parks.borough) AS playgrounds,
        (SELECT count(*) FROM gardens AS g WHERE g.borough = parks.borough) AS gardens
    FROM dpr_parks AS parks GROUP BY borough ORDER BY borough
"""


def file_of(dataset: str) -> str:
    metadata = Path(os.environ["BUILD_ENV_OUTPUT_DIR"]) / "build_metadata.json"
    versions = json.loads(metadata.read_text())["load_result"]["datasets"][dataset]
    return str(next(iter(versions.values()))["destination"])


def main(database: str, output: str) -> None:
    playgrounds = file_of("dpr_playgrounds")
    print(f"Playgrounds from {playgrounds}", flush=True)
    with duckdb.connect(database, read_only=True) as connection:
        connection.execute(f"""SET schema = '{os.environ["PARK_ACCESS_SCHEMA"]}'""")
        connection.sql(QUERY, params=[playgrounds]).write_csv(output)


main(*sys.argv[1:])
