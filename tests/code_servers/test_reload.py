"""The checkout as a living thing: what `up` does when its files change, or the UI asks."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestration.catalog.names import STARTER_KEYS
from tests.harness.processes import promised, wait_until
from tests.harness.up_server import Server, copy_project, pretend_done, selector, started

SAMPLE = ("ingest", "libraries", "park_access", "capital_projects")
# What the issue promises for the sample.
PROMISED_SECONDS = 10.0
NEW_PRODUCT = "\n- id: new one\n  build_command: echo built\n"
TEAM = """
import dagster as dg

@dg.asset
def {asset}() -> None: ...

@dg.asset_check(asset=dg.AssetKey(["{product}", "build"]))
def {asset}_is_right() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)

defs = dg.Definitions(
    assets=[{asset}],
    asset_checks=[{asset}_is_right],
    schedules=[
        dg.ScheduleDefinition(name="{asset}_every_day", target=[{asset}], cron_schedule="0 6 * * *")
    ],
)
"""
# What only Dagster's daemon brings about.
SENSOR = """
import dagster as dg

@dg.asset
def branches_report() -> None: ...

@dg.asset_check(asset=branches_report)
def branches_report_is_right() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)

@dg.sensor(
    target=[branches_report],
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=1,
)
def report_when_there_are_branches():
    yield dg.RunRequest(run_key="once")

defs = dg.Definitions(
    assets=[branches_report],
    asset_checks=[branches_report_is_right],
    sensors=[report_when_there_are_branches],
)
"""
LAUNCH_BACKFILL = """
mutation Backfill($parameters: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $parameters) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message }
  }
}
"""
JOBS_QUERY = """
query Jobs($location: RepositorySelector!) {
  repositoryOrError(repositorySelector: $location) {
    ... on Repository { jobs { name description } }
  }
}
"""
CONTENTS_QUERY = """
{ workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError {
  ... on RepositoryLocation { repositories {
    assetNodes { assetKey { path } assetChecksOrError {
      ... on AssetChecks { checks { name } }
    } }
    schedules { name }
  } }
} } } } }
"""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """One that watches and one that does not; they come up at the same time."""
    projects = [copy_project(tmp_path_factory.mktemp(name)) for name in ("watching", "blind")]
    with started(projects[0]) as watching, started(projects[1], "--no-watch") as blind:
        for server in (watching, blind):
            server.wait_until_up(*SAMPLE)
        yield watching, blind
        for server in (watching, blind):
            server.stop()


@pytest.fixture
def server(servers: tuple[Server, Server]) -> Server:
    """Follows the files of its checkout."""
    return servers[0]


@pytest.fixture
def blind(servers: tuple[Server, Server]) -> Server:
    """Does not: `--no-watch`."""
    return servers[1]


def changed(before: dict[str, int], after: dict[str, int]) -> set[str]:
    """The locations that have been loaded again since."""
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


def save(file: Path, text: str) -> None:
    """In one step, so that nobody sees a half, and what is counted is loaded once."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    save(file, text.replace(old, new))


def test_what_the_system_refuses_for_now_is_done_later(server: Server) -> None:
    text = server.products.read_text()
    [folder] = server.log.parent.glob("orchestration-*")
    # As if there were no room for it.
    (folder / "workspace.new").mkdir()
    save(server.products, text + NEW_PRODUCT)
    server.wait_for_output("What is served cannot be changed: Is a directory")
    (folder / "workspace.new").rmdir()
    server.wait_for_locations(*SAMPLE, "new_one")
    save(server.products, text)
    server.wait_for_locations(*SAMPLE)


@pytest.mark.long
def test_a_new_product_has_its_starter_partitions_though_they_were_refused(server: Server) -> None:
    text = server.products.read_text()
    settings = server.project / ".dagster" / "dagster.yaml"
    usable = settings.read_text()
    settings.write_text("{")
    save(server.products, text + NEW_PRODUCT.replace("new one", "late one"))
    server.wait_for_output("Following products.yml ended with exit code 1. It is tried again in")
    settings.write_text(usable)
    server.wait_for(lambda: server.partitions("late_one") == set(STARTER_KEYS))
    save(server.products, text)
    server.wait_for_locations(*SAMPLE)


def test_a_new_product_is_served_and_can_be_run_and_goes_again_when_it_is_removed(
    server: Server,
) -> None:
    before, text = server.loads(), server.products.read_text()
    pretend_done(server.project, "new_one", "build")

    save(server.products, text + NEW_PRODUCT)
    server.wait_for(
        lambda: (
            server.locations() == dict.fromkeys((*SAMPLE, "new_one"))
            and server.partitions("new_one") == set(STARTER_KEYS)
        ),
        seconds=promised(PROMISED_SECONDS),
    )
    # That the run comes to its end says that the daemon knows the location, too.
    run = server.launch("new_one", "package", partition="main")
    server.wait_for_run(run, seconds=promised(PROMISED_SECONDS))
    with_new, process = server.loads(), server.wake("new_one")
    assert {name: with_new[name] for name in before} == before

    save(server.products, text)
    server.wait_for_locations(*SAMPLE, seconds=promised(PROMISED_SECONDS))
    server.wait_for(lambda: server.loads() == before)
    assert wait_until(lambda: process not in server.processes())


def test_an_invalid_save_changes_nothing_and_the_next_good_one_is_picked_up(
    server: Server,
) -> None:
    before, text = server.loads(), server.products.read_text()
    broken = text.replace("build_command: bash build.sh", "build_comand: bash build.sh")

    broken += "- id: 311\n  build_command: make\n"
    save(server.products, broken)
    server.wait_for_output("everything goes on as it was")
    errors = re.findall(rf"{re.escape(str(server.products))}:(\d+): (.*)", server.output)
    wrong = [broken.index(text) for text in ("- id: park access", "build_comand", "- id: 311")]
    assert [int(line) for line, _ in errors] == [1 + broken.count("\n", 0, i) for i in wrong]
    assert all(
        part in error
        for (_, error), part in zip(
            errors,
            ["`build_command` is missing", "did you mean `build_command`?", "quotes"],
            strict=True,
        )
    )
    assert server.locations() == dict.fromkeys(SAMPLE)
    assert server.loads() == before

    save(server.products, text.replace("bash build.sh", "bash build.sh && true"))
    server.wait_for_output("Everything can be read again.")
    server.wait_for(
        lambda: changed(before, server.loads()) == {"park_access"}, promised(PROMISED_SECONDS)
    )
    module = server.project / "orchestration" / "locations" / "park_access.py"
    assert "bash build.sh && true" in module.read_text()
    server.wait_for_locations(*SAMPLE)


def test_generated_files_that_somebody_takes_back_are_made_anew_and_go_on_being_served(
    server: Server,
) -> None:
    before = server.loads()
    workspace = server.project / "workspace.yaml"
    module = server.project / "orchestration" / "locations" / "libraries.py"
    whole = workspace.read_text()
    module.unlink()
    save(workspace, whole.partition("load_from")[0] + "load_from: []\n")
    assert wait_until(lambda: module.exists() and workspace.read_text() == whole)
    server.wait_for(lambda: changed(before, server.loads()) == {"libraries"})
    server.wait_for_locations(*SAMPLE)


def test_a_module_alone_that_somebody_takes_back_is_made_anew(server: Server) -> None:
    module = server.project / "orchestration" / "locations" / "libraries.py"
    whole = module.read_text()
    save(module, whole.splitlines(keepends=True)[0])
    assert wait_until(lambda: module.read_text() == whole)
    server.wait_for_locations(*SAMPLE)


def test_a_product_is_served_as_soon_as_nothing_is_in_the_way_of_its_module(
    server: Server,
) -> None:
    text = server.products.read_text()
    somebodys = server.project / "orchestration" / "locations" / "new_one.py"
    somebodys.write_text("mine = True\n")
    save(server.products, text + NEW_PRODUCT)
    server.wait_for_output(f"{somebodys} was not generated")
    somebodys.unlink()
    server.wait_for_locations(*SAMPLE, "new_one")
    save(server.products, text)
    server.wait_for_locations(*SAMPLE)


def sources(server: Server, product: str) -> set[str]:
    """The ingest templates that the product's plan depends on, as the UI's lineage shows them."""
    plan = server.asset(product, "plan")
    assert plan
    return {key["path"][1] for key in plan["dependencyKeys"]}


def test_saving_a_recipe_reloads_its_location_and_lineage_and_owners_follow(server: Server) -> None:
    before = server.loads()
    assert sources(server, "libraries") == {"bpl_libraries", "nypl_libraries", "qpl_libraries"}
    recipe = server.product_folder("libraries") / "recipe.yml"
    replace(recipe, "  - name: qpl_libraries\n", "  - name: dpr_parks\n  - name: new_libraries\n")
    server.wait_for(
        lambda: sources(server, "libraries") == {"bpl_libraries", "nypl_libraries", "dpr_parks"},
        promised(PROMISED_SECONDS),
    )
    # Who takes a template in owns it.
    server.wait_for(
        lambda: changed(before, server.loads()) == {"ingest", "libraries"},
        promised(PROMISED_SECONDS),
    )

    # A template that the recipe names already.
    before = server.loads()
    templates = server.checkout / "ingest_templates"
    text = (templates / "qpl_libraries.yml").read_text()
    new = templates / "new_libraries.yml"
    save(new, text.replace("qpl_libraries", "new_libraries"))
    server.wait_for(lambda: server.asset("ingest", "new_libraries"), promised(PROMISED_SECONDS))
    server.wait_for(
        lambda: "new_libraries" in sources(server, "libraries"), promised(PROMISED_SECONDS)
    )
    server.wait_for(
        lambda: changed(before, server.loads()) == {"ingest", "libraries"},
        promised(PROMISED_SECONDS),
    )

    new.unlink()
    server.wait_for(lambda: not server.asset("ingest", "new_libraries"), promised(PROMISED_SECONDS))


def contents(server: Server, location: str) -> dict[str, set[str]]:
    """The names of the assets, checks and schedules that a location defines."""
    entries = server.query(CONTENTS_QUERY)["workspaceOrError"]["locationEntries"]
    [entry] = [entry["locationOrLoadError"] for entry in entries if entry["name"] == location]
    found: dict[str, set[str]] = {"assets": set(), "checks": set(), "schedules": set()}
    for repository in entry.get("repositories", []):
        found["schedules"] |= {schedule["name"] for schedule in repository["schedules"]}
        for node in repository["assetNodes"]:
            found["assets"].add("/".join(node["assetKey"]["path"]))
            checks = node["assetChecksOrError"].get("checks", [])
            found["checks"] |= {check["name"] for check in checks}
    return found


def test_a_teams_own_definitions_are_in_its_products_location_and_in_no_other(
    server: Server,
) -> None:
    before = server.loads()
    without = {name: contents(server, name) for name in SAMPLE}
    file = server.product_folder("capital-projects") / "definitions.py"
    save(file, TEAM.format(asset="spending_report", product="capital_projects"))
    added = {
        "assets": {"spending_report"},
        "checks": {"spending_report_is_right"},
        "schedules": {"spending_report_every_day"},
    }
    wanted = {kind: without["capital_projects"][kind] | names for kind, names in added.items()}
    server.wait_for(
        lambda: contents(server, "capital_projects") == wanted, promised(PROMISED_SECONDS)
    )
    assert changed(before, server.loads()) == {"capital_projects"}
    # Nor in another that loads later.
    server.reload("libraries")
    assert {name: contents(server, name) for name in SAMPLE} == {
        **without,
        "capital_projects": wanted,
    }

    file.unlink()
    server.wait_for(
        lambda: contents(server, "capital_projects") == without["capital_projects"],
        promised(PROMISED_SECONDS),
    )


def test_a_teams_sensor_launches_runs_and_its_checks_are_made(server: Server) -> None:
    before = set(server.runs())
    file = server.product_folder("libraries") / "definitions.py"
    save(file, SENSOR)
    server.wait_for(lambda: set(server.runs()) - before)
    [run] = set(server.runs()) - before
    server.wait_for_run(run)
    events = server.events(run)
    assert "Materialized value branches_report" in events
    assert "branches_report_is_right" in events
    file.unlink()


def test_a_backfill_runs_every_partition(server: Server) -> None:
    before = set(server.runs())
    for key in STARTER_KEYS:
        pretend_done(server.project, "park_access", "build", key)
    parameters = {
        "assetSelection": [{"path": ["park_access", "package"]}],
        "partitionNames": list(STARTER_KEYS),
        "fromFailure": False,
    }
    answer = server.query(LAUNCH_BACKFILL, parameters=parameters)["launchPartitionBackfill"]
    assert answer["__typename"] == "LaunchBackfillSuccess", answer
    server.wait_for(lambda: len(set(server.runs()) - before) == len(STARTER_KEYS))
    for run in set(server.runs()) - before:
        server.wait_for_run(run)


def test_the_uis_reload_gives_fresh_code_of_that_location_and_of_no_other(
    blind: Server,
) -> None:
    before = blind.loads()
    file = blind.product_folder("libraries") / "definitions.py"
    for asset in ("first_try", "second_try"):
        save(file, TEAM.format(asset=asset, product="libraries"))
        blind.reload("libraries")
        # At once: the button's answer is what the page shows.
        own = {"build_libraries_nightly_qa"}
        assert contents(blind, "libraries")["schedules"] - own == {f"{asset}_every_day"}
        assert changed(before, blind.loads()) == {"libraries"}


def test_without_watching_files_are_not_followed_until_somebody_asks(blind: Server) -> None:
    before = blind.loads()
    with blind.products.open("a") as file:
        file.write(NEW_PRODUCT)
    own = blind.product_folder("park_access") / "definitions.py"
    save(own, TEAM.format(asset="noise_report", product="park_access"))
    # A watching server has begun to reload by then.
    assert not wait_until(lambda: blind.loads() != before, seconds=2.5)

    assert blind.command("generate").returncode == 0
    blind.reload_all()
    blind.wait_for_locations(*SAMPLE, "new_one")
    # They are made beside it.
    blind.wait_for(lambda: blind.partitions("new_one") == set(STARTER_KEYS))
    after = blind.loads()
    assert not set(before.values()) & set(after.values())
    assert "noise_report" in contents(blind, "park_access")["assets"]


def test_a_location_is_loaded_with_the_code_of_this_project_that_its_runs_will_have(
    blind: Server,
) -> None:
    # As where somebody brings the project up to date beneath a running `up`.
    code = blind.project / "orchestration" / "definitions" / "product.py"
    save(code, code.read_text().replace('f"Builds {', 'f"Makes {'))
    blind.reload("libraries")
    jobs = blind.query(JOBS_QUERY, location=selector("libraries"))["repositoryOrError"]["jobs"]
    [described] = [job["description"] for job in jobs if job["name"] == "build_libraries"]
    assert described.startswith("Makes libraries: ")
