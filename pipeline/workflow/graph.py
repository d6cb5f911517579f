"""DVC's graph of stages: which stages there are, what each depends on, and which are stale."""

from collections.abc import Iterable, Sequence

import networkx

from pipeline.dvc_internals import changes, open_repo, plan, stale


class StageGraph:
    """The targets, and the stage instances of dvc.yaml that they depend on, by their names in DVC.

    Args:
        targets: stages (train@vae-0, or train for all its instances); without targets, all stages.

    Raises:
        DvcException: dvc.yaml is invalid, or does not contain a target.
    """

    def __init__(self, targets: Sequence[str]) -> None:
        self.repo = open_repo()
        self.dependencies, self.outputs, self.width = plan(self.repo, targets)
        self.digraph = networkx.DiGraph(self.dependencies)
        generations = networkx.topological_generations(self.digraph)
        # The length of the longest chain of stages that wait for each stage. Ties are broken by DVC's order.
        self.height = {stage: height for height, stages in enumerate(generations) for stage in stages}
        self.position = {stage: position for position, stage in enumerate(self.dependencies)}

    def first(self, stages: Iterable[str]) -> str:
        """The stage to run first: the one with the longest chain waiting for it, then the first in DVC's order."""
        return min(stages, key=self.rank)

    def rank(self, stage: str) -> tuple[int, int]:
        """The place of a stage among those that could run: less is earlier."""
        return -self.height[stage], self.position[stage]

    def stale(self, stages: Iterable[str]) -> set[str]:
        """The stages that DVC would run or fetch from its cache, among stages whose dependencies are up to date."""
        return stale(self.repo, stages)

    def outdated(self) -> set[str]:
        """The stages of which something has changed since they ran, and those that depend on them.

        Not all of them will run, because a stage may write what it wrote before.
        """
        changed = changes(self.repo, self.dependencies)
        return set(changed).union(*(networkx.ancestors(self.digraph, stage) for stage in changed))
