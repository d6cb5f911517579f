"""The graph of stages as DVC has it."""

import pytest
from dvc.exceptions import DvcException
from project import EVALUATED, TRAINED, edit_params

from pipeline.graph import StageGraph

# Of what DVC uses, not of ours.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")


@pytest.fixture
def here(copy, monkeypatch):
    monkeypatch.chdir(copy)
    return copy


def test_all_stages_and_what_they_wait_for(here):
    graph = StageGraph(())
    assert (
        set(graph.dependencies)
        == {"fetch", "prepare", "interpolate", "sweep", "stability", "report"} | TRAINED | EVALUATED
    )
    assert graph.dependencies["evaluate@vae-0"] == {"prepare", "train@vae-0"}
    assert graph.dependencies["report"] >= EVALUATED | {"interpolate"}
    assert graph.dependencies["fetch"] == set()
    assert graph.width >= 3


def test_a_target_brings_what_it_needs(here):
    assert set(StageGraph(["train@vae-0"]).dependencies) == {"fetch", "prepare", "train@vae-0"}
    assert set(StageGraph(["train"]).dependencies) == {"fetch", "prepare"} | TRAINED
    with pytest.raises(DvcException):
        StageGraph(["nothing"])


def test_what_many_wait_for_comes_first(here):
    graph = StageGraph(())
    assert graph.first(["evaluate@vae-0", "train@real-nvp-2-0", "sweep"]) == "train@real-nvp-2-0"


def test_stale_is_what_dvc_would_run(here):
    graph = StageGraph(())
    assert graph.stale(graph.dependencies) == {"fetch"}  # which always looks
    edit_params(here, lambda params: params["variants"]["planar-4"].update(num_transforms=5))
    (here / "metrics/vae-0.json").unlink()
    assert graph.stale(graph.dependencies) == {"fetch", "train@planar-4-0", "evaluate@vae-0", "report"}
