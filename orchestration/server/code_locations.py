"""The code locations that are served, kept in step with products.yml and the other files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestration import OrchestrationError
from orchestration.catalog.checkout import PROJECT_ROOT, products_file
from orchestration.catalog.products import Product, read_products
from orchestration.generator.generate import generate, warnings
from orchestration.generator.render import LOCATIONS
from orchestration.server.code_server import CodeServer
from orchestration.server.forkserver import Forkserver
from orchestration.server.selection import Selection
from orchestration.server.service import Service
from orchestration.server.watch import Watch

# How much longer than the others a location may take to load before nobody waits for it any more,
# and how long they take as long as none of them has loaded.
PATIENCE_SECONDS = 1.0
COLD_PATIENCE_SECONDS = 30.0
LIKELY_LOAD_SECONDS = 4.0


class CodeLocations:
    """A code server for every location that is selected."""

    def __init__(
        self,
        *,
        root: Path,
        selection: Selection,
        watches: bool,
        folder: Path,
        forkserver: Forkserver,
        env: Mapping[str, str],
    ) -> None:
        self.products: Sequence[Product] = ()
        self.servers: dict[str, CodeServer] = {}
        """By the location's name."""
        self._leaving: list[CodeServer] = []
        self._root, self._selection, self._watches = root, selection, watches
        self._folder, self._forkserver, self._env = folder, forkserver, env
        self._watch = Watch(root)
        self._is_behind = False
        self._complaint = ""

    @property
    def are_settled(self) -> bool:
        """Whether something answers for each of them."""
        return all(server.is_settled for server in self.servers.values())

    @property
    def are_servable(self) -> bool:
        """Whether all of them answer that can be waited for."""
        servers = self.servers.values()
        usual = max(
            (server.load_seconds for server in servers if server.load_seconds is not None),
            default=LIKELY_LOAD_SECONDS,
        )
        patience = PATIENCE_SECONDS if self._forkserver.warm else COLD_PATIENCE_SECONDS
        return all(
            server.is_settled or server.loading_seconds > usual + patience for server in servers
        )

    @property
    def services(self) -> list[Service]:
        """All processes there are for them."""
        servers = [*self.servers.values(), *self._leaving]
        return [service for server in servers for service in server.services]

    @property
    def replaced(self) -> int:
        """How often a server has been replaced by another."""
        return sum(server.replaced for server in self.servers.values())

    def generate(self) -> None:
        """Brings the generated modules up to date with products.yml.

        Raises OrchestrationError where products.yml cannot be used.
        """
        self.products, changes = generate(self._root)
        for change in changes:
            print(f"{'generated' if change.new else 'removed'} {change.path}", flush=True)
        for warning in warnings(self.products, self._root):
            print(f"warning: {warning}", flush=True)

    def sync(self) -> None:
        """Starts the servers of new locations, and ends those of removed ones.

        Raises OrchestrationError where the selection has not what is to be served.
        """
        if not self._watches:
            self.products = read_products(products_file(self._root))
        wanted = [
            name
            for name in self._selection.locations(self.products)
            if (PROJECT_ROOT / LOCATIONS / f"{name}.py").exists()
        ]
        for name in [name for name in self.servers if name not in wanted]:
            server = self.servers.pop(name)
            server.end()
            self._leaving.append(server)
        for name in [name for name in wanted if name not in self.servers]:
            self.servers[name] = CodeServer(name, self._folder, self._forkserver, self._env)
            self.servers[name].load()

    def follow(self) -> None:
        """Brings what is served up to date with the files.

        A products.yml that cannot be used changes nothing.
        """
        try:
            sources = self._watches and self._watch.products_changed()
            generated = self._watch.workspace_changed()
            is_due = sources or generated or self._is_behind
            if is_due and self._watches:
                self.generate()
            if generated or self._watch.workspace_changed() or self._is_behind:
                self.sync()
            if is_due and self._complaint:
                print("Everything can be read again.", flush=True)
                self._is_behind, self._complaint = False, ""
            if self._watches:
                for name in self._watch.changed_locations(self.products):
                    if name in self.servers:
                        print(f"[{name}] reloading", flush=True)
                        self.servers[name].load()
        except (OrchestrationError, OSError) as error:
            # What the system refuses now it may do later; what is wrong in a file it never will.
            is_known = self._is_behind and self._complaint == str(error)
            self._is_behind, self._complaint = isinstance(error, OSError), str(error)
            if not is_known:
                print(f"{error}\nNothing was changed; everything goes on as it was.", flush=True)

    def attend(self) -> None:
        """Takes the next step with each; to be called again and again."""
        for server in [*self.servers.values(), *self._leaving]:
            server.attend()
        self._leaving = [server for server in self._leaving if server.services]

    def stop_loading(self) -> None:
        """Ends the servers that are not needed yet."""
        for server in self.servers.values():
            server.stop_loading()
