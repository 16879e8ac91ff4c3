"""Code locations as Dagster serves them itself: webserver and daemon start a server for each.

For `--cold`, and where a release of Dagster has moved a private name that `up` uses otherwise.
"""

import time
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

from orchestration import OrchestrationError
from orchestration.catalog.checkout import PROJECT_ROOT
from orchestration.code_servers.sources import Sources
from orchestration.processes.control import Caller, Request
from orchestration.processes.service import Service
from orchestration.server.graphql import query

LOOK_SECONDS = 1.0
RELOAD = """
mutation Reload($name: String!) {
  reloadRepositoryLocation(repositoryLocationName: $name) { __typename }
}
"""


class StockLocations:
    """Knows which there are, and has Dagster reload what has changed."""

    services: tuple[Service, ...] = ()
    broken: tuple[str, ...] = ()
    sockets: Mapping[str, str] = MappingProxyType({})
    """Where each is asked for; Dagster does not say."""
    are_served = are_answered = True
    is_waiting = False

    def __init__(
        self,
        sources: Sources,
        *,
        on_change: Callable[[], None],
        reload: Callable[[Collection[str]], None],
    ) -> None:
        """`on_change` is called where other locations than before are to be served."""
        self._sources, self._on_change, self._reload = sources, on_change, reload
        self._names: list[str] = []
        self._changed: set[str] = set()
        self._looked = time.monotonic()

    @property
    def entries(self) -> list[dict[str, object]]:
        """What Dagster's workspace file says of them, as the project's own does."""
        return [
            {"grpc_server": {"location_name": name, "host": address.host, "port": address.port}}
            if (address := self._sources.elsewhere.get(name))
            else {
                "python_module": {
                    "module_name": f"orchestration.locations.{name}",
                    "location_name": name,
                    "working_directory": str(PROJECT_ROOT),
                    **self._executable(name),
                }
            }
            for name in self._sources.names
        ]

    def elsewhere(self, _name: str) -> dict[str, str]:
        """Nothing: Dagster itself asks whoever serves it."""
        return {}

    def environment(self, name: str, env: Mapping[str, str]) -> Mapping[str, str]:
        """The variables of a process that runs what the location defines; others are in `env`."""
        interpreter = self._sources.interpreter(name)
        return interpreter.environment(env) if interpreter else env

    def _executable(self, name: str) -> dict[str, str]:
        interpreter = self._sources.interpreter(name)
        return {"executable_path": str(interpreter.path)} if interpreter else {}

    def start(self) -> None:
        """Has them written down."""
        self._on_change()
        self._names = list(self._sources.names)

    def watch(self) -> None:
        """Follows the files; to be called again and again."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        # What the system refuses now is done when it is asked for again.
        self._changed |= self._sources.watch()
        if self._names != list(self._sources.names):
            self._on_change()
            self._reload(())
            self._names = list(self._sources.names)
        elif changed := self._changed & set(self._names):
            self._reload(changed)
        self._changed.clear()

    def handle(self, request: Request, caller: Caller) -> None:
        """Refuses what only a broker can ask for."""
        caller.answer(error=f"not understood: {request}")

    def end_broker(self) -> None:
        """Nothing: there is none."""

    def stop(self) -> None:
        """Nothing: Dagster's processes end their servers."""


def reload_locations(url: str, names: Collection[str]) -> None:
    """Has the webserver load these locations anew; without any, its whole workspace."""
    try:
        for name in names:
            query(url, RELOAD, {"name": name})
        if not names:
            query(url, "mutation { reloadWorkspace { __typename } }")
    except OrchestrationError as error:
        print(f"The webserver has not reloaded: {error.__cause__ or error}", flush=True)
