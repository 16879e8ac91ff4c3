"""Where the data-engineering checkout is, where in it things lie, and where its state is kept.

`python3 -m orchestration.catalog.checkout` prints the folder, or says why it cannot be served. It
needs nothing but Python, so that `make` can ask before it installs anything.
"""

import hashlib
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from orchestration import OrchestrationError

PROJECT_ROOT = Path(__file__).resolve().parents[2]
SAMPLE_ROOT = PROJECT_ROOT / "sample" / "data-engineering"
PRODUCTS_FILE = Path("products", "products.yml")
RECIPES = "products/*/recipe*.yml"
TEMPLATES = "ingest_templates"


def checkout_root(environ: Mapping[str, str] = os.environ, project: Path = PROJECT_ROOT) -> Path:
    """The checkout's absolute path.

    `DATA_ENGINEERING_ROOT` where that is set; else the nearest folder that is a checkout, from
    `project` upwards; else the bundled sample.
    """
    if configured := environ.get("DATA_ENGINEERING_ROOT"):
        return Path(os.path.expanduser(configured)).absolute()
    for folder in (project, *project.parents):
        if is_checkout(folder):
            return folder
    return project / SAMPLE_ROOT.relative_to(PROJECT_ROOT)


def is_checkout(folder: Path) -> bool:
    """Whether the folder has a product list, recipes of products, or ingest templates."""
    return (
        (folder / PRODUCTS_FILE).is_file()
        or any(folder.glob(RECIPES))
        or any(templates_folder(folder).glob("*.yml"))
    )


def products_file(root: Path) -> Path:
    """The checkout's product list.

    Raises OrchestrationError when there is none, or `root` is no checkout at all.
    """
    path = root / PRODUCTS_FILE
    if path.is_file():
        return path
    if path.exists():
        raise OrchestrationError(f"{path} is not a file. Put the product list there.")
    if is_checkout(root):
        is_default = root == checkout_root({})
        where = "" if is_default else f" DATA_ENGINEERING_ROOT={shlex.quote(str(root))}"
        raise OrchestrationError(
            f"{root} is a checkout without a product list, {PRODUCTS_FILE}: "
            f"`make init{where}` (`python3 -m orchestration init`) writes one from its recipes."
        )
    what = (
        f"it has no {PRODUCTS_FILE}, no {RECIPES} and no {TEMPLATES}/*.yml"
        if root.is_dir()
        else "there is no such folder"
    )
    raise OrchestrationError(
        f"{root} is not a data-engineering checkout: {what}. Set DATA_ENGINEERING_ROOT to one."
    )


def state_folder(environ: Mapping[str, str] = os.environ, project: Path = PROJECT_ROOT) -> Path:
    """The folder that holds `.lifecycle`, `.dagster` and `.dcpy` of the checkout.

    For the checkout that is served where nothing is set, the project's folder; for any other one
    of its own in `.checkouts`, always the same for the same path.
    """
    root = checkout_root(environ, project).resolve()
    if root == checkout_root({}, project).resolve():
        return project
    digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:8]
    return project / ".checkouts" / f"{root.name[:40]}-{digest}"


def product_folder(root: Path, path: str) -> Path:
    """The folder of the product whose `path` in products.yml is `path`."""
    return root / "products" / path


def interpreter_path(root: Path, configured: str) -> Path:
    """The absolute path of an interpreter that products.yml names, whether it is there or not.

    A relative path begins at the checkout's root; a name without `/` is looked up on PATH.
    """
    found = shutil.which(configured) if os.path.basename(configured) == configured else None
    # Not by way of its links, which would leave its environment.
    return Path(os.path.abspath(root / os.path.expanduser(found or configured)))


def templates_folder(root: Path) -> Path:
    """The folder of the ingest templates."""
    return root / TEMPLATES


def main() -> int:
    """Prints the checkout's folder, or why it cannot be served; gives the exit code."""
    root = checkout_root()
    try:
        products_file(root)
    except OrchestrationError as error:
        print(error, file=sys.stderr)
        return 1
    print(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
