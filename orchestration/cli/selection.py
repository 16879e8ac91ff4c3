"""What to materialize, as it is written on the command line."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from orchestration import OrchestrationError
from orchestration.catalog.checkout import product_folder, products_file, templates_folder
from orchestration.catalog.ingest_groups import SOURCE
from orchestration.catalog.ingest_templates import read_templates, templates_of
from orchestration.catalog.names import (
    INGEST,
    STAGES,
    STARTER_KEYS,
    build_partition_set,
    ingest_partition_set,
    inputs_job,
)
from orchestration.catalog.products import Product, read_products_file
from orchestration.catalog.recipes import recipe_inputs
from orchestration.code_servers.selection import Selection as ServedSelection
from orchestration.definitions.interpreter import Interpreter
from orchestration.lifecycle.results import build_folder, ingest_result, lifecycle_dir


@dataclass(frozen=True)
class Selection:
    """Assets of one location, in one partition set: what one run can materialize."""

    location: str
    assets: tuple[str, ...]
    """The second parts of their keys: stages in their order, or a template's id."""
    partition_set: str

    @property
    def is_whole(self) -> bool:
        """Whether it is a product with all its stages."""
        return self.assets == STAGES

    @property
    def name(self) -> str:
        """What it is called on the command line."""
        return self.location if self.is_whole else f"{self.location}/{'+'.join(self.assets)}"


class Catalog:
    """The products and templates of a checkout, to select from."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._templates = templates_folder(root)
        file = read_products_file(products_file(root))
        self.products: Sequence[Product] = file.products
        self._groups = file.ingest.groups

    def interpreter(self, location: str) -> Interpreter | None:
        """The interpreter that a location has for itself, if it has one."""
        found = (Interpreter.of(p, self._root) for p in self.products if p.slug == location)
        return next(found, None)

    @cached_property
    def template_ids(self) -> list[str]:
        """The ids of all ingest templates."""
        return sorted(path.stem for path in self._templates.glob("[!.]*.yml"))

    @property
    def owners(self) -> list[str]:
        """The owners of products; a team by its name alone, as the UI shows it."""
        owners = {owner for product in self.products for owner in product.owners}
        return sorted(owner.removeprefix("team:") for owner in owners)

    @property
    def group_slugs(self) -> list[str]:
        """The groups of templates of products.yml."""
        return [group.slug for group in self._groups]

    def partitions(self, names: Iterable[str]) -> list[str]:
        """Those of what is called so that have results, or are there from the start."""
        found: set[str] = set()
        for name in names:
            with suppress(OrchestrationError):
                selection = self.select(name)
                is_ingest = selection.location == INGEST
                place = ingest_result if is_ingest else build_folder
                of = selection.assets[0] if is_ingest else selection.location
                found.update(() if is_ingest else STARTER_KEYS)
                found.update(each.name for each in place(lifecycle_dir(), of, "").glob("[!.]*"))
        return sorted(found)

    def select(self, text: str) -> Selection:
        """Reads `<product>`, `<product>/<stage>` or `ingest/<template id>`.

        A product is named by slug or id. Raises OrchestrationError where there is no such thing.
        """
        for product in self.products:
            for name in (product.id, product.slug):
                if text == name:
                    return _stages(product.slug, STAGES)
                if text.startswith(f"{name}/") and text[len(name) + 1 :] in STAGES:
                    return _stages(product.slug, (text[len(name) + 1 :],))
        location, _, template = text.partition("/")
        if location == INGEST and template:
            if template in self.template_ids:
                return _template(template)
            close = _close(template, self.template_ids)
            hint = f" Did you mean ingest/{close}?" if close else ""
            raise OrchestrationError(f"There is no asset {text}.{hint}")
        raise OrchestrationError(
            f"There is nothing called {text!r}.{self._hint(text)} It can be a product, one of its "
            "stages, or ingest/<template id>. The products: "
            f"{', '.join(product.slug for product in self.products)}."
        )

    def _hint(self, text: str) -> str:
        names = {p.id for p in self.products} | {p.slug for p in self.products}
        name, slash, stage = text.partition("/")
        if text in self.template_ids:
            return f" Did you mean {INGEST}/{text}?"
        if name not in names:
            close = _close(name, names) or ""
            if not close and not slash and (close := _close(text, self.template_ids) or ""):
                close = f"{INGEST}/{close}"
        else:
            close = name
        if close and slash and stage not in STAGES:
            close = f"{close}/{found}" if (found := _close(stage, STAGES)) else ""
        elif close and slash:
            close = f"{close}/{stage}"
        return f" Did you mean {close}?" if close else ""

    def choose(
        self,
        names: Sequence[str] = (),
        *,
        everything: bool = False,
        owners: Sequence[str] = (),
        groups: Sequence[str] = (),
    ) -> list[Selection]:
        """All that is selected in one way or another, ingest templates first, nothing twice.

        Raises OrchestrationError for what there is not, and where nothing is selected.
        """
        found = [self.select(name) for name in names]
        if everything:
            found += self.all_products()
        if owners:
            found += self.owned_by(owners)
        for group in groups:
            found += self.group(group)
        if not found:
            raise OrchestrationError(
                "Nothing is selected. Name products, stages or ingest templates before the "
                "partition, or use --all, --owner or --group."
            )
        return _merged(found)

    def all_products(self) -> list[Selection]:
        """Every product, each with all its stages."""
        return [_stages(product.slug, STAGES) for product in self.products]

    def owned_by(self, owners: Sequence[str]) -> list[Selection]:
        """The products of these owners. Raises OrchestrationError where one of them has none."""
        slugs = ServedSelection([], owners).locations(self.products)
        return [_stages(slug, STAGES) for slug in slugs]

    def group(self, name: str) -> list[Selection]:
        """The assets of a group: a product's, all ingest templates, or a group of products.yml.

        Raises OrchestrationError where there is no such group.
        """
        if name == INGEST:
            return [_template(template) for template in self.template_ids]
        for product in self.products:
            if name in (product.id, product.slug):
                return [_stages(product.slug, STAGES)]
        own = [group for group in self._groups if name in (group.name, group.slug)]
        if own:
            return [_template(template) for template in own[0].members(self.template_ids)]
        groups = [INGEST, *(product.slug for product in self.products)]
        groups += [group.name for group in self._groups]
        close = _close(name, groups)
        raise OrchestrationError(
            f"There is no group {name!r}."
            + (f" Did you mean {close}?" if close else f" There are: {', '.join(groups)}.")
        )

    def template(self, name: str) -> Selection:
        """The asset of an ingest template that there is."""
        return _template(name)

    def inputs(self, products: Iterable[str]) -> Iterator[tuple[str, list[str], str]]:
        """What each product takes in: the job that ingests it, the templates, and the version.

        Raises OrchestrationError where there is no such product, or nothing that it takes in.
        """
        for name in products:
            selection = self.select(name)
            if selection.location == INGEST:
                raise OrchestrationError(f"{name} is no product.")
            templates = sorted(self.upstream(replace(selection, assets=STAGES)))
            if not templates:
                raise OrchestrationError(f"{name} takes in nothing that is ingested here.")
            yield inputs_job(selection.location), templates, SOURCE

    def ingest_groups(self, names: Iterable[str]) -> Iterator[tuple[str, list[str], str]]:
        """What belongs to each group of products.yml, as of `inputs`.

        Raises OrchestrationError where there is no such group.
        """
        for name in names:
            found = next((g for g in self._groups if name in (g.name, g.slug)), None)
            if not found:
                known = ", ".join(group.name for group in self._groups) or "none"
                raise OrchestrationError(
                    f"There is no ingest group {name!r} in products.yml. There are: {known}."
                )
            members = found.members(self.template_ids)
            if not members:
                raise OrchestrationError(
                    f"There is no template in the ingest group {name!r}, which is of "
                    f"{', '.join(found.templates)}. Mend its `templates` in products.yml."
                )
            yield found.job, members, found.version

    def upstream(self, selection: Selection) -> set[str]:
        """The ids of the templates whose data the selected assets take in."""
        if selection.location == INGEST:
            [name] = selection.assets
            for template in read_templates(self._templates):
                if template.id == name:
                    return set(template.depends_on)
            return set()
        if STAGES[0] not in selection.assets:
            return set()
        [product] = [each for each in self.products if each.slug == selection.location]
        recipe = product_folder(self._root, product.folder) / product.recipe
        try:
            return set(templates_of(self._templates, recipe_inputs(recipe).datasets).values())
        except OrchestrationError:
            # Its plan will say so.
            return set()


def _merged(selections: Iterable[Selection]) -> list[Selection]:
    found: dict[str, Selection] = {}
    for selection in selections:
        before = found.get(selection.partition_set)
        assets = {*selection.assets, *(before.assets if before else ())}
        if selection.location != INGEST:
            ordered = tuple(stage for stage in STAGES if stage in assets)
            selection = replace(selection, assets=ordered)
        found[selection.partition_set] = selection
    return sorted(found.values(), key=lambda selection: selection.location != INGEST)


def _stages(slug: str, stages: tuple[str, ...]) -> Selection:
    return Selection(slug, stages, build_partition_set(slug))


def _template(template: str) -> Selection:
    return Selection(INGEST, (template,), ingest_partition_set(template))


def _close(name: str, names: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, names, n=1)), None)
