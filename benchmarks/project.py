"""A copy of the project beside a made-up checkout, to be measured."""

import compileall
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).parent.parent
TEMPLATES = 200
# The smallest dcpy that the steps can call: a step's time is then this project's and Dagster's.
NO_OP_DCPY = {
    "__init__.py": "",
    "lifecycle/__init__.py": "",
    "lifecycle/ingest/__init__.py": "",
    "lifecycle/ingest/run.py": "",
    "lifecycle/builds/__init__.py": "",
    "lifecycle/builds/plan.py": (
        "def plan(recipe_file, version=None, build_name=None, branch=None, env_vars=None,"
        " output_path=None):\n"
        "    output_path.write_text('version: x\\n')\n"
        "    return output_path\n"
    ),
    "lifecycle/builds/load.py": (
        "class LoadResult:\n"
        "    datasets = {}\n"
        "def load_source_data_from_resolved_recipe(recipe_or_path, *args):\n"
        "    return LoadResult()\n"
    ),
}


@contextmanager
def project_with(
    products: int, *, dcpy: dict[str, str] | None = None, checkout: Path | None = None
) -> Iterator[Path]:
    """A copy of the project beside a checkout, by default a made-up one of so many products.

    It is compiled already, as it is from its second start on.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        project = Path(folder) / "project"
        shutil.copytree(
            PROJECT / "orchestration",
            project / "orchestration",
            ignore=shutil.ignore_patterns(".venv", "__pycache__"),
        )
        shutil.copytree(PROJECT / "templates", project / "templates")
        for generated in (project / "orchestration" / "locations").glob("[!_]*.py"):
            generated.unlink()
        compileall.compile_dir(project / "orchestration", quiet=1)
        if checkout:
            (project / "checkout").symlink_to(checkout)
        else:
            make_checkout(project / "checkout", products)
        for name, text in (dcpy or {}).items():
            path = project / "checkout" / "dcpy" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        if dcpy:
            python = project / "python"
            # An interpreter that finds this dcpy, whatever is installed.
            python.write_text(
                f'#!/bin/sh\nPYTHONPATH="{project}/checkout" exec "{sys.executable}" "$@"\n'
            )
            python.chmod(0o755)
        yield project


def make_checkout(checkout: Path, products: int) -> None:
    """Makes up a checkout of so many products, whose recipes name ten datasets each."""
    for i in range(products):
        recipe = checkout / "products" / f"product {i}" / "recipe.yml"
        recipe.parent.mkdir(parents=True)
        inputs = "".join(f"  - name: dataset_{d}\n" for d in range(i, i + 10))
        recipe.write_text(f"name: p\nproduct: p\ninputs:\n  datasets:\n{inputs}")
    entries = [f"- id: product {i}\n  build_command: 'true'\n" for i in range(products)]
    (checkout / "products" / "products.yml").write_text("products:\n" + "".join(entries))
    (checkout / "ingest_templates").mkdir()
    for i in range(TEMPLATES):
        (checkout / "ingest_templates" / f"dataset_{i}.yml").write_text(
            f"id: dataset_{i}\nacl: public-read\nattributes:\n  name: Dataset {i}\n"
            "ingestion:\n  source:\n    type: local_file\n    path: data.csv\n"
            "  file_format:\n    type: csv\n"
            "columns:\n" + "".join(f"- id: c{c}\n  data_type: text\n" for c in range(20))
        )


def environment(project: Path) -> dict[str, str]:
    """The environment of what is measured."""
    others = ("DAGSTER_", "DCPY_", "PYTHONDONTWRITEBYTECODE")
    env = {k: v for k, v in os.environ.items() if not k.startswith(others)}
    env["DATA_ENGINEERING_ROOT"] = str(project / "checkout")
    if (project / "python").exists():
        env["DCPY_PYTHON"] = str(project / "python")
    return env


def run_generate(project: Path) -> None:
    """Generates the project's locations."""
    subprocess.run(
        [sys.executable, "-m", "orchestration", "generate"],
        cwd=project,
        env=environment(project),
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
