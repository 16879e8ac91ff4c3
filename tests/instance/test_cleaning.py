"""What can go goes, whenever that is interrupted; what is wanted stays."""

import itertools
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dagster import AssetKey, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.remote_origin import (
    GrpcServerCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)

from orchestration import locations
from orchestration.catalog.checkout import PROJECT_ROOT
from orchestration.catalog.partition_keys import schema_name
from orchestration.cli.main import main
from orchestration.generator.generate import generate
from orchestration.generator.render import LOCATIONS
from orchestration.lifecycle.results import locked
from orchestration.lifecycle.schemas import marked, schemas_in
from tests.harness.forks import Fork
from tests.harness.postgres import PASSWORD, Postgres, postgres_cluster
from tests.harness.up_server import checkout_of, copy_project, write_products

DAY = 86_400.0
CLEAN = ["clean", "--keep", "1", "--older-than", "1d", "--yes"]
NUMBERS = itertools.count()


def command(modules: Path, arguments: Sequence[str]) -> int:
    """The command line, with the locations that were generated elsewhere."""
    locations.__path__ = [str(modules)]
    return main(arguments)


@dataclass(frozen=True)
class Place:
    project: Path
    env: Mapping[str, str]

    @property
    def lifecycle(self) -> Path:
        return Path(self.env["DCPY_LIFECYCLE_DATA_DIR"])

    def run(self, *arguments: str, fails: bool = False) -> str:
        """What a command prints."""
        log = self.project / f"{next(NUMBERS)}.log"
        modules = self.project / LOCATIONS
        fork = Fork(command, modules, arguments, log=log, env=self.env)
        assert bool(fork.wait()) is fails, fork.output
        return fork.output

    def clean(self, *arguments: str) -> str:
        return self.run("clean", *arguments)

    def instance(self) -> DagsterInstance:
        return DagsterInstance.from_config(self.env["DAGSTER_HOME"] + "/.orchestration")

    def keys(self, name: str) -> set[str]:
        with self.instance() as instance:
            return set(instance.get_dynamic_partitions(name))

    def versions(self, template: str) -> set[str]:
        folder = self.lifecycle / "ingest" / template
        return {entry.name for entry in folder.iterdir() if entry.name[0] != "."}

    def builds(self, slug: str) -> set[str]:
        folder = self.lifecycle / "builds" / slug
        return {entry.name for entry in folder.iterdir() if entry.name[0] != "."}

    def age(self, days: float, *paths: str) -> None:
        """Makes results look as old as that, and all that lies beside them."""
        then = time.time() - days * DAY
        for path in paths:
            for entry in [self.lifecycle / path, *(self.lifecycle / path).glob("*")]:
                os.utime(entry, (then, then), follow_symlinks=False)
            for entry in (self.lifecycle / path).glob(".*"):
                os.utime(entry, (then, then), follow_symlinks=False)


@pytest.fixture
def place(tmp_path: Path, sample_dcpy: Mapping[str, str]) -> Place:
    """A project of the sample's templates and two products that are loaded."""
    folder = tmp_path / "Ablage für alles"
    folder.mkdir()
    project = copy_project(folder)
    write_products(project, {"good": "date > out.txt", "bad": "echo oh no; exit 3"})
    env = {
        **os.environ,
        **sample_dcpy,
        "DATA_ENGINEERING_ROOT": str(checkout_of(project)),
        "DCPY_LIFECYCLE_DATA_DIR": str(folder / "lifecycle"),
        "DAGSTER_HOME": str(folder / "dagster"),
    }
    generate(checkout_of(project), project)
    return Place(project, env)


def ingest(place: Place, *versions: str) -> None:
    for version in versions:
        place.run("materialize", "ingest/qpl_libraries", version)


def build(place: Place, slug: str, *keys: str, fails: bool = False) -> None:
    for key in keys:
        load = place.lifecycle / "builds" / slug / key / "load"
        load.mkdir(parents=True)
        (load / "recipe.lock.yml").write_text(f"product: {slug}\n")
        place.run("materialize", f"{slug}/build", key, fails=fails)


@pytest.mark.long
def test_old_versions_go_with_their_keys_and_runs_and_the_latest_and_the_starters_stay(
    place: Place,
) -> None:
    ingest(place, "2021", "2022", "2023", "2024")
    build(place, "good", "main", "1-a", "2-b", "3-c")
    build(place, "bad", "4-d", fails=True)
    for days, key in ((50, "main"), (40, "1-a"), (30, "2-b"), (20, "3-c")):
        place.age(days, f"builds/good/{key}")
    place.age(60, "builds/bad/4-d")
    place.age(40, "ingest/qpl_libraries")
    for days, version in ((40, "2024"), (30, "2022"), (20, "2023"), (10, "2021")):
        then = time.time() - days * DAY
        link = place.lifecycle / "ingest" / "qpl_libraries" / version
        os.utime(link, (then, then), follow_symlinks=False)

    told = place.clean("--keep", "1", "--older-than", "15d")
    assert "ingest/qpl_libraries/2022" in told
    assert "builds/good/2-b" in told
    assert "builds/bad/4-d" in told
    assert "Nothing is removed yet" in told
    assert place.versions("qpl_libraries") == {"2021", "2022", "2023", "2024"}

    done = place.clean("--keep", "1", "--older-than", "15d", "--yes")
    assert "Removed: 5 versions" in done
    # The latest by time, and by version.
    assert place.versions("qpl_libraries") == {"2021", "2024"} == place.keys("ingest_qpl_libraries")
    assert place.builds("good") == {"main", "3-c"}
    assert {"main", "3-c"} <= place.keys("build_good")
    assert not place.keys("build_good") & {"1-a", "2-b"}
    assert place.builds("bad") == set()
    assert not list((place.lifecycle / ".removed").rglob("*.*"))
    assert "Removed: nothing." in place.clean("--keep", "1", "--older-than", "15d", "--yes")
    # What is left of it can be read, and the same version can be made again.
    assert (place.lifecycle / "builds/good/3-c/build/out.txt").is_file()
    ingest(place, "2022")
    assert "2022" in place.keys("ingest_qpl_libraries")


def test_runs_go_from_the_database_with_their_events_and_logs(place: Place) -> None:
    ingest(place, "2024", "2024", "2024")
    with place.instance() as instance:
        before = [run.run_id for run in instance.get_runs()]
    history = Path(place.env["DAGSTER_HOME"], "history", "runs")
    assert all((history / f"{run}.db").exists() for run in before)
    place.clean("--older-than", "0d", "--yes")
    with place.instance() as instance:
        [left] = [run.run_id for run in instance.get_runs()]
        # It is the one that made what there is.
        assert left == before[0]
        event = instance.get_latest_materialization_event(AssetKey(["ingest", "qpl_libraries"]))
        assert event
        assert event.run_id == left
    assert [run for run in before if (history / f"{run}.db").exists()] == [left]
    stored = Path(place.env["DAGSTER_HOME"], "storage")
    assert not any(path.name in before[1:] for path in stored.rglob("*"))


def test_what_the_command_line_does_not_say_is_as_in_products_yml(place: Place) -> None:
    products = checkout_of(place.project) / "products" / "products.yml"
    products.write_text(f"{products.read_text()}retention: {{keep: 2, older_than: 36h}}\n")
    assert "Kept: 2 versions of each, and all of the last 36 hours." in place.clean()
    assert "Kept: 3 versions of each, and all of the last 36 hours." in place.clean("--keep", "3")
    assert "Kept: 2 versions of each, and all of the last 9 days." in (
        place.clean("--older-than", "9d")
    )
    assert "--older-than must be a number of days or hours" in (
        place.run("clean", "--older-than", "90.0", fails=True)
    )
    assert "all of the last 999999 days." in place.clean("--older-than", "999999d")


def test_what_failed_attempts_have_left_goes(place: Place) -> None:
    build(place, "bad", "main", fails=True)
    folder = place.lifecycle / "builds" / "bad" / "main"
    assert [entry for entry in folder.iterdir() if "failed.log" in entry.name]
    workspaces = [entry for entry in folder.iterdir() if entry.name.endswith(".work")]
    assert workspaces
    # As a build can leave it.
    (workspaces[0] / "locked").mkdir(mode=0o500)
    assert "Removed: nothing." in place.clean("--older-than", "1d", "--yes")
    place.age(2, "builds/bad/main")
    assert "Removed: 3 leftovers" in place.clean("--older-than", "1d", "--yes")
    assert sorted(entry.name for entry in folder.iterdir()) == ["load"]


def test_what_dcpy_has_put_there_itself_stays(place: Place) -> None:
    # Its variable for the folder may name the one that it has used before.
    ingest(place, "2024")
    own = ("builds/load/dcp_x/2024", "ingest/staging/dcp_x", "ingest/qpl_libraries/2020")
    for name in own:
        (place.lifecycle / name).mkdir(parents=True)
        (place.lifecycle / name / "x.csv").touch()
    place.age(40, *own, "builds/load/dcp_x", "builds/load")
    assert "Removed: nothing." in place.clean("--keep", "1", "--older-than", "1d", "--yes")
    assert all((place.lifecycle / name / "x.csv").is_file() for name in own)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no other disk")
def test_what_cannot_be_removed_is_said_and_not_counted(place: Place) -> None:
    build(place, "good", "1-a", "2-b")
    # Nothing is moved in one step to another disk.
    other = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        if other.stat().st_dev == place.lifecycle.stat().st_dev:
            pytest.skip("/dev/shm is no other disk than the one of temporary files")
        (place.lifecycle / ".removed").symlink_to(other)
        told = place.run("clean", "--keep", "1", "--older-than", "0d", "--yes", fails=True)
    finally:
        shutil.rmtree(other)
    assert f"{place.lifecycle}/builds/good/1-a stays: it cannot be moved" in told
    assert "Removed: nothing." in told
    assert place.builds("good") == {"1-a", "2-b"} <= place.keys("build_good")


@pytest.mark.skipif(os.geteuid() != 0, reason="there are no files of another user")
def test_what_another_user_has_left_does_not_hold_up_the_rest() -> None:
    # As a build's container does.
    program = """
import os, tempfile
from pathlib import Path
from orchestration.lifecycle.cleaning import remove_set_aside
with tempfile.TemporaryDirectory() as folder:
    aside = Path(folder, ".removed")
    kept = [aside / "leftovers/1", aside / "builds/good/1-a"]
    gone = [aside / "leftovers/2", aside / "builds/good/2-b", aside / "ingest/x/2024"]
    for entry in [*kept, *gone]:
        (entry / "folder").mkdir(parents=True)
    for path in Path(folder, "."), *Path(folder).rglob("*"):
        if not set(kept) & {path, *path.parents}:
            os.chown(path, 65534, 65534)
    os.seteuid(65534)
    problems = remove_set_aside(Path(folder), lambda result: None)
    os.seteuid(0)
    assert [entry.exists() for entry in kept + gone] == [True, True, False, False, False]
    print(*problems, sep="\\n")
"""
    told = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT_ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    assert [line.split(".removed/")[1].partition(": ")[0] for line in told.splitlines()] == [
        "leftovers/1 stays",
        "builds/good/1-a stays",
    ]
    assert told.count("it cannot be removed: Permission denied") == 2


OF_A_SERVER = RemoteJobOrigin(
    RemoteRepositoryOrigin(GrpcServerCodeLocationOrigin("localhost", location_name="good"), "r"),
    "build_good",
)


@pytest.mark.long
@pytest.mark.parametrize(
    ("origin", "tags"),
    [(None, {".dagster/repository": "__repository__@good"}), (OF_A_SERVER, {})],
    ids=["of materialize", "of a server"],
)
def test_what_is_worked_on_and_what_it_takes_in_stays(
    place: Place, origin: RemoteJobOrigin | None, tags: dict[str, str]
) -> None:
    ingest(place, "2023", "2024")
    recipe = checkout_of(place.project) / "products" / "good" / "recipe.yml"
    recipe.write_text("name: g\nproduct: good\ninputs: {datasets: [{id: qpl_libraries}]}\n")
    build(place, "good", "1-a", "2-b")
    with locked(place.lifecycle / "builds" / "good" / "1-a", waiting=lambda: None):
        place.clean("--keep", "1", "--older-than", "0d", "--yes")
        assert place.versions("qpl_libraries") == {"2023", "2024"}
        assert place.builds("good") == {"1-a", "2-b"}
    # A run that waits for its turn has no lock.
    waiting = DagsterRun(
        job_name="build_good",
        status=DagsterRunStatus.STARTED,
        tags={"dagster/partition": "1-a", **tags},
        remote_job_origin=origin,
    )
    with place.instance() as instance:
        instance.add_run(waiting)
    place.clean("--keep", "1", "--older-than", "0d", "--yes")
    assert place.versions("qpl_libraries") == {"2023", "2024"}
    assert place.builds("good") == {"1-a", "2-b"}
    with place.instance() as instance:
        instance.delete_run(waiting.run_id)
    place.clean("--keep", "1", "--older-than", "0d", "--yes")
    assert place.versions("qpl_libraries") == {"2024"}
    assert place.builds("good") == {"2-b"}


@pytest.mark.long
def test_versions_that_a_recipe_or_the_lock_file_of_a_kept_build_names_stay(place: Place) -> None:
    ingest(place, "2020", "2021", "2022", "2023")
    inputs = "inputs: {datasets: [{id: qpl_libraries, version: %s}]}\n"
    recipe = checkout_of(place.project) / "products" / "good" / "recipe.yml"
    recipe.write_text("name: g\nproduct: good\n" + inputs % "2020")
    build(place, "good", "1-a", "2-b")
    for key, version in (("1-a", "2022"), ("2-b", "2021")):
        lock = place.lifecycle / "builds" / "good" / key / "load" / "recipe.lock.yml"
        lock.write_text(inputs % f"'{version}'")
    place.clean("--keep", "1", "--older-than", "0d", "--yes")
    assert place.builds("good") == {"2-b"}
    assert place.versions("qpl_libraries") == {"2020", "2021", "2023"}
    assert place.keys("ingest_qpl_libraries") == {"2020", "2021", "2023"}


def test_a_run_that_was_never_queued_holds_nothing_and_goes_with_its_key(place: Place) -> None:
    build(place, "good", "1-a", "2-b")
    tags = {".dagster/repository": "__repository__@good"}
    old, new = (
        DagsterRun(job_name="build_good", tags={"dagster/partition": key, **tags})
        for key in ("1-a", "3-c")
    )
    lost = DagsterRun(job_name="build_good", tags={"dagster/partition": "4-d", **tags})
    with place.instance() as instance:
        instance.add_dynamic_partitions("build_good", ["3-c", "4-d", "by-hand"])
        ago = datetime.now(UTC) - timedelta(hours=2)
        for run in (old, lost):
            instance.run_storage.add_historical_run(run, run_creation_time=ago)
        instance.add_run(new)
    place.clean("--keep", "1", "--older-than", "0d", "--yes")
    assert place.builds("good") == {"2-b"}
    # One that was made this moment is about to be queued.
    assert place.keys("build_good") == {"2-b", "3-c", "by-hand"}
    with place.instance() as instance:
        unqueued = RunsFilter(statuses=[DagsterRunStatus.NOT_STARTED])
        assert instance.get_run_ids(unqueued) == [new.run_id]


@pytest.mark.long
def test_whenever_it_is_killed_nothing_is_half_removed_and_the_next_one_goes_on(
    place: Place, tmp_path: Path
) -> None:
    ingest(place, "2040", "2041")
    template = place.lifecycle / "ingest" / "qpl_libraries"
    made = (template / "2041").resolve()
    files = sorted(path.name for path in made.rglob("*"))
    versions = {f"{year}" for year in range(2000, 2020)}
    seen = set()
    for number in range(7):
        for version in versions - place.versions("qpl_libraries"):
            folder = template / f".{version}.{int(version) + number:08x}"
            shutil.copytree(made, folder)
            (template / version).symlink_to(folder.name)
            for entry in (folder, template / version):
                os.utime(entry, (0, 0), follow_symlinks=False)
        with place.instance() as instance:
            instance.add_dynamic_partitions("ingest_qpl_libraries", sorted(versions))
        fork = Fork(main, CLEAN, log=tmp_path / "log", env=place.env)
        time.sleep(0.2 + 0.07 * number)
        seen.add(fork.is_running)
        fork.kill()
        fork.wait()
        left = place.versions("qpl_libraries")
        # A version is there as a whole, and Dagster has its key, or it is not.
        assert left <= place.keys("ingest_qpl_libraries")
        for version in left:
            there = sorted(path.name for path in (template / version).resolve().rglob("*"))
            assert there == files
    assert True in seen
    place.run(*CLEAN)
    assert place.versions("qpl_libraries") == {"2040", "2041"}
    assert place.keys("ingest_qpl_libraries") == {"2040", "2041"}
    assert not [entry.name for entry in template.iterdir() if "204" not in entry.name]
    assert not list((place.lifecycle / ".removed").rglob("20*"))


@pytest.fixture(scope="module")
def database() -> Iterator[tuple[Postgres, str]]:
    """A Postgres, and the name of a database in it."""
    with postgres_cluster() as postgres:
        postgres.create_database("builds")
        yield postgres, "builds"


def test_the_schema_of_a_build_goes_with_it_and_nobody_elses_does(
    place: Place, database: tuple[Postgres, str]
) -> None:
    postgres, name = database
    env = {"BUILD_ENGINE_SERVER": postgres.server, "BUILD_ENGINE_DB": name}
    place = Place(place.project, {**place.env, **env})
    dsn = f"{postgres.server}/{name}"
    own = {key: schema_name("good", key) for key in ("1-a", "2-b", "main")}
    build(place, "good", "1-a", "2-b", "main")

    def load(schema: str, folder: Path, key: str) -> None:
        # As dcpy does.
        loading = {**env, "BUILD_ENGINE_SCHEMA": schema}
        with marked(loading, folder, "good", key, logging.getLogger()):
            postgres.query(name, f'drop schema if exists "{schema}"; create schema "{schema}"')

    for key, schema in own.items():
        load(schema, place.lifecycle, key)
    postgres.query(name, f'create schema "{own["1-a"]}__tests"; create schema somebodys')
    # Another lifecycle folder has a build of that name, too.
    (place.project / "other").mkdir()
    load("others", place.project / "other", "1-a")
    # One that was there before, and that the load has not made, is not the build's.
    with marked(
        {**env, "BUILD_ENGINE_SCHEMA": "somebodys"}, place.lifecycle, "good", "9-x", logging.root
    ):
        pass
    assert {schema.name for schema in schemas_in(dsn, place.lifecycle)} == set(own.values())

    place.age(40, "builds/good/1-a")
    told = place.clean("--keep", "1", "--older-than", "15d")
    assert f"schema {own['1-a']} in 127.0.0.1:{postgres.port}/{name}" in told
    assert PASSWORD not in told
    assert "1 Postgres schema" in place.clean("--keep", "1", "--older-than", "15d", "--yes")
    left = postgres.query(name, "select nspname from pg_namespace where nspname !~ '^pg_'")
    assert {own["2-b"], own["main"], "somebodys", "others"} <= set(left)
    assert not [schema for schema in left if schema.startswith(own["1-a"])]

    # libpq would quote what it takes for a port.
    environ = {**env, "BUILD_ENGINE_SERVER": "postgresql://u:pa55word/secret@127.0.0.1"}
    wrong = Place(place.project, {**place.env, **environ})
    told = wrong.run("clean", "--keep", "1", "--older-than", "15d", fails=True)
    assert "give no address of a database" in told
    assert "pa55word" not in told and "secret" not in told

    postgres.stop()
    told = place.run("clean", "--keep", "1", "--older-than", "15d", "--yes", fails=True)
    assert "cannot be looked at" in told
