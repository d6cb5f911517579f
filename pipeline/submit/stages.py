"""The stages of a job on the cluster: several at a time, each stored when it ends, and none whose result is stored."""

import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from flowvae.errors import InputError
from pipeline.distributed.storage import Storage
from pipeline.dvc_internals import DvcException, Repo, lock_repo, open_repo
from pipeline.submit.entries import check_outputs, inputs_key, load, load_with, read_entry
from pipeline.submit.outputs import DATA_STAGES, check_files
from pipeline.submit.request import Request
from pipeline.submit.results import cache_of, take, write_manifest
from pipeline.submit.store import Store
from pipeline.workflow.children import Children, child_processes
from pipeline.workflow.graph import StageGraph
from pipeline.workflow.order import run_in_order

ONE_AT_A_TIME = threading.Lock()  # of the threads of this process that use DVC


def run_stages(uri: str, name: str, request: Request, limit: Callable[[], int] | None) -> list[str]:
    """Run the stages of a job in the working folder; those that wait for nothing run side by side.

    Args:
        uri: FLOWVAE_STORAGE.
        name: of the job.
        request: what the job was asked for.
        limit: the number of stages at a time, which may change; None: as many as this machine has cores.

    Returns:
        One line per problem.

    Raises:
        StorageError: the storage failed.
    """
    graph = StageGraph(request.stages)
    pool = ThreadPoolExecutor(len(graph.dependencies))
    with pool, child_processes(graph.width, None) as (children, num_local):
        stages = Stages(Store(uri), request, request.results(uri, name), children, pool)
        blocked = run_in_order(
            graph, stages.start, stages.succeeded, stages.skip, limit or (lambda: num_local), on_success=stages.record
        )
    if blocked:
        stages.problems.append(f"not run, because a dependency failed: {', '.join(blocked)}")
    stages.write(ended=True)
    return stages.problems


class Stages:
    """The stages of a job, and what the job has done so far.

    Args:
        store: of the results of stages.
        request: what the job was asked for.
        results: the job's folder in storage.
        children: run the DVC commands.
        pool: whose threads wait for them.
    """

    def __init__(
        self, store: Store, request: Request, results: Storage, children: Children, pool: ThreadPoolExecutor
    ) -> None:
        self.store, self.request, self.results, self.children, self.pool = store, request, results, children, pool
        self.futures: dict[str, Future[str | None]] = {}
        self.keys: dict[str, str] = {}
        self.problems: list[str] = []
        self.write()

    def write(self, ended: bool = False) -> None:
        """Store what the job has done so far."""
        write_manifest(self.results, self.request, self.keys, self.problems, ended)

    def start(self, stage: str) -> Future[str | None]:
        """Run a stage in a thread."""
        self.futures[stage] = self.pool.submit(self.run, stage)
        return self.futures[stage]

    def run(self, stage: str) -> str | None:
        """Fetch the result of a stage if it is in storage, else run the stage and store its result.

        Returns:
            The key of the result; None for a data stage, which only checks the data.

        Raises:
            InputError: the stage failed.
        """
        if stage in DATA_STAGES:
            self.reproduce(stage)
            return None
        with dvc_repo() as repo:
            key = inputs_key(repo, stage)
        if not self.fetch(stage, key):
            self.reproduce(stage)
            self.put(stage, key)
        return key

    def reproduce(self, stage: str) -> None:
        """Run a stage with DVC."""
        self.children.run(["repro", "--single-item", stage], lambda line: say(stage, line))

    def fetch(self, stage: str, key: str) -> bool:
        """Fetch the result of a stage that is finished. Returns: whether there is an undamaged one in storage."""
        try:
            result = self.store.get(stage, key)
            if result is None:
                return False
            with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".results-") as folder:
                with dvc_repo() as repo:
                    outputs = {stage: [str(out.def_path) for out in load(repo, stage).outs]}
                    check_files({stage: result.files}, outputs, Path.cwd(), cache_of(repo))
                self.store.fetch(stage, key, result.files, Path(folder))
                with dvc_repo() as repo:
                    check_outputs(load_with(repo, stage, result.entry), Path(folder))
                    take(repo, stage, result, Path(folder))
        except InputError as error:
            say(stage, f"runs again: {error}")
            return False
        say(stage, "is not run again; its results were in storage")
        return True

    def put(self, stage: str, key: str) -> None:
        """Store the result of a stage."""
        with dvc_repo() as repo:
            outputs, entry = [str(out.def_path) for out in load(repo, stage).outs], read_entry(Path.cwd(), stage)
        self.store.put(Path.cwd(), stage, key, entry, outputs)

    def succeeded(self, stage: str) -> bool:
        """Whether a stage that has ended succeeded; if not, its problem is stored."""
        try:
            self.futures[stage].result()
        except (InputError, DvcException) as error:
            self.problems.append(f"{stage}: {error}")
            say(stage, f"failed: {error}")
            self.write()
            return False
        return True

    def skip(self, stage: str) -> None:
        """Store the result of a stage that is up to date in the project that was sent."""
        if stage not in DATA_STAGES:
            with dvc_repo() as repo:
                key = inputs_key(repo, stage)
            if self.store.get(stage, key) is None:
                self.put(stage, key)
            self.keys[stage] = key
            self.write()

    def record(self, stage: str) -> None:
        """Store that a stage has succeeded."""
        if key := self.futures[stage].result():
            self.keys[stage] = key
            self.write()


@contextmanager
def dvc_repo() -> Iterator[Repo]:
    """DVC's repository in the working folder, which neither other threads nor other processes change meanwhile."""
    with ONE_AT_A_TIME, open_repo() as repo, lock_repo(repo):
        yield repo


def say(stage: str, line: str) -> None:
    """Print a line about a stage; several run at the same time."""
    print(f"[{stage}] {line}", flush=True)
