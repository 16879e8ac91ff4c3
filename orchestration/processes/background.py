"""Work that the supervisor has done beside everything else, in forks."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dagster import DagsterInstance

from orchestration import OrchestrationError
from orchestration.catalog.products import Product, ProductsFile
from orchestration.instance.deaths import note_death, note_deaths
from orchestration.instance.home import open_instance, wait_for_database
from orchestration.instance.partitions import add_starter_partitions
from orchestration.instance.schedules import forget_removed, readdress
from orchestration.lifecycle.environment import dcpy_python, problem_with_dcpy
from orchestration.lifecycle.results import lifecycle_dir
from orchestration.processes.forkserver import Forkserver, Process


class Background:
    """Starts such work, and knows what of it is not done yet."""

    def __init__(self, forkserver: Forkserver, env: Mapping[str, str]) -> None:
        self._forkserver, self._env = forkserver, env
        self._tasks: list[Process] = []

    def start(self, work: Callable[[], None]) -> Process:
        """Has a fork do it. Raises OSError where the system refuses a process."""
        task = self._forkserver.call(work, env=self._env, output=sys.stdout.fileno())
        self._tasks.append(task)
        return task

    def watch(self) -> None:
        """Forgets what is done."""
        self._tasks = [task for task in self._tasks if task.poll() is None]

    def stop(self) -> None:
        """Ends all of it."""
        for task in self._tasks:
            task.kill()


def create_instance(sockets: Mapping[str, str]) -> None:
    """Creates Dagster's database where there is none.

    Where there is one, has the runs fail that died with it, and its schedules be those of the
    locations on these sockets.
    """

    def work(instance: DagsterInstance) -> None:
        note_deaths(instance)
        readdress(instance, sockets)

    _with_instance(work)


def follow(file: ProductsFile) -> None:
    """Gives new products their starter partitions, and has removed schedules forgotten."""

    def work(instance: DagsterInstance) -> None:
        add_starter_partitions(instance, [product.slug for product in file.products])
        forget_removed(instance, file.schedules)

    _with_instance(work)


def _with_instance(work: Callable[[DagsterInstance], None]) -> None:
    try:
        wait_for_database()
        with open_instance(work):
            pass
    except OrchestrationError as error:
        sys.exit(str(error))


def fail_run(run_id: str, how: str) -> None:
    """Has the run fail whose process ended before it could say how the run went."""
    wait_for_database()
    with DagsterInstance.get() as instance:
        if run := instance.get_run_by_id(run_id):
            note_death(instance, run, how)


def warn_of_dcpy(products: Sequence[Product], root: Path) -> None:
    """Says which interpreter cannot run the checkout's dcpy, before a stage finds out."""
    users: dict[tuple[Path, bool], list[str]] = {dcpy_python(None): []}
    for product in products:
        users.setdefault(dcpy_python(product.python), []).append(product.id)
    for python, ids in users.items():
        problem = problem_with_dcpy(python, root=root, lifecycle=lifecycle_dir())
        if problem:
            whom = f"for {', '.join(ids)}" if python != dcpy_python(None) else "for the stages"
            print(f"warning: {whom}: {problem}", flush=True)
