"""The partition sets of builds and ingested versions."""

from dagster import DynamicPartitionsDefinition

from orchestration.catalog.names import build_partition_set, ingest_partition_set


def build_partitions(slug: str) -> DynamicPartitionsDefinition:
    """The partition set of a product's builds."""
    return DynamicPartitionsDefinition(name=build_partition_set(slug))


def ingest_partitions(template_id: str) -> DynamicPartitionsDefinition:
    """The partition set of an ingest template's versions."""
    return DynamicPartitionsDefinition(name=ingest_partition_set(template_id))
