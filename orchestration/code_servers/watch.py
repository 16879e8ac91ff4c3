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
from orchestration.catalog.names import INGEST, TEAM_FILE
from orchestration.catalog.products import Product
from orchestration.definitions.interpreter import Interpreter
from orchestration.generator.render import LOCATIONS, WORKSPACE
from orchestration.lifecycle.dbt import NAMES_FILE
from orchestration.lifecycle.results import lifecycle_dir, product_builds

Fingerprint = tuple[tuple[str, int, int, int], ...]
SETTLED_NS = 1_000_000_000
# What is not edited by hand, and hundreds of ingest templates: to look at each of these every time
# would be most of what an idle `up` does.
LOOKS_PER_LOOK_AT_ALL = 4


class Watch:
    """What the files looked like when they were last asked about.

    It looks at them itself, some hundred a second: threads of a file watcher would not
    survive the forks of the process that this runs in.
    """

    def __init__(self, root: Path, deployment: Path, project: Path = PROJECT_ROOT) -> None:
        self._root = root
        self._products, self._workspace = str(root / PRODUCTS_FILE), str(project / WORKSPACE)
        self._deployment, self._generated_by = str(deployment), str(project / "templates")
        self._modules = str(project / LOCATIONS)
        self._templates_folder = str(templates_folder(root))
        self._folders: dict[str, tuple[str, str]] = {}
        self._dbt_names: dict[str, str] = {}
        self._owned: list[str] = []
        self._interpreters: dict[str, Interpreter] = {}
        self._seen: dict[str, Fingerprint] = {}
        self._listings: dict[tuple[str, ...], tuple[int, list[str]]] = {}
        self._templates = self._listed(self._templates_folder, ".yml")
        self._looks = -1

    def look(self) -> None:
        """Begins to look another time; now and then it is at all."""
        self._looks += 1

    def look_at_all(self) -> None:
        """Has this look be one at all: something was generated."""
        self._looks = 0

    @property
    def _is_at_all(self) -> bool:
        return self._looks % LOOKS_PER_LOOK_AT_ALL == 0

    def take(self, products: Sequence[Product]) -> None:
        """Looks after these products from now on."""
        results = lifecycle_dir()
        self._folders = {}
        for product in products:
            folder = str(product_folder(self._root, product.folder))
            names = str(product_builds(results, product.slug) / NAMES_FILE)
            self._folders[product.slug] = (folder, f"{folder}/{product.recipe}")
            self._dbt_names[product.slug] = names
        self._owned = [self._folders[product.slug][0] for product in products if product.owners]
        own = ((p.slug, Interpreter.of(p, self._root)) for p in products)
        self._interpreters = {slug: interpreter for slug, interpreter in own if interpreter}

    def products_changed(self) -> bool:
        """Whether products.yml, deployment.yml or a template of what is generated has changed."""
        templates = self._listed(self._generated_by, ".jinja")
        files = [self._products, self._deployment, *templates]
        return self._has_changed(self._products, _fingerprint(files))

    def generated_changed(self) -> bool:
        """Whether workspace.yaml, or a module where the locations' are, has changed."""
        is_other = self._has_changed(self._workspace, _fingerprint([self._workspace]))
        if not is_other and not self._is_at_all:
            return False
        modules = self._listed(self._modules, ".py")
        return self._has_changed(self._modules, _fingerprint(modules)) or is_other

    def changed_locations(self) -> set[str]:
        """The locations that would load differently now."""
        is_other = self._templates is not self._listed(self._templates_folder, ".yml")
        asked = {INGEST} if is_other else set()
        for name in self._folders:
            own = _fingerprint(self._own_files(name))
            if self._has_changed(f"files of {name}", own) or name not in self._seen:
                asked.add(name)
        if self._is_at_all:
            asked = {INGEST, *self._folders}
        changed = {name for name in asked if self._has_changed(name, self.state_of(name))}
        return changed | self._with_other_sources()

    def state_of(self, name: str) -> Fingerprint:
        """What the files look like that a location is loaded from."""
        files = [f"{self._modules}/{name}.py"]
        if name == INGEST:
            # A template is owned by those whose recipes take it in.
            for folder in (self._templates_folder, *self._owned):
                files += self._listed(folder, ".yml")
        elif name in self._folders:
            files += [*self._own_files(name), self._dbt_names[name]]
        if interpreter := self._interpreters.get(name):
            files += self._files_of(interpreter)
        return _fingerprint(files)

    def _own_files(self, name: str) -> list[str]:
        """The files of a product that people write."""
        folder, recipe = self._folders[name]
        own = self._listed(folder, ".yml", ".py")
        if f"{folder}/{TEAM_FILE}" not in own:
            own = [file for file in own if file.endswith(".yml")]
        return own if recipe in own else [*own, recipe]

    def _files_of(self, interpreter: Interpreter) -> list[str]:
        """What changes where something is installed there, and where its variables do."""
        libraries = f"{interpreter.path.parent.parent}/lib"
        packages = (f"{name}/site-packages" for name in self._listed(libraries, ""))
        return [*map(str, interpreter.files), *packages]

    def _with_other_sources(self) -> set[str]:
        """The products whose recipes seem to name an ingest template that has come or gone.

        The text is searched, not read: that is for the location's own process, which may fail.
        """
        before, self._templates = self._templates, self._listed(self._templates_folder, ".yml")
        if before is self._templates:
            return set()
        names = [Path(file).stem for file in {*before} ^ {*self._templates}]
        found = set()
        for slug, (folder, _) in self._folders.items():
            for recipe in self._listed(folder, ".yml"):
                with suppress(OSError):
                    text = Path(recipe).read_text(encoding="utf-8", errors="replace")
                    if any(name in text for name in names):
                        found.add(slug)
        return found

    def _listed(self, folder: str, *suffixes: str) -> list[str]:
        """The folder's files of those kinds; the same list as long as the folder is the same."""
        asked = (folder, *suffixes)
        try:
            changed = os.stat(folder).st_mtime_ns
            known = self._listings.get(asked)
            if known is None or known[0] != changed:
                names = sorted(name for name in os.listdir(folder) if name.endswith(suffixes))
                known = (changed, [f"{folder}/{name}" for name in names])
                # What happens within one tick of the clock leaves the same time.
                if time.time_ns() - changed > SETTLED_NS:
                    self._listings[asked] = known
        except OSError:
            return []
        return known[1]

    def _has_changed(self, name: str, now: Fingerprint) -> bool:
        """Whether what has the name, a location's or a path, is not as at the last look."""
        before = self._seen.get(name)
        self._seen[name] = now
        return before is not None and before != now


def _fingerprint(files: Iterable[str]) -> Fingerprint:
    found = []
    for path in files:
        try:
            status = os.stat(path)
        except OSError:
            continue
        # The time of change is nobody's to set: an older file that is put back differs.
        found.append((path, status.st_mtime_ns, status.st_ctime_ns, status.st_size))
    return tuple(found)
