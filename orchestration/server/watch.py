"""Notices that files of the checkout or of the project have changed."""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from orchestration.catalog.checkout import (
    PRODUCTS_FILE,
    PROJECT_ROOT,
    product_folder,
    templates_folder,
)
from orchestration.catalog.names import INGEST
from orchestration.catalog.products import Product
from orchestration.generator.render import LOCATIONS, WORKSPACE

Fingerprint = frozenset[tuple[str, int, int]]


class Watch:
    """What the files looked like when they were last asked about.

    It looks at them itself, a few hundred a second at most: threads of a file watcher would not
    survive the forks of the process that this runs in.
    """

    def __init__(self, root: Path, project: Path = PROJECT_ROOT) -> None:
        self._root, self._project = root, project
        self._seen: dict[str, Fingerprint] = {}
        self._templates = self._template_ids()

    def products_changed(self) -> bool:
        """Whether products.yml or a template of the generated modules has changed."""
        files = [self._root / PRODUCTS_FILE, *(self._project / "templates").glob("*.jinja")]
        return self._has_changed("products", files)

    def workspace_changed(self) -> bool:
        """Whether workspace.yaml has changed."""
        return self._has_changed("workspace", [self._project / WORKSPACE])

    def changed_locations(self, products: Sequence[Product]) -> set[str]:
        """The locations that would load differently now."""
        modules = self._project / LOCATIONS
        files: dict[str, Iterable[Path]] = {
            INGEST: [modules / f"{INGEST}.py", *templates_folder(self._root).glob("*.yml")]
        }
        for product in products:
            folder = product_folder(self._root, product.folder)
            own = [path for kind in ("*.yml", "*.py") for path in folder.glob(kind)]
            files[product.slug] = [
                modules / f"{product.slug}.py",
                folder / product.recipe,
                *(own if (folder / "definitions.py") in own else folder.glob("*.yml")),
            ]
        changed = {name for name, paths in files.items() if self._has_changed(name, paths)}
        return changed | self._with_other_sources(products)

    def _with_other_sources(self, products: Sequence[Product]) -> set[str]:
        """The products whose recipes seem to name an ingest template that has come or gone.

        The text is searched, not read: that is for the location's own process, which may fail.
        """
        before, self._templates = self._templates, self._template_ids()
        if not (names := before ^ self._templates):
            return set()
        found = set()
        for product in products:
            for recipe in product_folder(self._root, product.folder).glob("*.yml"):
                with suppress(OSError):
                    text = recipe.read_text(encoding="utf-8", errors="replace")
                    if any(name in text for name in names):
                        found.add(product.slug)
        return found

    def _template_ids(self) -> set[str]:
        return {path.stem for path in templates_folder(self._root).glob("*.yml")}

    def _has_changed(self, name: str, files: Iterable[Path]) -> bool:
        now = _fingerprint(files)
        before = self._seen.get(name)
        self._seen[name] = now
        return before is not None and before != now


def _fingerprint(files: Iterable[Path]) -> Fingerprint:
    found = set()
    for path in files:
        try:
            status = os.stat(path)
        except OSError:
            continue
        found.add((str(path), status.st_mtime_ns, status.st_size))
    return frozenset(found)
