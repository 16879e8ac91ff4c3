"""What can go of results, runs and partition keys, and its removal."""

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg2
from dagster import (
    AssetKey,
    AssetRecordsFilter,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    RunsFilter,
)

from orchestration import OrchestrationError
from orchestration.catalog.checkout import product_folder, templates_folder
from orchestration.catalog.ingest_templates import read_templates, templates_of
from orchestration.catalog.names import (
    INGEST,
    PARTITION_TAG,
    REPOSITORY_TAG,
    STARTER_KEYS,
    build_partition_set,
    ingest_partition_set,
)
from orchestration.catalog.products import Product
from orchestration.catalog.recipes import locked_versions, recipe_inputs
from orchestration.catalog.retention import Retention
from orchestration.instance.database import compact, delete_runs
from orchestration.lifecycle.cleaning import (
    BUILDS,
    INGESTS,
    Found,
    Result,
    remove_set_aside,
    results,
    set_aside,
    superfluous,
)
from orchestration.lifecycle.environment import product_environment
from orchestration.lifecycle.results import LOCK_FILE, deciding, locked, locked_if_free
from orchestration.lifecycle.schemas import Schema, drop, dsn_of, reason, schemas_in

FINISHED = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
# One that has not been queued for so long could not be, and never will be by itself.
QUEUED_WITHIN_SECONDS = 3600.0
NEVER_QUEUED = [DagsterRunStatus.NOT_STARTED]
BEGUN = [status for status in DagsterRunStatus if status not in (*FINISHED, *NEVER_QUEUED)]
BATCH = 500


@dataclass(frozen=True)
class Cleaning:
    """What can go."""

    found: Sequence[Found] = ()
    runs: Sequence[str] = field(default=(), repr=False)
    """Ids."""
    schemas: Sequence[Schema] = ()
    """Of builds that are no more."""
    problems: list[str] = field(default_factory=list)
    """What could not be looked at, or not removed, a sentence each."""


class Cleaner:
    """Finds what can go by a retention, and removes it.

    `products` are those of the checkout at `root`.
    """

    def __init__(
        self,
        instance: DagsterInstance,
        retention: Retention,
        *,
        lifecycle: Path,
        root: Path,
        products: Sequence[Product],
        now: float,
    ) -> None:
        self._instance, self._retention, self._now = instance, retention, now
        self._lifecycle, self._root, self._products = lifecycle, root, products

    def find(self) -> Cleaning:
        """What there is to remove."""
        return self._with(self._found(), [])

    def _found(self) -> list[Found]:
        found = superfluous(self._lifecycle, self._retention, now=self._now, in_use=self._in_use())
        gone = {each.result for each in found if each.is_whole}
        gone -= self._pinned(gone)
        return [each for each in found if not each.is_whole or each.result in gone]

    def _with(self, found: Sequence[Found], problems: Sequence[str]) -> Cleaning:
        """These, and what goes with them."""
        gone = {each.result for each in found if each.is_whole}
        schemas, unknown = self._schemas(gone)
        return Cleaning(found, self._old_runs(gone), schemas, [*problems, *unknown])

    def remove(self) -> Cleaning:
        """Removes it, and what a cleaning has left that was ended before it was done."""
        with locked(self._lifecycle / "cleaning", waiting=lambda: None):
            remove_set_aside(self._lifecycle, self._forget)
            with deciding(self._lifecycle):
                cleaning = self._with(*self._set_aside(self._found()))
            cleaning.problems.extend(remove_set_aside(self._lifecycle, self._forget))
            dropped = []
            for schema in cleaning.schemas:
                try:
                    if self._drop(schema):
                        dropped.append(schema)
                except psycopg2.Error as error:
                    problem = f"The schema {schema.name} in {schema.place} stays: {reason(error)}"
                    cleaning.problems.append(problem)
            self._forget_what_was_never_made(cleaning.runs)
            delete_runs(self._instance, cleaning.runs)
            self._purge_ticks()
            compact(self._instance)
        return replace(cleaning, schemas=dropped)

    def _set_aside(self, found: Sequence[Found]) -> tuple[list[Found], list[str]]:
        """Those that could be, and why others could not."""
        done: list[Found] = []
        problems: list[str] = []
        for each in found:
            try:
                if set_aside(each, self._lifecycle):
                    done.append(each)
            except OSError as error:
                problems.append(f"{each.path} stays: it cannot be moved: {error.strerror}")
        return done, problems

    def _schemas(self, gone: Collection[Result]) -> tuple[list[Schema], list[str]]:
        """The schemas of builds that are no more, or are going, and where that is not known."""
        base = dict(os.environ)
        addresses = {dsn_of(base)}
        for product in self._products:
            with suppress(OrchestrationError):
                addresses.add(dsn_of(base | product_environment(product, self._root)[0]))
        found: list[Schema] = []
        problems: list[str] = []
        for dsn in sorted(filter(None, addresses)):
            try:
                known = schemas_in(dsn, self._lifecycle)
            except psycopg2.Error as error:
                place = dsn.rpartition("@")[2]
                problems.append(f"The schemas in {place} cannot be looked at: {reason(error)}")
                continue
            for schema in known:
                build = Result(BUILDS, schema.product, schema.partition)
                if build in gone or not build.path(self._lifecycle).exists():
                    found.append(schema)
        return found, problems

    def _drop(self, schema: Schema) -> bool:
        """Drops it; False where a build is at it, or there again."""
        path = Result(BUILDS, schema.product, schema.partition).path(self._lifecycle)
        with locked_if_free(path) as is_free:
            is_nobodys = is_free and not path.exists()
            if is_nobodys:
                drop(schema)
        return is_nobodys

    def _forget(self, result: Result) -> None:
        if not any(_concerns(run, result) for run in self._unfinished()):
            self._instance.delete_dynamic_partition(_partition_set(result), result.key)

    def _forget_what_was_never_made(self, run_ids: Sequence[str]) -> None:
        """The partition keys of which these runs, which are to go, are all that there is."""
        for start in range(0, len(run_ids), BATCH):
            batch = RunsFilter(run_ids=run_ids[start : start + BATCH])
            for result in set().union(*map(_results_of, self._instance.get_runs(batch))):
                if result.key in STARTER_KEYS or result.path(self._lifecycle).exists():
                    continue
                runs = self._instance.get_runs(RunsFilter(tags={PARTITION_TAG: result.key}))
                if {run.run_id for run in runs if _concerns(run, result)} <= {*run_ids}:
                    self._instance.delete_dynamic_partition(_partition_set(result), result.key)

    def _unfinished(self) -> list[DagsterRun]:
        """The runs that go on, or wait for their turn."""
        since = datetime.fromtimestamp(self._now - QUEUED_WITHIN_SECONDS, UTC)
        new = RunsFilter(statuses=NEVER_QUEUED, created_after=since)
        begun = RunsFilter(statuses=BEGUN)
        return [*self._instance.get_runs(begun), *self._instance.get_runs(new)]

    def _in_use(self) -> set[Result]:
        """What a run works on, waits for, or takes in."""
        everything = results(self._lifecycle)
        unfinished = self._unfinished()
        busy = {each for each in everything if any(_concerns(run, each) for run in unfinished)}
        busy |= {each for each in everything if _is_locked(each, self._lifecycle)}
        working = {(each.kind, each.name) for each in busy}
        # Of one that has left nothing so far, the run alone tells.
        for run in unfinished:
            working |= {_of_asset(key) for key in run.asset_selection or ()}
            working.add((BUILDS, _location(run)))
        inputs = set(self._inputs(working))
        return busy | {each for each in everything if (each.kind, each.name) in inputs}

    def _inputs(self, working: Collection[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        templates = templates_folder(self._root)
        for product in self._products:
            if (BUILDS, product.slug) in working:
                try:
                    datasets = recipe_inputs(self._recipe(product)).datasets
                    for name in templates_of(templates, datasets).values():
                        yield INGESTS, name
                except OrchestrationError:
                    # What cannot be read takes nothing in.
                    continue
        if any(kind == INGESTS for kind, _ in working):
            for template in read_templates(templates):
                if (INGESTS, template.id) in working:
                    yield from ((INGESTS, other) for other in template.depends_on)

    def _pinned(self, gone: Collection[Result]) -> set[Result]:
        """The input versions that recipes name, or the lock files of builds that are not to go."""
        pinned: set[tuple[str, str]] = set()
        for product in self._products:
            # What cannot be read takes nothing in.
            with suppress(OrchestrationError):
                pinned |= recipe_inputs(self._recipe(product)).pinned
        for build in results(self._lifecycle):
            if build.kind == BUILDS and build not in gone:
                for lock in build.path(self._lifecycle).glob(f"*/{LOCK_FILE}"):
                    with suppress(OrchestrationError):
                        pinned |= locked_versions(lock)
        templates = templates_of(templates_folder(self._root), {name for name, _ in pinned})
        return {
            Result(INGESTS, templates[name], version)
            for name, version in pinned
            if name in templates
        }

    def _recipe(self, product: Product) -> Path:
        return product_folder(self._root, product.folder) / product.recipe

    def _old_runs(self, gone: Collection[Result]) -> list[str]:
        """The runs that are old, and none of which is the last to have made what stays."""
        age = self._retention.older_than
        old = [
            *self._ids(FINISHED, age),
            *self._ids(NEVER_QUEUED, max(age, QUEUED_WITHIN_SECONDS)),
        ]
        if not old:
            return []
        kept = set(self._makers(gone))
        return [run_id for run_id in old if run_id not in kept]

    def _ids(self, statuses: Sequence[DagsterRunStatus], age: float) -> Sequence[str]:
        # There is no year before the first, and no run of before 1970.
        before = datetime.fromtimestamp(max(self._now - age, 0.0), UTC)
        return self._instance.get_run_ids(RunsFilter(statuses=statuses, created_before=before))

    def _makers(self, gone: Collection[Result]) -> Iterator[str]:
        """The runs that have made what there is of each asset and partition."""
        kind = DagsterEventType.ASSET_MATERIALIZATION
        for record in self._instance.get_asset_records():
            entry = record.asset_entry
            if entry.last_run_id:
                yield entry.last_run_id
            ids = self._instance.get_latest_storage_id_by_partition(entry.asset_key, kind)
            own = _of_asset(entry.asset_key)
            known = self._keys(own)
            wanted = [
                storage_id
                for key, storage_id in ids.items()
                if known is None or (key in known and Result(*own, key) not in gone)
            ]
            for start in range(0, len(wanted), BATCH):
                batch = wanted[start : start + BATCH]
                chosen = AssetRecordsFilter(asset_key=entry.asset_key, storage_ids=batch)
                for made in self._instance.fetch_materializations(chosen, limit=BATCH).records:
                    yield made.run_id

    def _keys(self, asset: tuple[str, str]) -> set[str] | None:
        """The partition keys of an ingest or a stage; None of anything else."""
        slugs = {product.slug for product in self._products}
        if asset[0] == INGESTS or asset[1] in slugs:
            return set(self._instance.get_dynamic_partitions(_partition_set(Result(*asset, ""))))
        return None

    def _purge_ticks(self) -> None:
        before = self._now - self._retention.older_than
        for state in self._instance.all_instigator_state():
            self._instance.purge_ticks(state.instigator_origin_id, state.selector_id, before)


def _of_asset(key: AssetKey) -> tuple[str, str]:
    """Kind and name of the results that materializations of the asset are."""
    first, last = key.path[0], key.path[-1]
    return (INGESTS, last) if first == INGEST else (BUILDS, first)


def _location(run: DagsterRun) -> str:
    # What a server has launched has no such tag, but in the database's table of tags.
    if run.remote_job_origin:
        return run.remote_job_origin.location_name
    return run.tags.get(REPOSITORY_TAG, "").rpartition("@")[2]


def _results_of(run: DagsterRun) -> set[Result]:
    """What the run was to make."""
    key = run.tags.get(PARTITION_TAG)
    if key is None:
        return set()
    if run.asset_selection:
        return {Result(*_of_asset(asset), key) for asset in run.asset_selection}
    return {Result(BUILDS, _location(run), key)}


def _concerns(run: DagsterRun, result: Result) -> bool:
    key = run.tags.get(PARTITION_TAG)
    if key is not None and key != result.key:
        return False
    if run.asset_selection:
        return (result.kind, result.name) in map(_of_asset, run.asset_selection)
    return _location(run) == (INGEST if result.kind == INGESTS else result.name)


def _is_locked(result: Result, lifecycle: Path) -> bool:
    with locked_if_free(result.path(lifecycle)) as is_free:
        return not is_free


def _partition_set(result: Result) -> str:
    name = ingest_partition_set if result.kind == INGESTS else build_partition_set
    return name(result.name)
