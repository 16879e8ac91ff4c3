import subprocess
import sys
import tomllib
from pathlib import Path

from orchestration.catalog.checkout import PROJECT_ROOT
from tests.harness.processes import PATIENCE


def test_what_dagsters_own_command_line_loads_is_all_locations_as_one(project: Path) -> None:
    settings = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["tool"]["dg"]
    module = settings["project"]["code_location_target_module"]
    program = (
        f"from {module} import defs\n"
        "import dagster as dg\n"
        "dg.Definitions.validate_loadable(defs)\n"
        "print(*sorted({key.path[0] for key in defs.resolve_all_asset_keys()}))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.stdout.split() == ["capital_projects", "ingest", "libraries", "park_access"]
