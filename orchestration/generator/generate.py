"""Writes what is generated: each file in one step, and none that somebody else wrote."""

import difflib
import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from orchestration import OrchestrationError
from orchestration.catalog.checkout import (
    PROJECT_ROOT,
    interpreter_path,
    product_folder,
    products_file,
    templates_folder,
)
from orchestration.catalog.deployment import EVERYTHING_HERE, Deployment, read_deployment
from orchestration.catalog.products import ProductsFile, read_products_file
from orchestration.generator.kubernetes import (
    FOLDER,
    VALUES,
    kubernetes_files,
    owners_of,
    release_of,
    text_of,
)
from orchestration.generator.render import HEADER, LOCATIONS, WORKSPACE, render

TEMPORARY_SUFFIX = ".generating"


@dataclass(frozen=True)
class Change:
    """A generated file that is not as it should be; paths are relative to the project.

    `old` is None where the file is missing, `new` where it has to go.
    """

    path: Path
    old: str | None
    new: str | None

    @property
    def diff(self) -> str:
        """The change as a unified diff."""
        return "".join(
            difflib.unified_diff(
                (self.old or "").splitlines(keepends=True),
                (self.new or "").splitlines(keepends=True),
                f"a/{self.path}" if self.old is not None else "/dev/null",
                f"b/{self.path}" if self.new is not None else "/dev/null",
            )
        )


def pending_changes(
    file: ProductsFile,
    project: Path = PROJECT_ROOT,
    deployment: Deployment = EVERYTHING_HERE,
    *,
    kubernetes: bool = False,
    releases: Sequence[str] = (),
) -> list[Change]:
    """What the generator would write or remove.

    With `kubernetes` that is also the values for a cluster, with a release of their own for the
    owners in `releases`; what there is of these already is kept up to date without.

    Raises OrchestrationError when a file that it did not write is in the way.
    """
    wanted = render(file, deployment)
    if kubernetes or (file.kubernetes and (project / VALUES).exists()):
        owners = [
            owner
            for owner in owners_of(file)
            if owner in releases or (project / release_of(owner)).exists()
        ]
        for path, values in kubernetes_files(file, owners).items():
            wanted[path] = f"{HEADER}\n{text_of(values)}"
    changes = []
    for path, new in sorted(wanted.items()):
        old = _read(project / path)
        if old is not None and not old.startswith(HEADER):
            raise OrchestrationError(
                f"{project / path} was not generated, and the generator would write over it. "
                "Rename that file, or the product."
            )
        if old != new:
            changes.append(Change(path, old, new))
    written = [*(project / LOCATIONS).glob("*.py"), *(project / FOLDER).glob("*.yaml")]
    for module in sorted(written):
        path = module.relative_to(project)
        if path not in wanted and (old := _read(module)) is not None and old.startswith(HEADER):
            changes.append(Change(path, old, None))
    return changes


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return None


def write(changes: Sequence[Change], project: Path = PROJECT_ROOT) -> None:
    """Makes the changes: first the modules, then the workspace that names them, then the removals.

    Each file changes in one step, and none does before all that is new is on the disk. Who writes
    at the same time waits.
    """
    with _alone(project):
        _write(changes, project)


@contextmanager
def _alone(project: Path) -> Iterator[None]:
    folder = os.open(project, os.O_RDONLY)
    try:
        # Not everywhere can a folder be locked.
        with suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _write(changes: Sequence[Change], project: Path) -> None:
    for folder in (project, project / LOCATIONS, project / FOLDER):
        for leftover in folder.glob(f".*{TEMPORARY_SUFFIX}"):
            leftover.unlink(missing_ok=True)
    new: list[tuple[str, Path]] = []
    try:
        for change in sorted(changes, key=lambda change: change.path == WORKSPACE):
            if change.new is not None:
                path = project / change.path
                new.append((_write_beside(path, change.new), path))
        for name, path in new:
            os.replace(name, path)
    except BaseException:
        for name, _ in new:
            Path(name).unlink(missing_ok=True)
        raise
    for change in changes:
        if change.new is None:
            (project / change.path).unlink(missing_ok=True)


def _write_beside(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY_SUFFIX
    )
    try:
        with open(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and not error.filename:
            error.filename = str(path)
        raise
    return name


def unmatched_patterns(file: ProductsFile, root: Path) -> list[str]:
    """A sentence for each pattern of an ingest group that means no template of the checkout."""
    found = []
    template_ids = [path.stem for path in templates_folder(root).glob("[!.]*.yml")]
    for group in file.ingest.groups:
        for pattern in group.unmatched(template_ids):
            close = difflib.get_close_matches(pattern, template_ids, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            found.append(f"ingest group {group.name!r}: no template is called {pattern}{hint}")
    return found


def warnings(file: ProductsFile, root: Path) -> list[str]:
    """A sentence for each product that cannot be planned, and each pattern that means no template.

    That is as the checkout is; it may be another one when they are needed.
    """
    found = unmatched_patterns(file, root)
    for product in file.products:
        folder = product_folder(root, product.folder)
        missing = folder if not folder.is_dir() else folder / product.recipe
        if not missing.exists():
            found.append(
                f"product {product.id!r}: {missing.relative_to(root)} is missing; "
                "its plan fails until it is there"
            )
        configured = product.definitions_python
        if configured and not interpreter_path(root, configured).exists():
            found.append(
                f"product {product.id!r}: there is no {configured}, its definitions_python; its "
                "location is broken until there is"
            )
    return found


def generate(
    root: Path, project: Path = PROJECT_ROOT, deployment: Path | None = None
) -> tuple[ProductsFile, list[Change]]:
    """Brings the project's generated files up to date with the checkout at `root`.

    `deployment` is the file that says where what is served, where that is not the checkout's. Gives
    products.yml and what was changed. Raises OrchestrationError, having written nothing.
    """
    file = read_products_file(products_file(root))
    served = read_deployment(root, deployment, file.products)
    changes = pending_changes(file, project, served)
    write(changes, project)
    return file, changes
