"""Notices that files of the checkout or of the project have changed."""

import os
import time
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

Fingerprint = frozenset[tuple[str, int, int, int]]
SETTLED_NS = 1_000_000_000


class Watch:
    """What the files looked like when they were last asked about.

    It looks at them itself, a few hundred a second at most: threads of a file watcher would not
    survive the forks of the process that this runs in.
    """

    def __init__(self, root: Path, project: Path = PROJECT_ROOT) -> None:
        self._root, self._project = root, project
        self._seen: dict[str, Fingerprint] = {}
        self._listings: dict[Path, tuple[int, list[Path]]] = {}
        self._templates = self._template_ids()

    def products_changed(self) -> bool:
        """Whether products.yml or a template of the generated modules has changed."""
        files = [self._root / PRODUCTS_FILE, *self._listed(self._project / "templates", ".jinja")]
        return self._has_changed("products", _fingerprint(files))

    def workspace_changed(self) -> bool:
        """Whether workspace.yaml has changed."""
        return self._has_changed("workspace", _fingerprint([self._project / WORKSPACE]))

    def changed_locations(self, products: Sequence[Product]) -> set[str]:
        """The locations that would load differently now."""
        changed = {
            name
            for name in (INGEST, *(product.slug for product in products))
            if self._has_changed(name, self.state_of(name, products))
        }
        return changed | self._with_other_sources(products)

    def state_of(self, name: str, products: Sequence[Product]) -> Fingerprint:
        """What the files look like that a location is loaded from."""
        files = [self._project / LOCATIONS / f"{name}.py"]
        if name == INGEST:
            files += self._listed(templates_folder(self._root), ".yml")
        for product in products:
            if product.slug == name:
                folder = product_folder(self._root, product.folder)
                own = self._listed(folder, ".yml", ".py")
                has_own = folder / "definitions.py" in own
                files += [file for file in own if has_own or file.suffix == ".yml"]
                files.append(folder / product.recipe)
        return _fingerprint(files)

    def _with_other_sources(self, products: Sequence[Product]) -> set[str]:
        """The products whose recipes seem to name an ingest template that has come or gone.

        The text is searched, not read: that is for the location's own process, which may fail.
        """
        before, self._templates = self._templates, self._template_ids()
        if not (names := before ^ self._templates):
            return set()
        found = set()
        for product in products:
            for recipe in self._listed(product_folder(self._root, product.folder), ".yml"):
                with suppress(OSError):
                    text = recipe.read_text(encoding="utf-8", errors="replace")
                    if any(name in text for name in names):
                        found.add(product.slug)
        return found

    def _template_ids(self) -> set[str]:
        return {path.stem for path in self._listed(templates_folder(self._root), ".yml")}

    def _listed(self, folder: Path, *suffixes: str) -> list[Path]:
        """The folder's files of those kinds; it is listed again only where it has changed."""
        try:
            changed = os.stat(folder).st_mtime_ns
            known = self._listings.get(folder)
            if known is None or known[0] != changed:
                known = (changed, [folder / name for name in sorted(os.listdir(folder))])
                # What happens within one tick of the clock leaves the same time.
                if time.time_ns() - changed > SETTLED_NS:
                    self._listings[folder] = known
        except OSError:
            return []
        return [path for path in known[1] if path.suffix in suffixes]

    def _has_changed(self, name: str, now: Fingerprint) -> bool:
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
        # The time of change is nobody's to set: an older file that is put back differs.
        found.add((str(path), status.st_mtime_ns, status.st_ctime_ns, status.st_size))
    return frozenset(found)
