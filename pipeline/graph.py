"""The graph of stages as DVC has it: what there is to run, what waits for what, and what is stale."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import networkx
from dvc.lock import LockError
from dvc.repo import Repo, lock_repo
from dvc.repo.reproduce import get_active_graph, plan_repro
from dvc.stage import Stage


class StageGraph:
    """The stage instances of dvc.yaml in the working folder that targets need, and the targets; by their names in DVC.

    Args:
        targets: stages (train@vae-0, or train for all its instances); none means all.

    Raises:
        DvcException: dvc.yaml is wrong, or a target is not in it.
    """

    def __init__(self, targets: Sequence[str]) -> None:
        self.repo = Repo(_wait_for_lock=True)
        with lock_repo(self.repo):
            graph = get_active_graph(self.repo.index.graph)
            wanted = [stage for target in targets for stage in self.repo.stage.collect(target)]
            order = plan_repro(graph, wanted or None)
            self.dependencies = {stage.addressing: {dep.addressing for dep in graph[stage]} for stage in order}
            self.outputs = [Path(out.fs_path) for stage in order for out in stage.outs]
            # How many stages of dvc.yaml could run side by side, whatever the targets are.
            self.width = max(map(len, networkx.topological_generations(graph)), default=1)
        generations = networkx.topological_generations(networkx.DiGraph(self.dependencies))
        # How many stages wait for each, one for the other; a set has no order, dvc.yaml has.
        self.height = {stage: height for height, stages in enumerate(generations) for stage in stages}
        self.place = {stage: place for place, stage in enumerate(self.dependencies)}

    def first(self, stages: Iterable[str]) -> str:
        """The one to run before the others: what the longest chain waits for, then what DVC would run first."""
        return max(stages, key=lambda stage: (self.height[stage], -self.place[stage]))

    def stale(self, stages: Iterable[str]) -> set[str]:
        """Those that DVC would run or fetch from its cache, of stages whose dependencies are up to date."""
        wanted = set(stages)
        if not wanted:
            return set()
        with lock_repo(self.repo):
            return {
                stage.addressing for stage in self.repo.index.stages if stage.addressing in wanted and is_stale(stage)
            }


def is_stale(stage: Stage) -> bool:
    """As DVC sees it; also if another process is at its files, since DVC then has to look again."""
    try:
        return stage.changed()
    except LockError:
        return True
