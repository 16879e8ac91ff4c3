import json
import logging
import os
import resource
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestration.catalog.products import Product
from orchestration.lifecycle.child import StageFailed
from orchestration.lifecycle.outcomes import Built
from orchestration.lifecycle.stages import run_stage
from orchestration.lifecycle.workspace import private_lifecycle
from tests.harness.processes import tree

LOGGER = logging.getLogger("a build")
LOCK = "product: db-roads\nversion: 26v1\nenv: {VERSION: 26v1}\n"
Runner = Callable[..., Built]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of two products, as the team's are: scripts, data, and what they share."""
    root = tmp_path / "a checkout of größe"
    roads = root / "products" / "roads"
    (roads / "data").mkdir(parents=True)
    (roads / "data" / "codes.csv").write_text("code\n1\n")
    (roads / "build.sh").write_text(
        "#!/bin/bash\nsource ../../bash/utils.sh\nmkdir -p output\n"
        "cp data/codes.csv recipe.lock.yml output\n"
    )
    (roads / "build.sh").chmod(0o755)
    (roads / "latest").symlink_to("data/codes.csv")
    (root / "bash").mkdir()
    (root / "bash" / "utils.sh").write_text("set -e\n")
    (root / "products" / "bridges").mkdir()
    (root / "products" / "bridges" / "codes.csv").write_text("code\n2\n")
    monkeypatch.setenv("DATA_ENGINEERING_ROOT", str(root))
    return root


def loaded(lifecycle: Path, partition: str = "main", **files: str) -> Path:
    """Leaves what load would, for the build of a partition."""
    folder = lifecycle / "builds" / "roads" / partition / "load"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"recipe.lock.yml": LOCK, "source_data_versions.csv": "", **files}.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def build(root: Path, lifecycle: Path) -> Runner:
    """Builds the product `roads` with the command, or commands, on what load has left."""
    loaded(lifecycle)

    def run(command: Any, *, partition: str = "main", resumes: bool = False, **more: Any) -> Built:
        product = Product(id="roads", build_command=command, **more)
        built = run_stage(product, "build", partition, LOGGER, resumes=resumes)
        assert isinstance(built, Built)
        return built

    return run


def result(lifecycle: Path, partition: str = "main") -> Path:
    return lifecycle / "builds" / "roads" / partition / "build"


def test_what_a_build_makes_and_changes_in_its_folder_is_its_output(
    build: Runner, lifecycle: Path
) -> None:
    built = build(
        "./build.sh; echo 3 >> data/codes.csv; touch build.sh; ln -s output/codes.csv new"
    )
    names = {row["file"] for row in built.outputs}
    assert names == {"output/codes.csv", "output/recipe.lock.yml", "data/codes.csv", "new"}
    kept = result(lifecycle)
    assert (kept / "output" / "codes.csv").read_text() == "code\n1\n"
    assert (kept / "data" / "codes.csv").read_text() == "code\n1\n3\n"
    assert (kept / "new").read_text() == "code\n1\n", "what a link led to stays readable"
    assert (kept / "output" / "recipe.lock.yml").read_text() == LOCK
    assert not (kept / "build.sh").exists()


def test_any_number_of_builds_leave_the_checkout_as_it_was(
    build: Runner, root: Path, lifecycle: Path
) -> None:
    before = tree(root), sorted(root.rglob("*"))
    loaded(lifecycle, "other")
    command = (
        "./build.sh; rm data/codes.csv; echo changed > build.sh; echo changed > latest; "
        "mkdir -p ../../new; touch ../stray; sleep 0.3"
    )
    threads = [
        threading.Thread(target=build, args=[command], kwargs={"partition": partition})
        for partition in ("main", "other")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(StageFailed):
        build("rm -rf *; exit 1")
    assert (tree(root), sorted(root.rglob("*"))) == before
    for partition in ("main", "other"):
        assert (result(lifecycle, partition) / "output" / "codes.csv").is_file()


def test_everything_is_found_at_its_relative_place(build: Runner, lifecycle: Path) -> None:
    build("cat ../bridges/codes.csv > out.txt; ls ../.. >> out.txt; ls -d ../*/ >> out.txt")
    lines = (result(lifecycle) / "out.txt").read_text().split()
    assert lines == ["code", "2", "bash", "products", "../bridges/", "../roads/"]


def test_what_load_wrote_is_in_the_products_folder_and_in_the_output_folder(
    build: Runner, lifecycle: Path
) -> None:
    loaded(lifecycle, **{"roads_26v1.duckdb": "tables", "build_metadata.json": "{}"})
    built = build(
        """
        cmp recipe.lock.yml "$BUILD_ENV_OUTPUT_DIR/recipe.lock.yml"
        cmp recipe-minor.lock.yml recipe.lock.yml
        cat build_metadata.json source_data_versions.csv
        echo more >> roads_26v1.duckdb
        cmp roads_26v1.duckdb "$BUILD_ENV_OUTPUT_DIR/roads_26v1.duckdb"
        """,
        recipe="recipe-minor.yml",
    )
    assert {row["file"] for row in built.outputs} == {"roads_26v1.duckdb"}
    assert (result(lifecycle) / "roads_26v1.duckdb").read_text() == "tablesmore\n"
    assert (result(lifecycle).parent / "load" / "roads_26v1.duckdb").read_text() == "tables"


def test_dcpy_finds_the_output_folder_where_it_looks_for_a_builds(
    build: Runner, lifecycle: Path
) -> None:
    # get_build_dir of dcpy/lifecycle/config.py
    folder = "$DCPY_LIFECYCLE_DATA_DIR/builds/build/db-roads"
    build(f'cat "{folder}/26v1/recipe.lock.yml"; touch "{folder}/26v1/one" "{folder}/main/two"')
    assert (result(lifecycle) / "one").is_file() and (result(lifecycle) / "two").is_file()


def test_a_file_that_is_in_both_folders_is_kept_twice(
    build: Runner, lifecycle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build('echo here > rows.csv; echo there > "$BUILD_ENV_OUTPUT_DIR/rows.csv"')
    assert (result(lifecycle) / "rows.csv").read_text() == "there\n"
    assert (result(lifecycle) / "product_folder" / "rows.csv").read_text() == "here\n"
    assert "product_folder/rows.csv" in caplog.text


def test_what_a_link_in_the_output_folder_leads_to_stays(build: Runner, lifecycle: Path) -> None:
    built = build(
        """
        echo made > made.csv; mkdir tables; echo 1 > tables/one.csv
        cd "$BUILD_ENV_OUTPUT_DIR"
        ln -s "$OLDPWD/data/codes.csv" old.csv; ln -s "$OLDPWD/made.csv" link.csv
        ln -s "$OLDPWD/tables" t; echo own > own.csv; ln -s own.csv latest.csv; ln -s loop loop
        """
    )
    kept = result(lifecycle)
    assert (kept / "old.csv").read_text() == "code\n1\n"
    assert (kept / "link.csv").read_text() == (kept / "made.csv").read_text() == "made\n"
    assert (kept / "t" / "one.csv").read_text() == "1\n"
    assert os.readlink(kept / "latest.csv") == "own.csv"
    assert {"file": "link.csv", "bytes": 5} in built.outputs


def test_a_link_in_the_output_folder_that_leads_nowhere_is_a_failure(build: Runner) -> None:
    said = "Product 'roads': gone.csv in the output folder is a link to .*which is not there"
    with pytest.raises(StageFailed, match=said):
        build('ln -s "$PWD/gone.csv" "$BUILD_ENV_OUTPUT_DIR"')


def test_what_a_link_in_the_products_folder_leads_to_stays(build: Runner, lifecycle: Path) -> None:
    build(
        """
        for name in {a..z}; do echo made > $name.csv; ln -s "$PWD/$name.csv" $name.link; done
        ln -s ../bridges/codes.csv other.csv
        """
    )
    kept = result(lifecycle)
    links = [path.read_text() for path in kept.glob("*.link")]
    assert links == ["made\n"] * 26
    assert (kept / "other.csv").read_text() == "code\n2\n"


def test_what_links_lead_to_stays_where_the_lifecycle_folder_is_a_link(
    build: Runner, lifecycle: Path, tmp_path: Path
) -> None:
    lifecycle.rename(tmp_path / "larger disk")
    lifecycle.symlink_to(tmp_path / "larger disk")
    build('echo made > made.csv; ln -s "$PWD/made.csv" "$BUILD_ENV_OUTPUT_DIR/link.csv"')
    assert (result(lifecycle) / "link.csv").read_text() == "made\n"


def test_a_copy_that_failed_half_way_is_not_taken_for_whole(build: Runner, lifecycle: Path) -> None:
    command = """
        ulimit -S -f unlimited; head -c 2000000 /dev/zero > made.csv
        ln -s "$PWD/made.csv" "$BUILD_ENV_OUTPUT_DIR/link.csv"; ln -s made.csv other.csv
        """
    no_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    # As on a full disk, which has room again later.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, no_limit[1]))
    try:
        with pytest.raises(StageFailed, match="File too large"):
            build(command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, no_limit)
    build(command, resumes=True)
    sizes = [(result(lifecycle) / f"{name}.csv").stat().st_size for name in ("link", "other")]
    assert sizes == [2_000_000] * 2
    assert not (result(lifecycle) / "product_folder").exists()


@pytest.mark.parametrize("folder", [".", "$BUILD_ENV_OUTPUT_DIR"])
def test_a_builds_own_file_that_is_called_as_its_log_is_kept(
    build: Runner, lifecycle: Path, caplog: pytest.LogCaptureFixture, folder: str
) -> None:
    build(f'echo said; echo mine > "{folder}/build.log"; mkdir "{folder}/build.tables.json"')
    assert (result(lifecycle) / "product_folder" / "build.log").read_text() == "mine\n"
    assert (result(lifecycle) / "build.log").read_text() == "said\n"
    assert "product_folder/build.log" in caplog.text


def test_what_is_written_beside_the_products_folder_is_named(
    build: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    build("touch ../lost.csv ../../lost.txt")
    assert "was written outside the product's folder: lost.txt, products/lost.csv" in caplog.text


def test_commands_run_in_order_in_one_workspace(
    build: Runner, lifecycle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    built = build(["echo one > made", {"export": "cat made > output.txt; echo two >> output.txt"}])
    assert (result(lifecycle) / "output.txt").read_text() == "one\ntwo\n"
    assert [row["name"] for row in built.commands] == ["1", "export"]
    assert all(isinstance(row["seconds"], float) for row in built.commands)
    assert "Running the command 'export' (2 of 2)." in caplog.text


def test_a_failed_build_goes_on_from_the_command_that_failed(
    build: Runner, root: Path, lifecycle: Path
) -> None:
    count = root.parent / "count"
    commands = [
        {"prepare": f"echo x >> {count}; echo prepared > made; echo log of prepare"},
        {"export": "source ./export.sh"},
    ]
    with pytest.raises(StageFailed, match=r"the command 'export' \(2 of 2\) ended with") as failed:
        build(commands)
    assert failed.value.workspace and (failed.value.workspace / "made").is_file()
    assert not result(lifecycle).exists()

    (root / "products" / "roads" / "export.sh").write_text("cat made > exported\n")
    built = build(commands, resumes=True)
    assert (result(lifecycle) / "exported").read_text() == "prepared\n"
    assert count.read_text() == "x\n", "what was done is not done again"
    assert [row["name"] for row in built.commands] == ["prepare", "export"]
    assert "log of prepare" in (result(lifecycle) / "build.log").read_text()
    left = sorted(path.name for path in result(lifecycle).parent.iterdir())
    assert not any(name.endswith((".work", ".failed.log")) for name in left), left


def test_a_script_that_was_mended_is_the_one_that_is_resumed_with(
    build: Runner, root: Path, lifecycle: Path
) -> None:
    script = root / "products" / "roads" / "build.sh"
    script.write_text("exit 1\n")
    commands = ["echo mine > data/codes.csv", "bash build.sh"]
    with pytest.raises(StageFailed):
        build(commands)
    script.write_text("cp data/codes.csv mended\n")
    (root / "products" / "roads" / "data" / "codes.csv").write_text("theirs\n")
    build(commands, resumes=True)
    assert (result(lifecycle) / "mended").read_text() == "mine\n", "the build's own change stays"


def test_without_resume_a_build_starts_anew(build: Runner, lifecycle: Path) -> None:
    with pytest.raises(StageFailed):
        build(["touch made", "false"])
    build(["[ ! -e made ]", "true"])
    with pytest.raises(StageFailed, match="Run this without `resume`"):
        build(["true"], resumes=True)


@pytest.mark.parametrize("other", ["another load", "another command"])
def test_what_does_not_fit_any_more_is_not_resumed(
    build: Runner, lifecycle: Path, other: str
) -> None:
    with pytest.raises(StageFailed):
        build(["touch made", "false"])
    if other == "another load":
        load = result(lifecycle).parent / "load"
        load.rename(load.with_name(".load.00000000"))
        load.symlink_to(".load.00000000")
    first = "touch other" if other == "another command" else "touch made"
    with pytest.raises(StageFailed, match="cannot be resumed"):
        build([first, "true"], resumes=True)


def test_a_build_that_ended_before_its_first_command_is_not_resumed(build: Runner) -> None:
    # As on a full disk.
    no_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2, no_limit[1]))
    try:
        with pytest.raises(StageFailed, match="File too large"):
            build("true")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, no_limit)
    with pytest.raises(StageFailed, match="Run this again without `resume`"):
        build("true", resumes=True)


def test_the_commit_that_was_built_and_its_changes_are_told(
    build: Runner, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build("true").commit is None
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *arguments], check=True)
    commit = build("git rev-parse HEAD && git log -1").commit
    assert commit and len(commit.id) == 40 and commit.changes == ()
    (root / "bash" / "größe.sh").touch()
    before = tree(root / ".git")
    commit = build("git status").commit
    assert commit and commit.changes == ("?? bash/größe.sh",)
    assert tree(root / ".git") == before, "git's index is not written to"
    # As in a hook of another repository.
    monkeypatch.setenv("GIT_DIR", str(root / "elsewhere"))
    assert build("true").commit == commit


def test_a_products_variables_reach_its_build_and_the_secret_ones_are_masked(
    build: Runner, root: Path, lifecycle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (root / "roads.env").write_text('# ours\nLOGIN="open sesame"\nexport PLAIN=from-the-file\n')
    build(
        'echo "$BUILD_ENGINE_DB, $LOGIN, $BUILD_NAME"; [ "$LOGIN" = "open sesame" ]',
        env={"BUILD_ENGINE_DB": "db-roads", "PLAIN": "overridden"},
        env_file="roads.env",
        build_name="dagster_{{ partition }}",
    )
    log = (result(lifecycle) / "build.log").read_text()
    assert log == "db-roads, ***, dagster_main\n"
    assert "sesame" not in caplog.text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "its env_file .*roads.env cannot be read: No such file"),
        (b"A=1\nB\n", r"roads.env:2: not a line of the form NAME=value"),
        (b"A=1\nB=\0\n", r"roads.env:2: not a line of the form NAME=value"),
        (b"A=1\nBUILD_NAME=x\n", r"roads.env:2: BUILD_NAME cannot be set here; use `build_name`"),
        (b"\xff", "roads.env is not UTF-8 text"),
    ],
)
def test_an_env_file_that_cannot_be_used_names_the_product(
    build: Runner, root: Path, content: bytes | None, said: str
) -> None:
    if content is not None:
        (root / "roads.env").write_bytes(content)
    with pytest.raises(StageFailed, match=f"Product 'roads': .*{said}"):
        build("true", env_file="roads.env")


def test_an_env_file_that_is_a_pipe_is_not_waited_for(build: Runner, root: Path) -> None:
    os.mkfifo(root / "roads.env")
    with pytest.raises(StageFailed, match=r"its env_file .*roads.env is not a file"):
        build("true", env_file="roads.env")


def test_what_is_in_the_home_of_an_unknown_user_does_not_exist(build: Runner) -> None:
    with pytest.raises(StageFailed, match=r"its env_file .*/~nobody-here/x cannot be read"):
        build("true", env_file="~nobody-here/x")


def test_a_checkout_that_can_only_be_read_is_built(
    build: Runner, root: Path, lifecycle: Path
) -> None:
    for path in root.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)
    build("bash build.sh && echo 2 >> data/codes.csv && [ -w build.sh ] && [ -w data ]")
    assert (result(lifecycle) / "output" / "codes.csv").is_file()


def test_a_pipe_in_the_products_folder_does_not_stop_its_build(build: Runner, root: Path) -> None:
    os.mkfifo(root / "products" / "roads" / "pipe")
    (root / "products" / "roads" / "gone").symlink_to("nowhere")
    assert build("[ -L gone ]").outputs == []


def test_what_dbt_has_said_before_the_build_is_not_told_of_it(build: Runner, root: Path) -> None:
    # A developer's own run leaves it in the checkout.
    tests = [{"unique_id": "test.roads.own", "status": "pass"}]
    results = root / "products" / "roads" / "target" / "run_results.json"
    results.parent.mkdir()
    results.write_text(json.dumps({"results": tests}))
    with pytest.raises(StageFailed) as failed:
        build("exit 1")
    assert failed.value.checks == []
    with pytest.raises(StageFailed) as failed:
        build("sed -i s/pass/fail/ target/run_results.json; exit 1")
    assert [check.name for check in failed.value.checks] == ["own"]


def test_a_state_that_is_kept_can_be_read(build: Runner, lifecycle: Path) -> None:
    with pytest.raises(StageFailed):
        build(["true", "kill -9 $$"])
    [state] = lifecycle.rglob("*.work/state.json")
    done: list[Mapping[str, Any]] = json.loads(state.read_text())["done"]
    assert [entry["command"] for entry in done] == ["true"]


def test_a_private_lifecycle_has_what_was_ingested_and_builds_of_its_own(tmp_path: Path) -> None:
    lifecycle = tmp_path / "lifecycle"
    ingested = lifecycle / "ingest" / "pad" / "v1"
    ingested.mkdir(parents=True)
    (ingested / "pad.parquet").write_text("rows")
    (lifecycle / "builds" / "other").mkdir(parents=True)
    (lifecycle / "dagster").mkdir()
    staging = tmp_path / "staging"
    staging.mkdir()

    with private_lifecycle(lifecycle, staging / "own") as private:
        assert (private / "ingest" / "pad" / "v1" / "pad.parquet").read_text() == "rows"
        assert not (private / "builds" / "other").exists()
        assert not (private / "dagster").exists()
        pulled = private / "builds" / "load" / "pad"
        pulled.mkdir(parents=True)
        (pulled / "pad.parquet").write_text("pulled")

    assert sorted(path.name for path in (lifecycle / "builds").iterdir()) == ["other"], (
        "what one load pulls is not another's"
    )
    assert sorted(path.name for path in (staging / "own").iterdir()) == ["builds"], (
        "the result holds no link to what can change"
    )
    assert (pulled / "pad.parquet").read_text() == "pulled"


def test_a_build_finds_what_its_load_pulled(build: Runner, lifecycle: Path) -> None:
    pulled = loaded(lifecycle) / "lifecycle" / "builds" / "load" / "pad"
    pulled.mkdir(parents=True)
    (pulled / "pad.parquet").write_text("rows")
    build('cp "$DCPY_LIFECYCLE_DATA_DIR/builds/load/pad/pad.parquet" .')
    assert (result(lifecycle) / "pad.parquet").read_text() == "rows"
    assert not (result(lifecycle) / "lifecycle").exists(), "the result holds no link to it"


def test_what_a_build_leaves_in_its_lifecycle_folder_is_kept(
    build: Runner, lifecycle: Path
) -> None:
    build('mkdir "$DCPY_LIFECYCLE_DATA_DIR/qa"; echo 1 > "$DCPY_LIFECYCLE_DATA_DIR/qa/report"')
    assert (result(lifecycle) / "lifecycle" / "qa" / "report").is_file()
