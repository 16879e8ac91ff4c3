"""What Dagster remembers of schedules: whether somebody has switched one off, and its ticks."""

import time
from collections.abc import Collection, Mapping
from typing import Any

from dagster import DagsterInstance

# A partition set that no asset has: the schedules of products.yml, as `<location>/<name>`.
KNOWN = "schedules_of_products_yml"


def readdress(instance: DagsterInstance, sockets: Mapping[str, str]) -> None:
    """Has Dagster remember schedules and sensors as those of the locations on these sockets.

    The UI looks for ticks under the address at which a location is now, and that is another one
    each time.
    """
    for state in instance.all_instigator_state():
        repository = state.origin.repository_origin
        location: Any = repository.code_location_origin
        socket = sockets.get(location.location_name)
        if socket and getattr(location, "socket", socket) != socket:
            here = repository._replace(code_location_origin=location._replace(socket=socket))
            moved = state._replace(origin=state.origin._replace(repository_origin=here))
            # In this order, in which it is never unknown whether somebody has switched it off.
            instance.add_instigator_state(moved)
            instance.update_instigator_state(moved)  # Dagster notes only now whose state it is
            instance.delete_instigator_state(state.instigator_origin_id, state.selector_id)


def forget_removed(instance: DagsterInstance, schedules: Collection[str]) -> None:
    """Removes what Dagster remembers of schedules that products.yml had, and has no more.

    `schedules` are those that it has, as `<location>/<name>`. A team's own are left alone.
    """
    known = set(instance.get_dynamic_partitions(KNOWN))
    gone = known - set(schedules)
    for state in instance.all_instigator_state() if gone else ():
        location = state.origin.repository_origin.code_location_origin.location_name
        if f"{location}/{state.instigator_name}" in gone:
            identity = (state.instigator_origin_id, state.selector_id)
            instance.purge_ticks(*identity, before=time.time())
            instance.delete_instigator_state(*identity)
    for name in gone:
        instance.delete_dynamic_partition(KNOWN, name)
    if new := sorted(set(schedules) - known):
        instance.add_dynamic_partitions(KNOWN, new)
