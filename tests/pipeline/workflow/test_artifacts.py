"""Artifacts of a workflow run: metrics, figures, pages and progress."""

import pytest
from dvc.repo import Repo
from project import RUNS

from pipeline.workflow.artifacts import (
    figures,
    metrics_table,
    read_metrics,
    with_embedded_images,
)
from pipeline.workflow.graph import StageGraph

# From a dependency of DVC.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")


@pytest.fixture
def graph(reproduced, monkeypatch):
    monkeypatch.chdir(reproduced.folder)
    return StageGraph(())


def test_metrics_and_figures_are_those_of_dvc(graph):
    metrics = read_metrics(graph.repo)
    assert set(metrics) == {f"metrics/{run}.json" for run in RUNS}
    assert all(row.keys() == {"metrics", *metrics["metrics/vae-0.json"]} for row in metrics_table(metrics))
    assert {path.name for path in figures(graph.repo)} == {
        "learning_curves.png",
        "gains_against_depth.png",
        "interpolation.png",
        "depth.png",
        "stability.png",
    }


def test_missing_metrics_are_left_out(project_without_results):
    assert read_metrics(Repo(str(project_without_results))) == {}


@pytest.fixture
def project_without_results(reproduced, tmp_path):
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_bytes((reproduced.folder / name).read_bytes())
    Repo.init(str(tmp_path), no_scm=True).close()
    return tmp_path


def test_a_page_has_its_images_embedded(graph):
    (page,) = (path for path in graph.outputs if path.suffix == ".md")
    text = with_embedded_images(page)
    assert text.count("](data:image/png;base64,") == page.read_text().count("](figures/")
