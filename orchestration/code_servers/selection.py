"""The part of the locations that a team serves."""

import difflib
from collections.abc import Sequence

from orchestration import OrchestrationError
from orchestration.catalog.names import location_names
from orchestration.catalog.products import Product


class Selection:
    """Which locations a team serves: those named, and those of the products with an owner named.

    Nothing named means all.
    """

    def __init__(self, names: Sequence[str], owners: Sequence[str]) -> None:
        self._names, self._owners = list(names), list(owners)

    def locations(self, products: Sequence[Product]) -> list[str]:
        """The names of the locations to serve.

        Raises OrchestrationError for a name or an owner that there is not.
        """
        everything = location_names([product.slug for product in products])
        if not self._names and not self._owners:
            return everything
        slugs = {product.id: product.slug for product in products}
        names = [slugs.get(name, name) for name in self._names]
        if unknown := [name for name in names if name not in everything]:
            close = difflib.get_close_matches(unknown[0], everything, n=1)
            raise OrchestrationError(
                f"--only names no location: {', '.join(unknown)}. "
                + (f"Did you mean {close[0]}? " if close else "")
                + f"There are: {', '.join(everything)}."
            )
        wanted = set(self.owners(products))
        owned = {p.slug for p in products if set(p.owners) & wanted}
        return [name for name in everything if name in names or name in owned]

    def owners(self, products: Sequence[Product]) -> list[str]:
        """The owners named, as the products have them.

        Raises OrchestrationError for one who owns none of these.
        """
        owners = {owner for product in products for owner in product.owners}
        # A team's name alone is what the UI shows.
        wanted = {f"team:{o}" if f"team:{o}" in owners else o for o in self._owners}
        if unknown := sorted(wanted - owners):
            raise OrchestrationError(
                f"--owner names nobody who owns a product: {', '.join(unknown)}. "
                f"There are: {', '.join(sorted(owners)) or 'none'}."
            )
        return sorted(wanted)
