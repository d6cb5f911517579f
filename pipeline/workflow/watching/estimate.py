"""How long the rest of a run takes."""

import heapq
from collections.abc import Collection, Mapping


def seconds_to_end(
    left: Mapping[str, float],
    needed: Mapping[str, float],
    dependencies: Mapping[str, Collection[str]],
    limit: int,
) -> float:
    """Seconds until the last stage ends, if each starts as soon as there is room and what it depends on has ended.

    Args:
        left: seconds until each running stage ends.
        needed: seconds that each stage to come takes, in the order in which they start.
        dependencies: of stages.
        limit: number of stages at a time.
    """
    running = [(seconds, stage) for stage, seconds in left.items()]
    heapq.heapify(running)
    waiting, now = dict(needed), 0.0
    while running or waiting:
        unfinished = {*waiting, *(stage for _, stage in running)}
        for stage in list(waiting):
            if len(running) < limit and unfinished.isdisjoint(dependencies.get(stage, ())):
                heapq.heappush(running, (now + waiting.pop(stage), stage))
        if not running:  # what waits depends on itself, which is no plan
            break
        now, _ = heapq.heappop(running)
    return now
