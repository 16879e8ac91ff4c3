"""What is to be served: products.yml, and the locations that are generated from it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestration import OrchestrationError
from orchestration.catalog.checkout import PROJECT_ROOT, product_folder, products_file
from orchestration.catalog.deployment import Address, deployment_path, read_deployment
from orchestration.catalog.names import OPERATIONS, TEAM_FILE
from orchestration.catalog.notify import is_anybody_told
from orchestration.catalog.products import Product, ProductsFile, read_products_file
from orchestration.code_servers.selection import Selection
from orchestration.code_servers.watch import Watch
from orchestration.definitions.interpreter import Interpreter
from orchestration.generator.generate import generate, warnings
from orchestration.generator.render import LOCATIONS
from orchestration.instance.home import POSTGRES_VARIABLE, has_postgres


class Sources:
    """The files as they are now, the generated ones kept up to date with the others."""

    def __init__(
        self,
        root: Path,
        selection: Selection,
        *,
        watches: bool,
        deployment: Path | None,
        host_name: str | None,
    ) -> None:
        """`deployment` is the file that says where what is served, if not the checkout's.

        `host_name` is the host whose locations are to be served; None where Dagster itself is.
        """
        self.file = ProductsFile(products=())
        """What products.yml says."""
        self._products: dict[str, Product] = {}
        self.names: Sequence[str] = ()
        """The locations to serve."""
        self.listening: Mapping[str, Address] = {}
        """Those of them that are served to other hosts, and where."""
        self.elsewhere: Mapping[str, Address] = {}
        """Those of them that other hosts serve."""
        self.files = Watch(root, deployment_path(root, deployment))
        self._deployment, self._host_name = deployment, host_name
        self._root, self._selection, self._watches = root, selection, watches
        self._is_behind = False
        self._complaint = ""

    def load(self) -> None:
        """Generates the locations, and finds out which are to be served.

        Raises OrchestrationError where products.yml cannot be used, or has not what is selected.
        """
        self._generate()
        self.watch()
        self._select()

    def _generate(self) -> None:
        file, changes = generate(self._root, deployment=self._deployment)
        self._take(file)
        for change in changes:
            print(f"{'generated' if change.new else 'removed'} {change.path}", flush=True)
        for warning in warnings(file, self._root):
            print(f"warning: {warning}", flush=True)

    def _take(self, file: ProductsFile) -> None:
        self.file = file
        self._products = {product.slug: product for product in file.products}
        self.files.take(file.products)

    def _select(self) -> None:
        if not self._watches:
            self._take(read_products_file(products_file(self._root)))
        more = [OPERATIONS] if is_anybody_told(self.file.notify) else []
        deployment = read_deployment(self._root, self._deployment, self.file.products)
        if deployment.addresses and not has_postgres():
            raise OrchestrationError(
                f"{deployment_path(self._root, self._deployment)} names other hosts, which need a "
                f"database that all of them reach: set {POSTGRES_VARIABLE}."
            )
        names = [
            name
            for name in [*self._selection.locations(self.file.products), *more]
            if (PROJECT_ROOT / LOCATIONS / f"{name}.py").exists()
        ]
        if self._host_name:
            self.listening = deployment.on(self._host_name)
            names = [name for name in names if name in self.listening]
        else:
            self.elsewhere = deployment.addresses
        self.names = names

    def memory_limit(self, name: str) -> int | None:
        """How many MB a location may take, if there is a limit."""
        product = self._products.get(name)
        return product.memory_limit_mb if product else None

    def interpreter(self, name: str) -> Interpreter | None:
        """The interpreter that a location has for itself, if it has one."""
        product = self._products.get(name)
        return Interpreter.of(product, self._root) if product else None

    def has_definitions(self, name: str) -> bool:
        """Whether the team of a location's product defines something of its own."""
        product = self._products.get(name)
        return bool(product and (product_folder(self._root, product.folder) / TEAM_FILE).is_file())

    def watch(self) -> set[str]:
        """Follows the files, and gives the locations that would load differently now.

        A products.yml that cannot be used changes nothing.
        """
        self.files.look()
        try:
            sources = self._watches and self.files.products_changed()
            generated = self.files.generated_changed()
            is_due = sources or generated or self._is_behind
            if is_due and self._watches:
                self._generate()
                self.files.look_at_all()
            if generated or (is_due and self.files.generated_changed()) or self._is_behind:
                self._select()
            if is_due and self._complaint:
                print("Everything can be read again.", flush=True)
                self._is_behind, self._complaint = False, ""
            return self.files.changed_locations() if self._watches else set()
        # Whatever it is that a file holds: it must not end what is served.
        except Exception as error:
            is_expected = isinstance(error, OrchestrationError | OSError)
            complaint = str(error) if is_expected else f"{type(error).__name__}: {error}"
            # What the system refuses now it may do later; what is wrong in a file it never will.
            is_known = self._is_behind and self._complaint == complaint
            self._is_behind, self._complaint = isinstance(error, OSError), complaint
            if not is_known:
                print(
                    f"{complaint}\nNothing was changed; everything goes on as it was.", flush=True
                )
            return set()
