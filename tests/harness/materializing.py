"""Materializing assets in the test's own process, or in a fork of it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from dagster import AssetKey, AssetsDefinition, DagsterInstance, materialize

from orchestration.catalog.retries import Retries
from orchestration.cli.main import main
from orchestration.definitions.product import product_definitions


def failure_of(
    assets: Sequence[AssetsDefinition], partition: str, config: Mapping[str, Any] | None = None
) -> str | None:
    """What the failure of the assets' run says; None if they are materialized.

    The config is that of the first asset.
    """
    name = assets[0].partitions_def.name  # type: ignore[union-attr]
    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(name, [partition])
        result = materialize(
            assets,
            instance=instance,
            partition_key=partition,
            raise_on_error=False,
            run_config={"ops": {assets[0].op.name: {"config": config}}} if config else None,
        )
    for event in result.get_step_failure_events():
        said = event.step_failure_data.user_failure_data
        assert said and said.description, event.step_failure_data.error
        return said.description
    return None


def own_product(*stages: str) -> list[AssetsDefinition]:
    """Stages of a product `own product`, whose folder is `own`."""
    definitions = product_definitions(id="own product", build_command="true", path="own")
    return [definitions.get_assets_def(AssetKey(["own_product", stage])) for stage in stages]


@contextmanager
def without_retries() -> Iterator[None]:
    """Where what fails has failed, and is not waited for. Not for two threads at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Retries, "times", lambda self, stage: 0)
        yield


def tried_once(arguments: Sequence[str]) -> int:
    """The command line without retries; for a fork."""
    with without_retries():
        return main(arguments)
