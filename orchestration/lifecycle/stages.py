"""The stages of a product's build: what each does, for one partition."""

import filecmp
import logging
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from orchestration import OrchestrationError
from orchestration.catalog.build_commands import Command
from orchestration.catalog.checkout import checkout_root, product_folder, templates_folder
from orchestration.catalog.git import commit_of
from orchestration.catalog.ingest_templates import templates_of
from orchestration.catalog.partition_keys import BuildKey, read_build_key, schema_name
from orchestration.catalog.products import Product, build_name
from orchestration.catalog.recipes import RecipeInputs, recipe_inputs
from orchestration.catalog.templated_yaml import YAML_LOADER
from orchestration.lifecycle import child
from orchestration.lifecycle.checks import check_tables, publishable
from orchestration.lifecycle.child import StageFailed
from orchestration.lifecycle.dbt import keep_names, test_results
from orchestration.lifecycle.environment import (
    base_environment,
    build_environment,
    dcpy_python,
    load_environment,
    product_environment,
)
from orchestration.lifecycle.outcomes import (
    Built,
    CheckResult,
    Loaded,
    Outcome,
    Packaged,
    Planned,
    Process,
)
from orchestration.lifecycle.redaction import Redactor
from orchestration.lifecycle.results import (
    LOCK_FILE,
    Staging,
    build_folder,
    failed_log,
    in_use,
    lifecycle_dir,
    staged,
)
from orchestration.lifecycle.schemas import marked
from orchestration.lifecycle.step_runner import StepResult, Steps, failing
from orchestration.lifecycle.tables import Earlier, earlier, keep_tables, newest, tables_in
from orchestration.lifecycle.workspace import Workspace, private_lifecycle

PRIVATE_LIFECYCLE = "lifecycle"


@dataclass(frozen=True)
class Build:
    """One partition of one product, and where it is built."""

    product: Product
    partition: str
    key: BuildKey
    folder: Path
    root: Path
    lifecycle: Path
    python: tuple[Path, bool]
    env: Mapping[str, str]
    """The variables that products.yml gives the product."""
    secret_names: Collection[str]
    """Those of them that are secret."""
    resumes: bool
    before_publishing: Callable[[], None]
    """Called when a result is complete."""

    @property
    def name(self) -> str:
        """dcpy's name of the build: the partition's, unless products.yml says otherwise."""
        return build_name(self.product, self.partition)

    @property
    def subject(self) -> str:
        return f"Product {self.product.id!r}"

    @property
    def source(self) -> Path:
        """The product's folder in the checkout."""
        return product_folder(self.root, self.product.folder)

    def environment(self) -> dict[str, str]:
        """What every stage of it gets."""
        base = base_environment(root=self.root, lifecycle=self.lifecycle, python=self.python[0])
        return {
            **base,
            "BUILD_NAME": self.name,
            "BUILD_ENGINE_SCHEMA": schema_name(self.product.slug, self.partition),
            **self.env,
        }

    def redactor(self, env: Mapping[str, str]) -> Redactor:
        """Masks the secrets of the environment."""
        return Redactor(env, self.secret_names)

    def steps(self, env: Mapping[str, str], result: Path, staging: Staging) -> Steps:
        """What dcpy's interpreter is to run for it, in that environment."""
        return Steps(result, staging, self.root, self.python, env, self.redactor(env))

    def result(self, stage: str, needed_by: str) -> Path:
        """The folder of an earlier stage's result; raises StageFailed where there is none."""
        folder = self.folder / stage
        if not folder.exists():
            raise StageFailed(
                f"{self.subject}: partition {self.partition!r} has no {stage} for {needed_by} to "
                f"work on. Materialize {self.product.slug}/{stage} first."
            )
        return folder.resolve()


def run_stage(
    product: Product,
    stage: str,
    partition: str,
    logger: logging.Logger,
    *,
    resumes: bool = False,
    before_publishing: Callable[[], None] = lambda: None,
) -> Outcome:
    """Does the stage's work for the partition of a product's builds, in a process of its own.

    Another run on that partition is waited for. A build that `resumes` goes on from the command
    that failed. `before_publishing` is called when a result is complete. Raises
    StageFailed, whose text names the product.
    """
    with failing(f"Product {product.id!r}"):
        key = read_build_key(partition)
        lifecycle, root = lifecycle_dir(), checkout_root()
        env, secret_names = product_environment(product, root)
        build = Build(
            product=product,
            partition=partition,
            key=key,
            folder=build_folder(lifecycle, product.slug, partition),
            root=root,
            lifecycle=lifecycle,
            python=dcpy_python(product.python),
            env=env,
            secret_names=secret_names,
            resumes=resumes,
            before_publishing=before_publishing,
        )
        with in_use(
            lifecycle,
            build.folder,
            waiting=lambda: logger.warning(
                f"Another run is working on partition {partition!r}; waiting for it to end."
            ),
        ):
            return WORK[stage](build, logger)


def _plan(build: Build, logger: logging.Logger) -> Planned:
    result = build.folder / "plan"
    if warning := _inputs(build.source / build.product.recipe).warning:
        logger.warning(warning)
    with staged(result, "plan", before_publishing=build.before_publishing) as staging:
        step = _step(
            logger,
            build,
            "plan",
            {
                "version": build.key.version,
                "build_name": build.name,
                "lock": str(staging.folder / LOCK_FILE),
            },
            build.environment() | {"BUILD_ENV_OUTPUT_DIR": str(staging.folder)},
            result,
            staging,
        )
        lock = _read_lock(staging.folder)
    top = build.folder / LOCK_FILE
    if not top.is_symlink():
        top.symlink_to(Path("plan", LOCK_FILE))
    return Planned(
        version=str(lock.get("version")),
        datasets=(lock.get("inputs") or {}).get("datasets") or [],
        lock_file=top,
        process=step.process,
    )


def _load(build: Build, logger: logging.Logger) -> Loaded:
    plan = build.result("plan", "load")
    result = build.folder / "load"
    with staged(result, "load", before_publishing=build.before_publishing) as staging:
        lock_file = staging.folder / LOCK_FILE
        shutil.copy2(plan / LOCK_FILE, lock_file)
        env = load_environment(
            build.environment(),
            lock=_read_lock(plan),
            build_name=build.name,
            output=staging.folder,
        )
        with (
            private_lifecycle(build.lifecycle, staging.folder / PRIVATE_LIFECYCLE) as lifecycle,
            marked(env, build.lifecycle, build.product.slug, build.partition, logger),
        ):
            step = _step(
                logger,
                build,
                "load",
                {"lock": str(lock_file)},
                env | {"DCPY_LIFECYCLE_DATA_DIR": str(lifecycle)},
                result,
                staging,
            )
    return Loaded(step.data["datasets"], step.process)


def _build(build: Build, logger: logging.Logger) -> Built:
    loaded = build.result("load", "build")
    if not build.source.is_dir():
        raise StageFailed(
            f"{build.subject}: there is no folder {build.source} to run the build command in. Add "
            "it, or name it under `path` in products.yml."
        )
    result = build.folder / "build"
    lock = _read_lock(loaded)
    commit = commit_of(build.root)
    with staged(
        result,
        "build",
        keeps_unfinished=True,
        resumes=build.resumes,
        before_publishing=build.before_publishing,
    ) as staging:
        env = build_environment(
            build.environment(), lock=lock, build_name=build.name, output=staging.folder
        )
        redact = build.redactor(env)
        commands = [
            {"name": command.name, "command": redact.text(command.run)}
            for command in build.product.commands
        ]
        workspace = Workspace(staging.work, build.root, build.source, staging.folder, loaded)
        if build.resumes:
            workspace.resume(commands)
        else:
            workspace.create(
                lifecycle=build.lifecycle,
                lock_names=[f"{Path(build.product.recipe).stem}.lock.yml"],
                builds=_build_folders(lock, build),
            )
        env["DCPY_LIFECYCLE_DATA_DIR"] = str(workspace.lifecycle)
        env["PRODUCTS_DIR"] = str(workspace.checkout / "products")
        tail = ""
        for command in build.product.commands[len(workspace.done) :]:
            what = _what(build.product, command)
            if len(build.product.commands) > 1:
                logger.info(f"Running {what}.")
            finished = child.run(
                logger,
                command=["bash", "-c", command.run],
                cwd=workspace.product,
                env=env,
                log=staging.log,
                redact=redact,
            )
            if finished.returncode != 0:
                failure = finished.failure(f"{build.subject}: {what}", failed_log(result, "build"))
                failure.workspace = workspace.product
                failure.checks = _dbt_results(build, workspace.made(), logger)
                raise failure
            workspace.finish(command.name, redact.text(command.run), finished.seconds)
            tail = finished.tail
        workspace.collect(logger)
        outputs = _outputs(staging.folder, loaded)
        baselines = _baselines(build, result)
        tables = tables_in(
            outputs,
            logger,
            before=next(filter(None, baselines.values()), None),
            subject=f"{build.subject}, checks",
            steps=build.steps(env, result, staging),
        )
        results: Sequence[CheckResult] = []
        if tables is not None:
            version = str(lock.get("version"))
            keep_tables(staging.folder, "build", version, tables)
            results = check_tables(tables, version, build.product.checks, baselines)
        publishable(results, build.subject, staging, logger)
        files = [staging.folder / output["file"] for output in outputs]
        results = [*results, *_dbt_results(build, files, logger)]
    seconds = sum(done["seconds"] for done in workspace.done)
    return Built(
        workspace.done, commit, outputs, tables or (), results, Process(seconds, tail, result)
    )


def _dbt_results(
    build: Build, files: Iterable[Path], logger: logging.Logger
) -> Sequence[CheckResult]:
    results = test_results(files, logger)
    keep_names(build.folder.parent, results)
    return results


def _baselines(build: Build, result: Path) -> dict[str, Earlier | None]:
    """The builds that a new one is compared with, by the suffix of the checks' names."""
    last = earlier(result, "build", f"the last build of {build.partition!r}")
    others = set(build.folder.parent.iterdir()) - {build.folder}
    other = newest((folder / "build" for folder in others), "build")
    return {"": last, "_of_other_version": other}


def _what(product: Product, command: Command) -> str:
    if len(product.commands) == 1:
        return "the build command"
    number = product.commands.index(command) + 1
    return f"the command {command.name!r} ({number} of {len(product.commands)})"


def _build_folders(lock: Mapping[str, Any], build: Build) -> list[Path]:
    """Where dcpy looks for a build's output folder, below the lifecycle folder.

    Source: get_build_dir in dcpy/lifecycle/config.py, which is called with the version, or with
    the build's name.
    """
    name = str(lock.get("product") or build.product.folder)
    parts = [str(part) for part in (lock.get("version"), build.name) if part]
    return [Path("builds", "build", name, part) for part in dict.fromkeys(parts) if "/" not in part]


def _outputs(folder: Path, loaded: Path) -> list[dict[str, Any]]:
    """The files that a build wrote: all that load had not put there just so."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder) for path in files]
    return [
        {"file": str(name), "bytes": (folder / name).stat().st_size}
        for name in names
        if not ((loaded / name).is_file() and filecmp.cmp(loaded / name, folder / name))
    ]


def _package(build: Build, logger: logging.Logger) -> Packaged:
    build.result("build", "package")
    logger.info("Packaging is a stub: nothing was packaged.")
    return Packaged()


def _step(
    logger: logging.Logger,
    build: Build,
    stage: str,
    parameters: Mapping[str, Any],
    env: Mapping[str, str],
    result: Path,
    staging: Staging,
) -> StepResult:
    recipe = build.source / build.product.recipe
    return build.steps(env, result, staging).run(
        logger,
        stage=stage,
        subject=f"{build.subject}, {stage}",
        parameters={
            "name": build.product.id,
            "recipe": str(recipe),
            # What to ingest for which input, for the sentence of a step that misses one.
            "templates_of": templates_of(templates_folder(build.root), _inputs(recipe).datasets),
            **parameters,
        },
    )


def _inputs(recipe: Path) -> RecipeInputs:
    try:
        return recipe_inputs(recipe)
    except OrchestrationError:
        # dcpy says what is wrong with the recipe.
        return RecipeInputs(())


def _read_lock(folder: Path) -> dict[str, Any]:
    path = folder / LOCK_FILE
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=YAML_LOADER)
    except (yaml.YAMLError, ValueError):
        data = None
    if not isinstance(data, dict):
        raise OrchestrationError(f"{path} is not a lock file. Materialize plan again.")
    return data


WORK: Mapping[str, Callable[[Build, logging.Logger], Outcome]] = {
    "plan": _plan,
    "load": _load,
    "build": _build,
    "package": _package,
}
