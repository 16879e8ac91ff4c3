#!/usr/bin/env bash
set -euo pipefail

: "${PARK_ACCESS_SCHEMA:?comes from the recipe}"
database="$BUILD_ENV_OUTPUT_DIR/park_access_${VERSION}.duckdb"
[ -f "$database" ] || { echo "There is no $database" >&2; exit 1; }

echo "Building park access $VERSION"
python access.py "$database" "$BUILD_ENV_OUTPUT_DIR/park_access.csv"
echo "Wrote $(($(wc -l < "$BUILD_ENV_OUTPUT_DIR/park_access.csv") - 1)) boroughs to park_access.csv"
