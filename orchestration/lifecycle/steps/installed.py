"""Which dcpy the interpreter has, found without importing it.

As a script, in the interpreter in question: `installed.py CHECKOUT [chosen]` prints what is wrong,
if anything is.
"""

import importlib.util
import sys
from pathlib import Path

# Enough to tell NYC Planning's dcpy from PyPI's, which is an unrelated package.
INGEST = Path("lifecycle", "ingest", "run.py")


def problem_with_dcpy(checkout: Path, *, is_chosen: bool) -> str | None:
    """Why `import dcpy` would not give the checkout's own, and what to do; None where it does.

    `is_chosen` says that somebody chose this interpreter. One that nobody chose must not pass off
    its dcpy as that of a checkout which has none.
    """
    own = checkout / "dcpy"
    if not own.is_dir() and not is_chosen:
        return (
            f"The checkout {checkout} has no dcpy. Set DCPY_PYTHON to an interpreter that has "
            "NYC Planning's dcpy installed, or DATA_ENGINEERING_ROOT to a whole checkout."
        )
    spec = importlib.util.find_spec("dcpy")
    install = (
        f"install the checkout's with `{sys.executable} -m pip install -e {checkout}`"
        if is_chosen
        else f"have `make dcpy DATA_ENGINEERING_ROOT={checkout}` install the checkout's"
    )
    mend = f"{install}, or set DCPY_PYTHON to an interpreter that has it."
    if spec is None:
        return f"dcpy is not installed in {sys.executable}: {mend}"
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    package = next((folder.resolve() for folder in folders if (folder / INGEST).is_file()), None)
    if package is None:
        found = folders[0] if folders else spec.origin
        return (
            f"The dcpy in {found} is not NYC Planning's (PyPI has another package of that name). "
            f"Uninstall it, and {mend}"
        )
    is_of_a_checkout = (package.parent / "ingest_templates").is_dir()
    if own.is_dir() and is_of_a_checkout and package != own.resolve():
        return (
            f"The dcpy in {sys.executable} belongs to the checkout {package.parent}, not to "
            f"{checkout}: {mend}"
        )
    return None


if __name__ == "__main__":
    problem = problem_with_dcpy(Path(sys.argv[1]), is_chosen="chosen" in sys.argv[2:])
    print(problem or "")
    sys.exit(1 if problem else 0)
