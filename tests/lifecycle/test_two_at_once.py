"""Several processes at the same targets, and at the same database, at the same time."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml
from dagster import DagsterInstance, DagsterRunStatus

from orchestration import locations
from orchestration.catalog.checkout import products_file
from orchestration.catalog.names import STARTER_KEYS
from orchestration.catalog.products import read_products
from orchestration.cli.main import main
from orchestration.definitions.partitions import add_partition
from orchestration.generator.generate import generate
from orchestration.generator.render import LOCATIONS
from orchestration.instance.home import open_instance, prepare_dagster_home
from orchestration.instance.partitions import add_starter_partitions
from tests.harness.forks import Fork, forked
from tests.harness.processes import wait_until

# Each build tells whose it is, and is not done before it may be.
BUILD_SCRIPT = """
import os, pathlib, time
out = pathlib.Path(os.environ["BUILD_ENV_OUTPUT_DIR"])
name, schema = os.environ["BUILD_NAME"], os.environ["BUILD_ENGINE_SCHEMA"]
for part in range(4):
    (out / f"{part}.part").write_text(f"{name} {schema}")
    while not os.path.exists(os.environ["DATA_ENGINEERING_ROOT"] + "/products/libraries/go"):
        time.sleep(0.02)
print(name)
"""
COUNT = 20
WAITING = "Another run of it is going on."


@pytest.fixture
def env(lifecycle: Path, checkout: Path, sample_dcpy: Mapping[str, str]) -> dict[str, str]:
    """An empty lifecycle folder, and a checkout whose builds tell whose they are."""
    for folder in (checkout / "products").iterdir():
        if folder.is_dir():
            (folder / "build.py").write_text(BUILD_SCRIPT)
    return {
        "DATA_ENGINEERING_ROOT": str(checkout),
        "DCPY_LIFECYCLE_DATA_DIR": str(lifecycle),
        "DCPY_PYTHON": sys.executable,
        **sample_dcpy,
    }


@contextmanager
def together(
    folder: Path, env: Mapping[str, str], runs: Sequence[tuple[str, str]]
) -> Iterator[list[Fork]]:
    """Materializes all of them, each in a process of its own; at the end all must succeed."""
    with ExitStack() as stack:
        forks = [
            stack.enter_context(
                forked(main, ["materialize", *run], log=folder / f"{number}.log", env=env)
            )
            for number, run in enumerate(runs)
        ]
        yield forks
        for fork in forks:
            assert fork.wait(120) == 0, fork.output
    assert not any("database is locked" in fork.output for fork in forks)


def pretend_loaded(lifecycle: Path, slug: str, *partitions: str) -> None:
    """Leaves what load would, for a build to begin with."""
    for partition in partitions:
        load = lifecycle / "builds" / slug / partition / "load"
        load.mkdir(parents=True)
        (load / "recipe.lock.yml").write_text("version: '1'\n")


def whose(build: Path) -> str:
    """The partition that a build was made for, which all of its output tells."""
    texts = [(build / f"{part}.part").read_text() for part in range(4)]
    assert len(set(texts)) == 1
    assert (build / "build.log").read_text().split() == [texts[0].split()[0]]
    return texts[0].split()[0]


@pytest.mark.long
def test_one_version_twice_and_two_versions_of_a_template_on_an_empty_database(
    tmp_path: Path, lifecycle: Path, env: Mapping[str, str]
) -> None:
    versions = ["20260101", "20260101", "20260201", "20260301"]
    runs = [("ingest/bpl_libraries", version) for version in versions]
    with together(tmp_path, env, runs):
        pass
    for version in set(versions):
        folder = lifecycle / "ingest" / "bpl_libraries" / version
        lock = json.loads((folder / "bpl_libraries" / "config.json").read_text())
        assert lock["version"] == version
        parquet = (folder / "bpl_libraries" / "bpl_libraries.parquet").read_bytes()
        assert parquet[:4] == parquet[-4:] == b"PAR1"


def add_keys(home: str) -> int:
    with DagsterInstance.from_config(home) as instance:
        for number in range(15):
            add_partition(instance, "build_x", str(number))
    return 0


def test_who_adds_a_key_that_another_one_adds_at_that_moment_does_not_fail(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").touch()
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        instance.get_dynamic_partitions("build_x")
    forks = [
        Fork(add_keys, str(tmp_path), log=tmp_path / f"{number}.log", env={}) for number in range(3)
    ]
    for fork in forks:
        assert fork.wait() == 0, fork.output


def test_the_runs_of_a_product_wait_for_each_other_whoever_has_started_them(
    tmp_path: Path, lifecycle: Path, checkout: Path, env: Mapping[str, str]
) -> None:
    partitions = ["2026.1-1_first", "2026.1-2_second", "main"]
    pretend_loaded(lifecycle, "libraries", *partitions)
    folders = {name: lifecycle / "builds" / "libraries" / name for name in partitions}
    runs = [("libraries/build", name) for name in [*partitions, "main"]]
    with together(tmp_path, env, runs) as forks:

        def are_as_far_as_they_can_be() -> bool:
            building = [any(folder.glob(".build.*/0.part")) for folder in folders.values()]
            waiting = [WAITING in fork.output for fork in forks]
            return sum(building) == 1 and sum(waiting) == 3

        assert wait_until(are_as_far_as_they_can_be, 60), [fork.output for fork in forks]
        (checkout / "products" / "libraries" / "go").touch()
    for name, folder in folders.items():
        assert whose(folder / "build") == name


def materialize_generated(modules: Path, arguments: Sequence[str]) -> int:
    """The command line, with the locations that were generated elsewhere."""
    locations.__path__ = [str(modules)]
    return main(arguments)


def seed(slugs: Sequence[str]) -> int:
    """What `up` does before anything else."""
    prepare_dagster_home()
    with open_instance(lambda instance: add_starter_partitions(instance, slugs)):
        return 0


@pytest.mark.long
def test_twenty_products_together_while_up_adds_their_starter_partitions(
    tmp_path: Path,
    lifecycle: Path,
    checkout: Path,
    project: Path,
    env: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    products = [
        {"id": f"p {n}", "build_command": "python build.py", "path": "libraries"}
        for n in range(COUNT)
    ]
    products_file(checkout).write_text(yaml.safe_dump({"products": products}))
    generate(checkout, project)
    slugs = [product.slug for product in read_products(products_file(checkout))]
    (checkout / "products" / "libraries" / "go").touch()
    for slug in slugs:
        pretend_loaded(lifecycle, slug, slug)
    with ExitStack() as stack:

        def start(name: str, *work: object) -> Fork:
            log = tmp_path / f"{name}.log"
            return stack.enter_context(forked(*work, log=log, env=env))  # type: ignore[arg-type]

        seeding = [start(f"seed {n}", seed, slugs) for n in range(2)]
        runs = [
            start(
                *(slug, materialize_generated, project / LOCATIONS),
                ["materialize", f"{slug}/build", slug],
            )
            for slug in slugs
        ]
        for fork in [*seeding, *runs]:
            assert fork.wait(120) == 0, fork.output
        assert not any("database is locked" in fork.output for fork in [*seeding, *runs])
    for slug in slugs:
        assert whose(lifecycle / "builds" / slug / slug / "build") == slug
    with DagsterInstance.get() as instance:
        for slug in slugs:
            assert set(instance.get_dynamic_partitions(f"build_{slug}")) == {slug, *STARTER_KEYS}
        statuses = [run.status for run in instance.get_runs()]
    assert statuses == [DagsterRunStatus.SUCCESS] * COUNT
