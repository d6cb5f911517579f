"""The log of a job, which Ray sends from its start after each connection, and the number of stages at a time."""

import pytest

from pipeline.distributed.jobs import Log
from pipeline.distributed.room import STAGE_MEMORY, num_stages
from pipeline.running.placement import find_placement

TEXT = "one\ntwo\n\nthree\nfour"
MUCH = 100 * STAGE_MEMORY


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("dropped", [0, 5, 9, 13, len(TEXT)])
def test_each_line_is_shown_once_and_whole(size, dropped):
    """Although the connection drops after some characters, and pieces do not end with a line."""
    shown = []
    log = Log(shown.append)
    for text in (TEXT[:dropped], TEXT):
        log.restart()
        for start in range(0, len(text), size):
            log.add(text[start : start + size])
    assert all(part.endswith("\n") for part in shown)
    log.end()
    assert "".join(shown) == TEXT


@pytest.mark.parametrize(
    ("variables", "resources", "memory", "expected"),
    [
        ({}, {}, MUCH, 1),  # an autoscaler has not started a node yet
        ({}, {"CPU": 1.0}, MUCH, 2),
        ({}, {"CPU": 8.0, "GPU": 2.0}, MUCH, 12),
        ({"FLOWVAE_DEVICE": "cuda"}, {"CPU": 8.0, "GPU": 2.0}, MUCH, 3),
        ({"FLOWVAE_WORKERS": "2-4", "FLOWVAE_CPUS_PER_WORKER": "2"}, {"CPU": 8.0}, MUCH, 3),
        ({}, {"CPU": 64.0}, 10 * STAGE_MEMORY + 1, 10),
        ({}, {"CPU": 64.0}, 0, 1),
    ],
)
def test_the_number_of_stages_follows_the_cluster(variables, resources, memory, expected):
    placement = find_placement(None, 1, 0, {"RAY_ADDRESS": "head:6379", **variables})
    assert num_stages(placement, resources, memory) == expected
