"""Files with made-up rows, for the templates of a checkout to ingest.

A row's geometry, `geom` or `wkb_geometry`, is in feet (EPSG:2263) from a corner in Manhattan: a
point as (x, y), a rectangle as (x, y, width, height).
"""

import csv
import json
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
Rows = Sequence[Row]

CORNER = (1_000_000, 215_000)
FEET, DEGREES = "EPSG:2263", "EPSG:4326"
GEOMETRY = ("geom", "wkb_geometry")
SUFFIXES = {"csv": ".csv", "geojson": ".geojson", "shapefile": ".zip", "xlsx": ".xlsx"}
# For a dataset that the team archives without a template.
TEMPLATE = """\
id: {name}
acl: public-read
attributes: {{name: {name}}}
ingestion:
  target_crs: EPSG:4326
  source: {{}}
  file_format: {{type: geojson}}
  processing_steps:
  - name: multi
"""
RENAMED = "  - {name: rename_columns, args: {map: {geom: wkb_geometry}}}\n"
SOURCE = re.compile(r"^  source:.*\n(?:    .*\n)*", re.MULTILINE)
NAME_IN_ZIP = re.compile(r"^    unzipped_filename:.*\n", re.MULTILINE)
FILE_TYPE = re.compile(r"file_format:\s*\{?type: (\w+)")
SHEET = re.compile(r"sheet_name: (.+)")
# Datasets of many columns: the SQL that reads them, and what a column looks like there.
READ_BY = {
    "dcas_lift": ("lift/models/staging/stg__lift_csv.sql", r"^ +(\w+) AS \w+"),
    "dcp_cbbr_requests": ("cbbr/sql/cbbr_submissions.sql", r'dcp\."?([^"\s]+)"? AS'),
    "dcp_projectbbls_cy": ("cdbg/models/staging/stg__zap_projects.sql", r'"([^"]+)"::text'),
    "omb_cbbr_agency_responses": ("cbbr/sql/cbbr_submissions.sql", r"omb\.(\w+)"),
}


def write_template(
    path: Path, rows: Rows, files: Path, version: str, to_xlsx: Callable[[Path, Path, str], None]
) -> None:
    """Makes the template read these rows, from a file of the type that it reads from its source.

    Where there is no template, one is written. `to_xlsx` makes a workbook of one sheet of a CSV.
    """
    if path.exists():
        text = path.read_text()
    else:
        text = TEMPLATE.format(name=path.stem) + (RENAMED if "wkb_geometry" in rows[0] else "")
    kind = FILE_TYPE.search(text)
    assert kind
    file = files / f"{path.stem}{SUFFIXES[kind[1]]}"
    if file.suffix == ".xlsx":
        sheet = SHEET.search(text)
        assert sheet
        write_file(file.with_suffix(".csv"), rows)
        to_xlsx(file.with_suffix(".csv"), file, sheet[1].replace("{{ version }}", version))
    else:
        write_file(file, rows)
    source = f"  source: {{type: local_file, path: {file}}}\n"
    path.write_text(NAME_IN_ZIP.sub("", SOURCE.sub(source, text)))


def write_file(path: Path, rows: Rows, crs: str = FEET) -> None:
    """A `.csv`, a `.geojson`, or a `.zip` with a shapefile in this coordinate system."""
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return
    drawn = path.with_suffix(".json")
    drawn.write_text(
        json.dumps({"type": "FeatureCollection", "features": [feature(row) for row in rows]})
    )
    if path.suffix == ".geojson":
        ogr2ogr(drawn, path, "GeoJSON", DEGREES)
    else:
        folder = path.with_suffix("")
        folder.mkdir()
        ogr2ogr(drawn, folder / f"{path.stem}.shp", "ESRI Shapefile", crs)
        subprocess.run(["zip", "-qj", path, *sorted(folder.iterdir())], check=True)


def feature(row: Row) -> dict[str, Any]:
    [shape] = [row[name] for name in GEOMETRY if name in row]
    x, y = CORNER[0] + shape[0], CORNER[1] + shape[1]
    geometry: dict[str, Any] = {"type": "Point", "coordinates": [x, y]}
    if len(shape) == 4:
        right, top = x + shape[2], y + shape[3]
        ring = [[x, y], [right, y], [right, top], [x, top], [x, y]]
        geometry = {"type": "Polygon", "coordinates": [ring]}
    properties = {name: value for name, value in row.items() if name not in GEOMETRY}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def ogr2ogr(source: Path, target: Path, driver: str, crs: str) -> None:
    # GeoJSON itself knows degrees only.
    systems = ["-s_srs", FEET, "-t_srs", crs]
    subprocess.run(["ogr2ogr", "-f", driver, *systems, target, source], check=True)


def with_all_columns(dataset: str, rows: Rows, checkout: Path) -> Rows:
    """The rows, with what else the product's SQL reads of the dataset left empty."""
    if dataset not in READ_BY:
        return rows
    path, pattern = READ_BY[dataset]
    columns = re.findall(pattern, (checkout / "products" / path).read_text(), re.MULTILINE)
    return [{**dict.fromkeys(columns, ""), **row} for row in rows]
