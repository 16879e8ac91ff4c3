"""The command line: which commands there are, and what becomes of their failures."""

import os
import sys
from collections.abc import Sequence

import click

from orchestration import OrchestrationError, explained
from orchestration.catalog.checkout import checkout_root
from orchestration.cli import (
    check,
    clean,
    compare,
    completion,
    generate,
    ingest,
    init,
    launch,
    listing,
    materialize,
    new,
    status,
    up,
)

COMMANDS = (
    up,
    materialize,
    ingest,
    launch,
    listing,
    status,
    check,
    compare,
    clean,
    init,
    new,
    generate,
    completion,
)
"""The modules of the commands, in the order in which `--help` lists them.

Each has a `command`. All are imported for every one: what takes time, such as Dagster, is imported
in the functions that need it.
"""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog="The checkout is DATA_ENGINEERING_ROOT, else the nearest one above this folder, else "
    "the bundled sample.",
)
def _orchestration() -> None:
    """NYC data products in Dagster, one code location per product."""
    # Whatever is started from here must find the same checkout, from any working directory.
    os.environ["DATA_ENGINEERING_ROOT"] = str(checkout_root())


for module in COMMANDS:
    _orchestration.add_command(module.command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and gives the process's exit code."""
    try:
        return int(
            _orchestration.main(
                arguments,
                prog_name="python3 -m orchestration",
                complete_var="_ORCHESTRATION_COMPLETE",
                standalone_mode=False,
            )
        )
    except click.Abort:
        print("Cancelled.", file=sys.stderr)
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except OrchestrationError as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(explained(error), file=sys.stderr)
    return 1
