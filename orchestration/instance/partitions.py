"""Partition keys in the instance."""

from collections.abc import Iterable

from dagster import DagsterInstance

from orchestration.catalog.names import STARTER_KEYS, build_partition_set

# A partition set that no asset has: the products whose starter partitions were made already.
SEEDED = "products_with_starter_partitions"


def add_starter_partitions(instance: DagsterInstance, slugs: Iterable[str]) -> None:
    """Gives every product that is new to this instance its starter partitions.

    A product gets them once: one that somebody deletes stays deleted.
    """
    seeded = set(instance.get_dynamic_partitions(SEEDED))
    for slug in slugs:
        if slug not in seeded:
            instance.add_dynamic_partitions(build_partition_set(slug), STARTER_KEYS)
            instance.add_dynamic_partitions(SEEDED, [slug])
