"""Where the data-engineering checkout is, and where in it things lie.

`python -m orchestration.catalog.checkout` prints the folder.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from orchestration import OrchestrationError

PROJECT_ROOT = Path(__file__).resolve().parents[2]
SAMPLE_ROOT = PROJECT_ROOT / "sample" / "data-engineering"
PRODUCTS_FILE = Path("products", "products.yml")


def checkout_root(environ: Mapping[str, str] = os.environ, project: Path = PROJECT_ROOT) -> Path:
    """The checkout's absolute path.

    `DATA_ENGINEERING_ROOT` where that is set; else the nearest folder above `project` that holds
    `products/products.yml`; else the bundled sample.
    """
    if configured := environ.get("DATA_ENGINEERING_ROOT"):
        return Path(configured).expanduser().absolute()
    for folder in project.parents:
        if (folder / PRODUCTS_FILE).is_file():
            return folder
    return project / SAMPLE_ROOT.relative_to(PROJECT_ROOT)


def products_file(root: Path) -> Path:
    """The checkout's product list.

    Raises OrchestrationError when `root` is not a checkout.
    """
    path = root / PRODUCTS_FILE
    if not path.is_file():
        raise OrchestrationError(
            f"{root} is not a data-engineering checkout: it has no {PRODUCTS_FILE}. "
            "Set DATA_ENGINEERING_ROOT to one."
        )
    return path


def product_folder(root: Path, path: str) -> Path:
    """The folder of the product whose `path` in products.yml is `path`."""
    return root / "products" / path


def templates_folder(root: Path) -> Path:
    """The folder of the ingest templates."""
    return root / "ingest_templates"


if __name__ == "__main__":
    sys.stdout.write(f"{checkout_root()}\n")
