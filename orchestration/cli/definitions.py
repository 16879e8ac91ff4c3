"""What a location defines, told without a server."""

from collections.abc import Mapping
from typing import Any, cast

from dagster import Definitions

from orchestration.catalog.names import TEAM_FILE
from orchestration.catalog.products import ProductsFile
from orchestration.cli.forks import Tell
from orchestration.cli.interpreters import do_there
from orchestration.definitions.broken import place_and_text
from orchestration.definitions.interpreter import Interpreter
from orchestration.definitions.team import PROBLEM
from orchestration.generator.render import LOCATIONS, render
from orchestration.processes.dagster_internals import next_tick


def modules(file: ProductsFile) -> dict[str, str]:
    """The text of each location's module as it would be generated, by the location's name."""
    return {path.stem: text for path, text in render(file).items() if path.parent == LOCATIONS}


def describe(name: str, text: str, tell: Tell, interpreter: Interpreter | None = None) -> None:
    """Loads a location from the text of its module, and tells its assets and schedules.

    `interpreter` is its own, where it has one. Where it cannot be loaded, or only without what its
    team defines, tells the problem, with file and line where they are known.
    """
    try:
        if interpreter:
            do_there(interpreter, describe, name, text)
            return
        module: dict[str, Any] = {"__name__": f"orchestration.locations.{name}"}
        exec(compile(text, str(LOCATIONS / f"{name}.py"), "exec"), module)
        definitions: Definitions = module["defs"]
        Definitions.validate_loadable(definitions)
        if without := definitions.metadata.get(PROBLEM):
            tell({"is_without": TEAM_FILE, **cast(Mapping[str, Any], without.value)})
        tell(
            {
                "assets": sorted(
                    key.to_user_string()
                    for key in definitions.resolve_all_asset_keys()
                    if definitions.resolve_asset_graph().get(key).is_materializable
                ),
                "schedules": [
                    {
                        "name": schedule.name,
                        "cron": schedule.cron_schedule
                        if isinstance(schedule.cron_schedule, str)
                        else " or ".join(schedule.cron_schedule),
                        "timezone": schedule.execution_timezone or "UTC",
                        "is_on": schedule.default_status.value == "RUNNING",
                        "next": next_tick(schedule.cron_schedule, schedule.execution_timezone),
                    }
                    for schedule in definitions.get_repository_def().schedule_defs
                ],
            }
        )
    except Exception as error:
        # A team's own definitions raise whatever they do.
        place, problem = place_and_text(error)
        tell({"problem": problem, **({"file": place[0], "line": place[1]} if place else {})})
