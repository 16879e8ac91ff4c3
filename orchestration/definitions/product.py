"""The assets of a product's build: plan, load, build, package."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dagster import (
    AssetDep,
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    AssetSpec,
    Definitions,
    LastPartitionMapping,
    MaterializeResult,
    MetadataValue,
    define_asset_job,
    get_dagster_logger,
    in_process_executor,
    multi_asset,
)

from orchestration import OrchestrationError
from orchestration.catalog.checkout import checkout_root, product_folder, templates_folder
from orchestration.catalog.ingest_templates import templates_of
from orchestration.catalog.names import STAGES, build_job
from orchestration.catalog.recipes import input_datasets
from orchestration.definitions.partitions import build_partitions
from orchestration.definitions.team import with_team_definitions
from orchestration.lifecycle.stages import Product, run_stage

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


def product_definitions(
    *,
    id: str,
    slug: str,
    build_command: str,
    path: str,
    recipe: str = "recipe.yml",
    description: str | None = None,
    owners: Sequence[str] = (),
    category: str | None = None,
    version_strategy: str | Mapping[str, Any] | None = None,
    python: str | None = None,
) -> Definitions:
    """The code location of one product: a group of four assets and the job that runs them.

    The arguments are the product's fields in products.yml. Nothing of the checkout is needed to
    load it; where the product's recipe can be read, `plan` depends on the ingest assets it names,
    and the definitions that the product's team keeps beside it are added.
    """
    entry = {name: value for name, value in locals().items() if value and name != "slug"}
    product = Product(id, slug, build_command, path, recipe, python)
    assets = [
        build_stage_asset(
            product=product,
            stage=stage,
            deps=_plan_deps(product) if upstream is None else [AssetKey([slug, upstream])],
            description=f"{description}\n\n{DESCRIPTIONS[stage][0]}"
            if description
            else DESCRIPTIONS[stage][0],
            owners=owners,
            metadata={
                "product": MetadataValue.json(json.loads(json.dumps(entry))),
                "recipe": MetadataValue.text(f"products/{path}/{recipe}"),
            },
        )
        for upstream, stage in zip([None, *STAGES], STAGES, strict=False)
    ]
    job = define_asset_job(
        build_job(slug),
        selection=assets,
        description=f"All four stages of {id}.",
        tags={"product": slug},
    )
    # The stages' work is done by processes of their own already.
    definitions = Definitions(assets=assets, jobs=[job], executor=in_process_executor)
    return with_team_definitions(definitions, product_folder(checkout_root(), path), slug)


def _plan_deps(product: Product) -> list[AssetDep]:
    root = checkout_root()
    recipe = product.recipe_file(root)
    if not recipe.is_file():
        return []
    try:
        datasets = input_datasets(recipe)
    except OrchestrationError as error:
        get_dagster_logger().warning(f"Product {product.id!r} loads without its inputs: {error}")
        return []
    return [
        AssetDep(AssetKey(["ingest", template]), partition_mapping=LastPartitionMapping())
        for template in templates_of(templates_folder(root), datasets)
    ]


def build_stage_asset(
    *,
    product: Product,
    stage: str,
    deps: Sequence[AssetDep | AssetKey],
    description: str,
    owners: Sequence[str],
    metadata: Mapping[str, Any],
) -> AssetsDefinition:
    """The asset of one stage of a product's build."""

    @multi_asset(
        name=f"{product.slug}__{stage}",
        specs=[
            AssetSpec(
                key=AssetKey([product.slug, stage]),
                deps=deps,
                description=description,
                group_name=product.slug,
                owners=owners,
                tags={"product": product.slug, "lifecycle_stage": f"builds.{stage}"},
                kinds=DESCRIPTIONS[stage][1],
                metadata=metadata,
            )
        ],
        partitions_def=build_partitions(product.slug),
        pool=f"build_{product.slug}",
    )
    def stage_asset(context: AssetExecutionContext) -> MaterializeResult[None]:
        return MaterializeResult(metadata=run_stage(context, product, stage))

    return stage_asset
