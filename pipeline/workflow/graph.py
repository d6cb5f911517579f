"""DVC's graph of stages: which stages there are, what each depends on, and which are stale."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import networkx
from dvc.lock import LockError
from dvc.repo import Repo, lock_repo
from dvc.repo.reproduce import get_active_graph, plan_repro
from dvc.stage import Stage


class StageGraph:
    """The targets, and the stage instances of dvc.yaml that they depend on, by their names in DVC.

    Args:
        targets: stages (train@vae-0, or train for all its instances); without targets, all stages.

    Raises:
        DvcException: dvc.yaml is invalid, or does not contain a target.
    """

    def __init__(self, targets: Sequence[str]) -> None:
        self.repo = Repo(_wait_for_lock=True)
        with lock_repo(self.repo):
            graph = get_active_graph(self.repo.index.graph)
            wanted = [stage for target in targets for stage in self.repo.stage.collect(target)]
            order = plan_repro(graph, wanted or None)
            self.dependencies: dict[str, set[str]] = {
                stage.addressing: {dep.addressing for dep in graph[stage]} for stage in order
            }
            self.outputs = [Path(out.fs_path) for stage in order for out in stage.outs]
            # The number of stages of dvc.yaml that could run in parallel; the same for all targets.
            self.width = max(map(len, networkx.topological_generations(graph)), default=1)
        generations = networkx.topological_generations(networkx.DiGraph(self.dependencies))
        # The length of the longest chain of stages that wait for each stage. Ties are broken by DVC's order.
        self.height = {stage: height for height, stages in enumerate(generations) for stage in stages}
        self.position = {stage: position for position, stage in enumerate(self.dependencies)}

    def first(self, stages: Iterable[str]) -> str:
        """The stage to run first: the one with the longest chain waiting for it, then the first in DVC's order."""
        return max(stages, key=lambda stage: (self.height[stage], -self.position[stage]))

    def stale(self, stages: Iterable[str]) -> set[str]:
        """The stages that DVC would run or fetch from its cache, among stages whose dependencies are up to date."""
        candidates = set(stages)
        if not candidates:
            return set()
        with lock_repo(self.repo):
            return {
                stage.addressing
                for stage in self.repo.index.stages
                if stage.addressing in candidates and is_stale(stage)
            }


def is_stale(stage: Stage) -> bool:
    """Whether DVC considers a stage stale, or another process locks its files, so that DVC has to check again."""
    try:
        return stage.changed()
    except LockError:
        return True
