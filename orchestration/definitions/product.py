"""The assets of a product's build: plan, load, build, package."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from dagster import (
    AssetDep,
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    AssetSpec,
    Config,
    Definitions,
    JobDefinition,
    LastPartitionMapping,
    MetadataValue,
    define_asset_job,
    get_dagster_logger,
    in_process_executor,
    multi_asset,
)
from pydantic import Field

from orchestration import OrchestrationError
from orchestration.catalog.checkout import (
    checkout_root,
    product_folder,
    products_file,
    templates_folder,
)
from orchestration.catalog.ingest_groups import SOURCE
from orchestration.catalog.ingest_templates import templates_of
from orchestration.catalog.names import INGEST, STAGES, build_job, inputs_job
from orchestration.catalog.products import Product, read_products_file
from orchestration.catalog.recipes import recipe_inputs
from orchestration.definitions.execution import Event, check_specs, execute, partition_of
from orchestration.definitions.following import build_follower
from orchestration.definitions.ingest import ingest_definitions
from orchestration.definitions.launching import build_launch_job
from orchestration.definitions.partitions import build_partitions
from orchestration.definitions.schedules import build_schedules
from orchestration.definitions.team import with_team_definitions
from orchestration.lifecycle.checks import BUILD_CHECKS
from orchestration.lifecycle.dbt import known_tests
from orchestration.lifecycle.redaction import Redactor
from orchestration.lifecycle.results import lifecycle_dir, product_builds
from orchestration.lifecycle.stages import run_stage

# What Dagster makes itself of what another location defines, but in a group called `default`.
STUB = "dagster/auto_created_stub_asset"
DESCRIPTIONS = {
    "plan": (
        "Resolves every version that the recipe leaves open, and writes the lock file.",
        {"dcpy", "yaml"},
    ),
    "load": ("Brings the data that the lock file names to where the build finds it.", {"dcpy"}),
    "build": ("Runs the product's build command.", {"bash"}),
    "package": (
        "A stub: it packages nothing yet. It only checks that there is a build to package.",
        {"stub"},
    ),
}


def product_definitions(**fields: Any) -> Definitions:
    """The code location of one product: a group of four assets and the job that runs them.

    The arguments are the product's fields in products.yml. Nothing of the checkout is needed to
    load it; where the product's recipe can be read, `plan` depends on the ingest assets it names,
    and the definitions that the product's team keeps beside it are added.
    """
    product = Product(**fields)
    slug = product.slug
    stages = zip([None, *STAGES], STAGES, strict=False)
    templates = _templates(product)
    deps = [
        AssetDep(AssetKey([INGEST, template]), partition_mapping=LastPartitionMapping())
        for template in templates
    ]
    assets = [
        build_stage_asset(
            product=product,
            stage=stage,
            deps=[AssetKey([slug, upstream])] if upstream else deps,
        )
        for upstream, stage in stages
    ]
    job = define_asset_job(
        build_job(slug),
        selection=assets,
        description=" ".join(
            filter(None, [f"Builds {product.id}: {', '.join(STAGES)}.", product.description])
        ),
        tags={"product": slug},
        # The stages' work is done by processes of their own already.
        executor_def=in_process_executor,
    )
    followers, sensors = [], []
    if follows := [schedule for schedule in product.schedule if schedule.follows_inputs]:
        if templates:
            follower, sensor = build_follower(slug=slug, templates=templates, schedules=follows)
            followers.append(follower)
            sensors.append(sensor)
        else:
            get_dagster_logger().warning(
                f"Product {product.id!r} is to follow its inputs, but none of them is ingested here"
            )
    own = Definitions(
        assets=[*assets, *followers],
        jobs=[job, *([_inputs_job(product, templates)] if templates else [])],
        sensors=sensors,
        schedules=build_schedules(slug, job, product.schedule),
    )
    whole = with_team_definitions(own, product_folder(checkout_root(), product.folder), slug)
    elsewhere = [each.asset_key for each in deps] if whole is own else _undefined(whole)
    stubs = [AssetSpec(key, group_name=slug, metadata={STUB: True}) for key in elsewhere]
    executor = in_process_executor if whole.executor is None else None
    return Definitions.merge(whole, Definitions(assets=stubs, executor=executor))


def _undefined(definitions: Definitions) -> list[AssetKey]:
    """The assets that others depend on, and that another location defines."""
    nodes = definitions.resolve_asset_graph().asset_nodes
    return [node.key for node in nodes if node.metadata.get(STUB)]


def _templates(product: Product) -> list[str]:
    """The ids of the templates that give what the product's recipe takes in."""
    root = checkout_root()
    recipe = product_folder(root, product.folder) / product.recipe
    if not recipe.is_file():
        return []
    try:
        inputs = recipe_inputs(recipe)
    except OrchestrationError as error:
        get_dagster_logger().warning(f"Product {product.id!r} loads without its inputs: {error}")
        return []
    if inputs.warning:
        get_dagster_logger().warning(f"Product {product.id!r}: {inputs.warning}")
    return list(dict.fromkeys(templates_of(templates_folder(root), inputs.datasets).values()))


def _inputs_job(product: Product, templates: Sequence[str]) -> JobDefinition:
    return build_launch_job(
        name=inputs_job(product.slug),
        templates=templates,
        version=SOURCE,
        description=f"Ingests all that {product.id} takes in.",
        ingest=_ingest_location,
    )


def _ingest_location() -> Definitions:
    settings = read_products_file(products_file(checkout_root())).ingest
    return ingest_definitions(**settings.model_dump())


def _build_checks(product: Product) -> dict[str, str]:
    tests = known_tests(product_builds(lifecycle_dir(), product.slug))
    return BUILD_CHECKS | dict.fromkeys(tests, "A test of dbt's.")


class BuildConfig(Config):
    """How the build commands are run."""

    resume: bool = Field(
        False,
        description="Go on from the command that failed, in the workspace that it left.",
    )


def build_stage_asset(
    *, product: Product, stage: str, deps: Sequence[AssetDep | AssetKey]
) -> AssetsDefinition:
    """The asset of one stage of a product's build."""
    description, kinds = DESCRIPTIONS[stage]
    recipe = f"products/{product.folder}/{product.recipe}"
    key = AssetKey([product.slug, stage])

    def run(context: AssetExecutionContext, *, resumes: bool = False) -> Iterator[Event]:
        partition = partition_of(context)
        return execute(
            partial(run_stage, product, stage, partition, context.log, resumes=resumes),
            context,
            product.retries,
            stage,
        )

    def stage_asset(context: AssetExecutionContext) -> Iterator[Event]:
        yield from run(context)

    def build_asset(context: AssetExecutionContext, config: BuildConfig) -> Iterator[Event]:
        yield from run(context, resumes=config.resume)

    asset = multi_asset(
        name=f"{product.slug}__{stage}",
        specs=[
            AssetSpec(
                key=key,
                deps=deps,
                description="\n\n".join(filter(None, [product.description, description])),
                group_name=product.slug,
                owners=product.owners,
                tags={"product": product.slug, "lifecycle_stage": f"builds.{stage}"},
                kinds=kinds,
                metadata={
                    "product": MetadataValue.json(
                        # Whoever sees the UI sees this.
                        Redactor(product.env).data(
                            product.model_dump(mode="json", exclude_defaults=True)
                        )
                    ),
                    "recipe": MetadataValue.text(recipe),
                },
            )
        ],
        check_specs=check_specs(key, _build_checks(product)) if stage == "build" else (),
        partitions_def=build_partitions(product.slug),
        pool=f"build_{product.slug}",
    )
    return asset(build_asset if stage == "build" else stage_asset)
