"""What the checkout's dcpy needs, and dcpy itself as a package that leads to the checkout."""

import re
import tomllib
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

from orchestration import OrchestrationError

RUN_ENVIRONMENT = Path("admin", "run_environment")
# What dcpy does not depend on and build commands call.
COMMANDS = re.compile(r"dbt-[\w.-]+")
WHEEL = """\
Wheel-Version: 1.0
Generator: orchestration
Root-Is-Purelib: true
Tag: py3-none-any
"""


@dataclass(frozen=True)
class Project:
    """The dcpy of a checkout, and what it is to be installed with."""

    root: Path
    name: str
    version: str
    dependencies: tuple[str, ...]
    scripts: tuple[tuple[str, str], ...]
    constraints: tuple[str, ...]
    """The versions that the checkout pins, without those that come from elsewhere than an index."""
    commands: tuple[str, ...]
    """Packages whose commands the checkout's builds call."""
    from_elsewhere: tuple[str, ...]
    """The requirements that the index does not have."""

    def without_pin(self, name: str) -> "Project":
        """The same, with any version of the package allowed; `name` is a canonical one."""
        kept = (pin for pin in self.constraints if canonical(pin.partition("==")[0]) != name)
        return replace(self, constraints=tuple(kept))

    def write_constraints(self, file: Path) -> Path:
        """Writes the constraints to the file, for pip; gives the file."""
        file.write_text("".join(f"{line}\n" for line in self.constraints), encoding="utf-8")
        return file

    def write_wheel(self, folder: Path) -> Path:
        """Writes a wheel of dcpy that leads to the checkout, which is only read; gives its path.

        What `pip install --editable` makes, which writes to the checkout meanwhile.
        """
        distribution = re.sub(r"[-_.]+", "_", self.name)
        info = f"{distribution}-{self.version}.dist-info"
        metadata = ["Metadata-Version: 2.1", f"Name: {self.name}", f"Version: {self.version}"]
        metadata += [f"Requires-Dist: {dependency}" for dependency in self.dependencies]
        scripts = ["[console_scripts]", *(f"{name} = {place}" for name, place in self.scripts)]
        files = {
            # Not the bare path, which Python 3.12 reads in the locale's encoding, C's too.
            f"{distribution}.pth": f"import sys; sys.path.append({str(self.root)!a})\n",
            f"{info}/METADATA": "\n".join([*metadata, ""]),
            f"{info}/WHEEL": WHEEL,
            f"{info}/entry_points.txt": "\n".join([*scripts, ""]),
        }
        files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
        path = folder / f"{distribution}-{self.version}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            for name, text in files.items():
                wheel.writestr(name, text)
        return path


def canonical(name: str) -> str:
    """The name of a package as it is compared."""
    return re.sub(r"[-_.]+", "-", name).strip().lower()


def read_project(root: Path) -> Project | None:
    """The dcpy of the checkout at `root`; None where there is none.

    Raises OrchestrationError when its pyproject.toml does not say what it needs.
    """
    file = root / "pyproject.toml"
    if not (root / "dcpy").is_dir() or not file.is_file():
        return None
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        found = Project(
            root=root.resolve(),
            name=str(table["name"]),
            version=str(table.get("version", "0")),
            dependencies=tuple(map(str, table["dependencies"])),
            scripts=tuple(sorted(dict(table.get("scripts", {})).items())),
            constraints=(),
            commands=(),
            from_elsewhere=(),
        )
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise OrchestrationError(
            f"{file} does not say under `project` what dcpy needs ({error}). Install dcpy "
            "yourself, and set DCPY_PYTHON to the interpreter that has it."
        ) from error
    pins = _requirements(root / RUN_ENVIRONMENT / "constraints.txt")
    wanted = _requirements(root / RUN_ENVIRONMENT / "requirements.in")
    return replace(
        found,
        constraints=tuple(line for line in pins if "@" not in line),
        commands=tuple(line for line in wanted if COMMANDS.fullmatch(line)),
        from_elsewhere=tuple(line for line in pins if "@" in line),
    )


def _requirements(file: Path) -> list[str]:
    if not file.is_file():
        return []
    lines = (line.split(" #")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith(("#", "-"))]
