"""What a run has to show, found by asking DVC."""

import pytest
from dvc.repo import Repo

from pipeline.exhibits import figures, fraction_done, metrics_table, read_metrics, standing_alone
from pipeline.graph import StageGraph

# Of what DVC uses, not of ours.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")


@pytest.fixture
def graph(reproduced, monkeypatch):
    monkeypatch.chdir(reproduced.folder)
    return StageGraph(())


def test_metrics_and_figures_are_those_of_dvc(graph):
    metrics = read_metrics(graph.repo)
    assert set(metrics) == {f"metrics/{key}.json" for key in ("vae-0", "planar-4-0", "real-nvp-2-0")}
    assert all(row.keys() == {"metrics", *metrics["metrics/vae-0.json"]} for row in metrics_table(metrics))
    assert {path.name for path in figures(graph.repo)} == {
        "learning_curves.png",
        "nll_against_depth.png",
        "interpolation.png",
        "sweep.png",
        "stability.png",
    }


def test_metrics_that_are_not_there_are_left_out(project_without_results):
    assert read_metrics(Repo(str(project_without_results))) == {}


@pytest.fixture
def project_without_results(reproduced, tmp_path):
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_bytes((reproduced.folder / name).read_bytes())
    Repo.init(str(tmp_path), no_scm=True).close()
    return tmp_path


def test_a_page_takes_its_images_along(graph):
    (page,) = (path for path in graph.outputs if path.suffix == ".md")
    text = standing_alone(page)
    assert text.count("](data:image/png;base64,") == page.read_text().count("](figures/")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("vae-0  epoch 2/5  -ELBO train 94.66", 0.4),
        ("vae-0  step 26/2605  4,000 images/s", pytest.approx(26 / 2605)),
        ("sweep  3/9 trials ended", None),
        ("trials 3/9", pytest.approx(1 / 3)),
        ("Logical resource usage: 2.0/2 CPUs", None),
        ("step 0/0", None),
    ],
)
def test_how_far_a_line_says_that_a_stage_is(line, expected):
    assert fraction_done(line) == expected
