"""The partition sets of builds and ingested versions."""

from dagster import DagsterInstance, DynamicPartitionsDefinition
from sqlalchemy.exc import IntegrityError

from orchestration.catalog.names import build_partition_set, ingest_partition_set


def build_partitions(slug: str) -> DynamicPartitionsDefinition:
    """The partition set of a product's builds."""
    return DynamicPartitionsDefinition(name=build_partition_set(slug))


def ingest_partitions(template_id: str) -> DynamicPartitionsDefinition:
    """The partition set of an ingest template's versions."""
    return DynamicPartitionsDefinition(name=ingest_partition_set(template_id))


def add_partition(instance: DagsterInstance, name: str, key: str) -> None:
    """Adds the key to a partition set, where nobody has done so already."""
    try:
        if not instance.has_dynamic_partition(name, key):
            instance.add_dynamic_partitions(name, [key])
    except IntegrityError:
        # Dagster looks first and adds then: somebody else has added it in between.
        if not instance.has_dynamic_partition(name, key):
            raise
