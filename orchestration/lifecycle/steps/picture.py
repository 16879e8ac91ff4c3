"""A small map of a table that has geometry: Pillow draws it, shapely reads the geometry."""

import io
import itertools
import math
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import tabular

MAX_MAPS = 5
MAX_BYTES = 50_000
SIZE = 420
# Drawn so many times larger, which makes the lines of the small picture smooth.
SCALE = 2
MAX_SHAPES = 10_000
COLOURS = {"before": (224, 82, 31), "now": (38, 98, 168)}
WHITE = (255, 255, 255)
SHADES = 6
# What share of the corners may lie outside: a misplaced one would leave the rest a dot.
STRAYS = 0.002
GEOMETRIES = ("geom", "geometry", "the_geom", "wkb_geometry", "wkt", "shape")
PAIRS = (("longitude", "latitude"), ("lon", "lat"), ("lng", "lat"))

# As shapely numbers the kinds of geometry.
POLYGON = 3
# How large a dot is, in pixels, by how many there are.
DOTS = {100: 4.0, 2_000: 2.0, math.inf: 0.75}
MIN_OUTLINED = 6

Columns = Sequence[dict[str, str]]
Geometry = tuple[str, str]
Shapes = tuple[str, Geometry | None]


def geometry_of(columns: Columns) -> Geometry | None:
    """What gives a row's geometry in SQL, as WKB or text, and the values that it is made of.

    None in a table without any.
    """
    kinds = {column["name"]: column["type"] for column in columns}
    for name, kind in kinds.items():
        if kind == "GEOMETRY":
            return f"ST_AsWKB({tabular.quoted(name)})", tabular.quoted(name)
    names = {name.lower(): name for name in kinds}
    for name in GEOMETRIES:
        if kinds.get(names.get(name, "")) in ("BLOB", "VARCHAR"):
            return (tabular.quoted(names[name]),) * 2
    for pair in PAIRS:
        if names.keys() >= set(pair):
            x, y = (f"TRY_CAST({tabular.quoted(names[name])} AS DOUBLE)" for name in pair)
            return f"'POINT (' || {x} || ' ' || {y} || ')'", f"{x}, {y}"
    return None


def add_maps(
    connection: Any, file: Path, found: Sequence[dict[str, Any]], before: Path, folder: Path
) -> None:
    """Draws the tables of a file that have geometry, over those that a file `before` had.

    `found` are the file's tables as `tabular.describe` gives them. Each that is drawn gets `map`,
    the path of a PNG in `folder`. What this interpreter lacks for that is said, once.
    """
    import duckdb

    drawable = [table for table in found if geometry_of(table.get("columns", ()))]
    pictures = len(list(folder.glob("*.png")))
    if not drawable or pictures >= MAX_MAPS:
        return
    earlier = tabular.tables(connection, before, "before") if before.is_file() else nullcontext([])
    try:
        with tabular.tables(connection, file) as now, earlier as was:
            known = dict(was)
            for (name, source), table in zip(now, found, strict=False):
                if table in drawable[: MAX_MAPS - pictures]:
                    shapes = [(source, geometry_of(table["columns"]))]
                    if name in known:
                        columns = tabular.columns_of(connection, known[name])
                        shapes.append((known[name], geometry_of(columns)))
                    if picture := drawn(connection, *shapes):
                        path = folder / f"{pictures}.png"
                        path.write_bytes(picture)
                        table["map"], pictures = str(path), pictures + 1
    except (ImportError, duckdb.Error) as error:
        lacks = isinstance(error, ImportError)
        why = f"{sys.executable} has no {error.name}" if lacks else str(error).partition("\n")[0]
        print(f"No map of {file.name} is drawn: {why}")


def drawn(connection: Any, now: Shapes, before: Shapes = ("", None)) -> bytes | None:
    """The map of a table, in blue over what it was before, in red, as a PNG.

    Each is given as its name and its geometry in SQL. None where there is no shape to draw. Raises
    ImportError where this interpreter cannot draw.
    """
    import numpy
    import PIL.Image
    import PIL.ImageDraw
    import shapely

    layers = {"before": before, "now": now}
    [(rows,)] = connection.execute(f"SELECT count(*) FROM {now[0]}").fetchall()
    share = 1 + rows // MAX_SHAPES
    shapes = {
        layer: _shapes(shapely, connection, source, geometry, share)
        for layer, (source, geometry) in layers.items()
        if geometry
    }
    corners = shapely.get_coordinates(numpy.concatenate(list(shapes.values())))
    corners = corners[numpy.isfinite(corners).all(axis=1)]
    if not len(corners):
        return None
    left, low = numpy.quantile(corners, STRAYS, axis=0)
    right, high = numpy.quantile(corners, 1 - STRAYS, axis=0)
    is_degrees = max(map(abs, (left, right))) <= 180 and max(map(abs, (low, high))) <= 90
    squeeze = math.cos(math.radians((low + high) / 2)) if is_degrees else 1.0
    side = max((right - left) * squeeze, high - low) or 1.0
    pixels = SIZE * SCALE * 0.92 / side
    centre = numpy.array([(left + right) / 2, (low + high) / 2])

    picture = PIL.Image.new("RGB", (SIZE * SCALE, SIZE * SCALE), WHITE)
    draw = PIL.ImageDraw.Draw(picture)
    for layer, found in shapes.items():
        simple = shapely.simplify(found, 1 / pixels, preserve_topology=False)
        # What is smaller than a pixel is a dot.
        parts = shapely.get_parts(
            numpy.where(shapely.is_empty(simple), shapely.centroid(found), simple)
        )
        kinds = shapely.get_type_id(parts)
        lines = numpy.where(kinds == POLYGON, shapely.get_exterior_ring(parts), parts)
        places, owners = shapely.get_coordinates(lines, return_index=True)
        places = (places - centre) * (squeeze * pixels, -pixels) + SIZE * SCALE / 2
        radius = SCALE * next(size for most, size in DOTS.items() if len(found) <= most)
        for owner, corners in _grouped(numpy, places, owners):
            points = [tuple(each) for each in corners]
            _draw(draw, int(kinds[owner]), points, radius, COLOURS[layer])
    palette = PIL.Image.new("P", (1, 1))
    palette.putpalette(_shades())
    for size in (SIZE, SIZE // 2, SIZE // 4):
        file = io.BytesIO()
        small = picture.resize((size, size), PIL.Image.Resampling.LANCZOS)
        small = small.quantize(palette=palette, dither=PIL.Image.Dither.NONE)
        small.save(file, "PNG", optimize=True)
        if file.tell() <= MAX_BYTES:
            break
    return file.getvalue()


def _shades() -> list[int]:
    """The colours and what lies between any two of them: red, green and blue of each in turn."""
    pairs = itertools.combinations([WHITE, *COLOURS.values()], 2)
    return [
        round(a + (b - a) * step / SHADES)
        for one, other in pairs
        for step in range(SHADES + 1)
        for a, b in zip(one, other, strict=True)
    ]


def _shapes(shapely: Any, connection: Any, source: str, geometry: Geometry, share: int) -> Any:
    shape, values = geometry
    # Of both tables the same shapes: which they are, they say themselves.
    rows = connection.execute(
        f"SELECT g FROM (SELECT {shape} AS g FROM {source} WHERE hash({values}) % {share} = 0) "
        "WHERE g IS NOT NULL"
    ).fetchall()
    found = [bytes.fromhex(g) if _is_hex(g) else g for (g,) in rows]
    read = shapely.from_wkt if found and isinstance(found[0], str) else shapely.from_wkb
    shapes = read(found, on_invalid="ignore")
    return shapes[~(shapely.is_missing(shapes) | shapely.is_empty(shapes))]


def _is_hex(value: Any) -> bool:
    return isinstance(value, str) and value[:2] in ("00", "01")


def _grouped(numpy: Any, places: Any, owners: Any) -> Any:
    """The corners of each shape, in turn."""
    if not len(owners):
        return ()
    starts = numpy.flatnonzero(numpy.diff(owners, prepend=-1))
    return zip(owners[starts], numpy.split(places, starts[1:]), strict=True)


def _draw(
    draw: Any, kind: int, corners: list[tuple[float, float]], radius: float, colour: tuple[int, ...]
) -> None:
    if len(corners) == 1:
        [(x, y)] = corners
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    elif kind == POLYGON:
        low, high = min(corners), max(corners)
        is_large = max(high[0] - low[0], abs(high[1] - low[1])) > MIN_OUTLINED * SCALE
        draw.polygon(corners, fill=colour, outline=WHITE if is_large else None)
    else:
        draw.line(corners, fill=colour, width=SCALE)
