"""A build's own view of the checkout, in which it may change what it likes.

    work/checkout/                    links to all that the checkout holds, except for
    work/checkout/products/<folder>/  a copy of the product's folder, with what load wrote in it
    work/lifecycle/                   links to what was ingested and loaded
    work/state.json                   what was copied, and the commands that are done

So a script finds `../../bash` and its sibling products, and the checkout is only read.
"""

import filecmp
import json
import logging
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestration import OrchestrationError
from orchestration.lifecycle.results import LOCK_FILE, remove, write_whole

# Where a file goes that a build left in its folder and, with other content, in its output folder.
SECOND_PLACE = "product_folder"
# What the result's own log, and what was found in its tables, are called.
TAKEN = ("build.log", "build.tables.json")
NOT_OUTPUT = "__pycache__"


@dataclass
class Workspace:
    """The workspace in `folder` of a build of the product in `source`, below `root`."""

    folder: Path
    root: Path
    source: Path
    output: Path
    """`BUILD_ENV_OUTPUT_DIR`: what the build makes is collected there."""
    loaded: Path
    """The result of load."""
    done: list[dict[str, Any]] = field(default_factory=list)
    """The commands that have succeeded: name, command, seconds."""
    _copied: dict[str, list[list[int]]] = field(default_factory=dict)

    @property
    def checkout(self) -> Path:
        """The view of the checkout."""
        return self.folder / "checkout"

    @property
    def product(self) -> Path:
        """The copy of the product's folder."""
        return self.checkout / self.source.relative_to(self.root)

    @property
    def lifecycle(self) -> Path:
        """The lifecycle folder that dcpy is to use."""
        return self.folder / "lifecycle"

    def create(self, *, lifecycle: Path, lock_names: Sequence[str], builds: Sequence[Path]) -> None:
        """Makes the workspace.

        `lifecycle` is the folder of what was ingested, `lock_names` what the lock file is called in
        the product's folder, and `builds` where below its lifecycle folder dcpy looks for the
        build's output folder.
        """
        self.folder.mkdir()
        self._link_checkout()
        self._copy(self.source, self.product)
        for path in self._loaded_files():
            shutil.copy2(path, self.output)
            self._link(self.product / path.name, self.output / path.name)
        for name in lock_names:
            self._link(self.product / name, self.output / LOCK_FILE)
        link_lifecycle(lifecycle, self.lifecycle, pulled_by=self.loaded / self.lifecycle.name)
        for place in builds:
            (self.lifecycle / place).parent.mkdir(parents=True, exist_ok=True)
            self._link(self.lifecycle / place, self.output)
        self._write_state()

    def resume(self, commands: Sequence[Mapping[str, str]]) -> None:
        """Takes up the workspace of an attempt that failed, with the checkout's newer files.

        Raises OrchestrationError where what is done there is not the beginning of `commands`, or
        was done on another load, or where there was no room to make the workspace.
        """
        try:
            state = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise OrchestrationError(
                "The unfinished build cannot be resumed: it ended before its first command. Run "
                "this again without `resume`."
            ) from None
        self.done, self._copied = state["done"], state["copied"]
        begun = [{name: entry[name] for name in ("name", "command")} for entry in self.done]
        if state["loaded"] != str(self.loaded) or begun != list(commands[: len(begun)]):
            raise OrchestrationError(
                "The unfinished build cannot be resumed: what was loaded, or a command that it has "
                "done, is another by now. Run this again without `resume`."
            )
        for path in _files(self.source):
            name = str(path.relative_to(self.source))
            before = self._copied.get(name)
            is_new = before is None and not os.path.lexists(self.product / name)
            is_newer = before and before[0] != _print(path) and not self._is_changed(name)
            if is_new or is_newer:
                (self.product / name).parent.mkdir(parents=True, exist_ok=True)
                self._copy_file(path, self.product / name)
        self._write_state()

    def finish(self, name: str, command: str, seconds: float) -> None:
        """Remembers that a command has succeeded."""
        self.done.append({"name": name, "command": command, "seconds": round(seconds, 1)})
        self._write_state()

    def made(self) -> Iterator[Path]:
        """What the build has made or changed in its folder."""
        for path in _files(self.product):
            if self._is_changed(str(path.relative_to(self.product))):
                yield path

    def collect(self, logger: logging.Logger) -> None:
        """Moves what the build has made or changed in its folder to the output folder.

        Raises OrchestrationError where a link in the output folder leads to nothing.
        """
        self._keep_linked()
        for name in TAKEN:
            if os.path.lexists(self.output / name):
                place = self.output / SECOND_PLACE / name
                place.parent.mkdir(exist_ok=True)
                (self.output / name).rename(place)
                logger.warning(f"{name} is the name of a file of ours; see {SECOND_PLACE}/{name}")
        # Links first, while what they lead to is still there.
        for path in sorted(self.made(), key=lambda path: not path.is_symlink()):
            name = str(path.relative_to(self.product))
            target = self._place(name)
            if target != self.output / name:
                logger.warning(f"{name} is in the output folder already; see {SECOND_PLACE}/{name}")
            target.parent.mkdir(parents=True, exist_ok=True)
            self._move(path, target)
        for path in list(_files(self.lifecycle)):
            if not path.is_symlink():
                target = self.output / path.relative_to(self.folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
        if strays := list(self._strays()):
            logger.warning(
                f"Not kept, as it was written outside the product's folder: {', '.join(strays)}"
            )

    def _keep_linked(self) -> None:
        """Puts what they lead to in the place of links from the output folder to the workspace."""
        for path in [path for path in _files(self.output) if path.is_symlink()]:
            if not self._is_temporary(path):
                continue
            if not path.exists():
                raise OrchestrationError(
                    f"{path.relative_to(self.output)} in the output folder is a link to "
                    f"{_next(path)}, which is not there. Have the build write a file, or remove "
                    "the link."
                )
            self._copy_of(path.resolve(), path)

    def _is_temporary(self, link: Path) -> bool:
        """Whether the way to what it leads to is by the workspace, which does not stay."""
        way = {*_next(link).parents, *Path(os.path.realpath(link)).parents}
        # The lifecycle folder can be a link itself.
        return not way.isdisjoint((self.folder, self.folder.resolve()))

    def _copy_of(self, source: Path, target: Path) -> None:
        """Makes the copy appear as a whole: what is resumed takes what is there for that."""
        new = self.folder / "copy"
        remove(new)
        copy = shutil.copytree if source.is_dir() else shutil.copy2
        copy(source, new)
        if new.is_dir():
            target.unlink(missing_ok=True)
        new.replace(target)

    def _link_checkout(self) -> None:
        here, source = self.checkout, self.root
        for part in self.source.relative_to(self.root).parts:
            here.mkdir()
            for entry in source.iterdir():
                if entry.name != part:
                    (here / entry.name).symlink_to(entry)
            here, source = here / part, source / part

    def _copy(self, source: Path, target: Path) -> None:
        target.mkdir()
        for entry in os.scandir(source):
            if entry.is_dir(follow_symlinks=False):
                if entry.name != NOT_OUTPUT:
                    self._copy(Path(entry.path), target / entry.name)
            else:
                self._copy_file(Path(entry.path), target / entry.name)

    def _copy_file(self, source: Path, target: Path) -> None:
        mode = source.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            return
        before = _print(source)
        target.unlink(missing_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
        if stat.S_ISREG(mode):
            # The checkout may be one that can only be read, by anybody.
            target.chmod(mode & stat.S_IRWXU | stat.S_IWUSR | stat.S_IRUSR)
        self._copied[str(target.relative_to(self.product))] = [before, _print(target)]

    def _loaded_files(self) -> Iterator[Path]:
        for path in self.loaded.iterdir():
            if path.is_file() and path.suffix != ".log":
                yield path

    def _link(self, link: Path, target: Path) -> None:
        if not link.is_dir() or link.is_symlink():
            link.unlink(missing_ok=True)
            link.symlink_to(target)
            if link.is_relative_to(self.product):
                self._copied[str(link.relative_to(self.product))] = [_print(link), _print(link)]

    def _is_changed(self, name: str) -> bool:
        known, path, source = self._copied.get(name), self.product / name, self.source / name
        if known is None:
            return True
        if not os.path.lexists(path) or known[1] == _print(path):
            return False
        is_pair = path.is_file() and source.is_file() and not path.is_symlink()
        return not (is_pair and filecmp.cmp(path, source, shallow=False))

    def _place(self, name: str) -> Path:
        target, loaded = self.output / name, self.loaded / name
        is_as_loaded = (
            target.is_file() and loaded.is_file() and filecmp.cmp(target, loaded, shallow=False)
        )
        blocked = any(parent.is_file() for parent in target.parents)
        is_free = not os.path.lexists(target) and not blocked and name not in TAKEN
        return target if is_free or is_as_loaded else self.output / SECOND_PLACE / name

    def _move(self, path: Path, target: Path) -> None:
        if path.is_symlink() and path.exists() and self._is_temporary(path):
            self._copy_of(path.resolve(), target)
        else:
            path.replace(target)

    def _strays(self) -> Iterator[str]:
        here = self.checkout
        for part in self.source.relative_to(self.root).parts:
            for entry in here.iterdir():
                if entry.name not in (part, NOT_OUTPUT) and not entry.is_symlink():
                    yield str(entry.relative_to(self.checkout))
            here = here / part

    def _write_state(self) -> None:
        state = {"loaded": str(self.loaded), "done": self.done, "copied": self._copied}
        write_whole(self.folder / "state.json", json.dumps(state))


def _files(folder: Path) -> Iterator[Path]:
    """Every file below the folder, links to folders included."""
    for where, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(where, name))]
        folders[:] = [name for name in folders if name != NOT_OUTPUT]
        yield from (Path(where, name) for name in [*files, *links])


def _next(link: Path) -> Path:
    """Where the link leads to, which may be a link again."""
    return Path(os.path.abspath(link.parent / os.readlink(link)))


def _print(path: Path) -> list[int]:
    """What tells whether a file has been written to since."""
    status = path.lstat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def link_lifecycle(lifecycle: Path, folder: Path, pulled_by: Path | None = None) -> list[Path]:
    """Makes `folder` a lifecycle folder for one stage: what was ingested is there, by link.

    Its `builds` is its own: dcpy pulls a dataset to a path that all loads of that version would
    share, and a product's own scripts write to one that all its partitions would share.
    `pulled_by` is the private folder of the stage that pulled the datasets; they are there, too.
    """
    folder.mkdir()
    shared = {
        folder / entry.name: entry
        for entry in lifecycle.iterdir()
        if entry.name not in ("builds", "dagster")
    }
    pulled = Path("builds", "load")
    if pulled_by and (pulled_by / pulled).is_dir():
        (folder / pulled).parent.mkdir()
        shared[folder / pulled] = pulled_by / pulled
    for link, target in shared.items():
        link.symlink_to(target, target_is_directory=target.is_dir())
    return list(shared)


@contextmanager
def private_lifecycle(lifecycle: Path, folder: Path) -> Iterator[Path]:
    """A lifecycle folder as of `link_lifecycle`, of which only what the block puts there stays."""
    links = link_lifecycle(lifecycle, folder)
    yield folder
    for link in links:
        link.unlink(missing_ok=True)
    for empty in (folder / "builds", folder):
        if empty.is_dir() and not any(empty.iterdir()):
            empty.rmdir()
