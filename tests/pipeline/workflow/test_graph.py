"""DVC's graph of stages."""

import pytest
from dvc.exceptions import DvcException
from project import EVALUATED, STUDIES, TRAINED, edit_params

from pipeline.workflow.graph import StageGraph

# From a dependency of DVC.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")


@pytest.fixture
def project(copy, monkeypatch):
    """The working folder."""
    monkeypatch.chdir(copy)
    return copy


def test_all_stages_and_their_dependencies(project):
    graph = StageGraph(())
    assert set(graph.dependencies) == {"fetch", "prepare", "interpolate", "report"} | TRAINED | EVALUATED | STUDIES
    assert graph.dependencies["evaluate@vae-0"] == {"prepare", "train@vae-0"}
    assert graph.dependencies["report"] >= EVALUATED | STUDIES | {"interpolate"}
    assert graph.dependencies["fetch"] == set()
    assert graph.width >= 3


def test_a_target_includes_its_dependencies(project):
    assert set(StageGraph(["train@vae-0"]).dependencies) == {"fetch", "prepare", "train@vae-0"}
    assert set(StageGraph(["train"]).dependencies) == {"fetch", "prepare"} | TRAINED
    with pytest.raises(DvcException):
        StageGraph(["nothing"])


def test_the_stage_with_the_longest_chain_comes_first(project):
    graph = StageGraph(())
    assert graph.first(["evaluate@vae-0", "train@real-nvp-2-0", "study@depth"]) == "train@real-nvp-2-0"


def test_stale_stages_are_those_that_dvc_would_run(project):
    graph = StageGraph(())
    assert graph.stale(graph.dependencies) == {"fetch"}  # which always runs
    edit_params(project, lambda params: params["variants"]["planar-4"]["posterior"].update(num_transforms=5))
    (project / "metrics/vae-0.json").unlink()
    assert graph.stale(graph.dependencies) == {"fetch", "train@planar-4-0", "evaluate@vae-0", "interpolate", "report"}
