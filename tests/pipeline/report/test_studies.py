"""The studies in the report: reading their results, a table and a figure of each, and published results."""

import math
from statistics import stdev

import matplotlib.pyplot as plt
import pytest
from project import TINY, edit_params, study_rows

from flowvae.data.arrays import SPLITS, ArrayInfo, Metadata, Provenance, read_metadata
from flowvae.errors import InputError
from pipeline.files import write_csv
from pipeline.params.reading import load_params
from pipeline.report.figures.study import curve_of, divergence_curve, half_width, published_points, study_figure
from pipeline.report.published import results_on
from pipeline.report.runs import Flows
from pipeline.report.studies import HEADINGS, StudyResult, read_studies, title_of


def metadata_of(dataset, binarization, num_images=1000):
    info = ArrayInfo(shape=(num_images, 1, 28, 28), binarization=binarization, sha256="0" * 64)
    provenance = Provenance(
        dataset=dataset, origin="", binarization_seed=0, split="", processing=None, corrupt={}, banner=None
    )
    return Metadata(arrays=dict.fromkeys(SPLITS, info), provenance=provenance)


METADATA = metadata_of("MNIST", "static")


def row(family, depth, seed, status="finished", **scores):
    known = {
        "nll_nats": 90.0,
        "nll_stderr": 0.5,
        "negative_elbo_nats": 94.0,
        "negative_elbo_stderr": 0.25,
        "reconstruction_nats": 70.0,
        "kl_nats": 24.0,
        "mean_grad_norm": 30.0,
        "max_grad_norm": 100.0,
        "valid_negative_elbo": 95.0,
        "epochs": 2,
    }
    scores = known | scores
    if status != "finished":
        scores = dict.fromkeys(scores)
    return {"family": family, "num_transforms": depth, "seed": seed, "status": status, "reason": ""} | scores


ROWS = [
    row("none", 2, 0, nll_nats=91.0),
    row("none", 2, 1, nll_nats=93.0, max_grad_norm=300.0),
    row("none", 40, 0, "diverged"),
    row("none", 40, 1),
    row("batch-norm", 2, 0, "diverged"),
    row("batch-norm", 2, 1, "failed"),
]


PLAIN, PLANAR, REAL_NVP = Flows("none", 0, "none", 0), Flows("planar", 1, "none", 0), Flows("real_nvp", 1, "none", 0)


def study_of(rows, flows=REAL_NVP):
    flows = dict.fromkeys((row["family"] for row in rows), flows)
    return StudyResult("stability", flows, rows, "two lines\nof title")


def test_table():
    lines = study_of(ROWS).table()
    assert all(len(line) == len(HEADINGS) for line in lines)
    assert lines == [
        ["none", "2", "94.00 ± 0.25 (sd 0.00)", "92.00 ± 0.50 (sd 1.41)", "30.0", "300.0", "0 of 2"],
        ["none", "40", "94.00 ± 0.25", "90.00 ± 0.50", "30.0", "100.0", "1 of 2"],
        ["batch-norm", "2", "–", "–", "–", "–", "1 of 2 (1 failed)"],
    ]


def test_the_table_has_the_order_of_the_families_and_ascending_depths():
    rows = [row("b", 4, 0), row("a", 2, 0), row("b", 1, 0)]
    study = StudyResult("depth", {"a": "planar", "b": "planar"}, rows, "")
    assert [line[:2] for line in study.table()] == [["a", "2"], ["b", "1"], ["b", "4"]]


def test_trials_that_were_stopped_early_are_neither_scored_nor_diverged():
    stopped = row("none", 2, 2, "stopped") | {"valid_negative_elbo": 99.0, "epochs": 1}
    (line,) = study_of([*ROWS[:2], stopped]).table()
    assert line[3] == "92.00 ± 0.50 (sd 1.41)" and line[-1] == "0 of 3"


def test_divergence_is_a_rate_over_seeds_and_a_failure_is_none():
    curves = {family: divergence_curve(study_of(ROWS).family(family)) for family in ("none", "batch-norm")}
    assert (curves["none"].depths, curves["none"].means) == ([2, 40], [0.0, 50.0])
    assert (curves["batch-norm"].depths, curves["batch-norm"].means) == ([2], [50.0])


def test_a_curve_has_the_mean_over_finished_seeds():
    curve = curve_of(study_of(ROWS).family("none"), "nll_nats")
    assert (curve.depths, curve.means) == ([2, 40], [92.0, 90.0])
    assert curve.half_widths is None  # one depth has a single seed
    curve = curve_of(ROWS[:2], "nll_nats")
    assert curve.half_widths == [half_width([91.0, 93.0])]
    assert curve_of(study_of(ROWS).family("batch-norm"), "nll_nats").depths == []


def test_intervals_are_those_of_student():
    """For three values, hence two degrees of freedom, the quantile is p sqrt(2 / (1 - p^2)) with p = 0.95."""
    values = [1.0, 2.0, 4.0]
    quantile = 0.95 * math.sqrt(2 / (1 - 0.95**2))
    assert half_width(values) == pytest.approx(quantile * stdev(values) / math.sqrt(3))
    assert half_width([1.0]) is None


def test_if_other_params_vary_a_curve_shows_those_best_on_validation():
    rows = [
        row("none", 2, seed, nll_nats=nll, valid_negative_elbo=valid, **{"training.learning_rate": rate})
        for rate, nll, valid in ((0.1, 80.0, 99.0), (0.2, 85.0, 95.0))
        for seed in (0, 1)
    ]
    assert curve_of(rows, "nll_nats").means == [85.0]


FIGURES = {
    "seeds": ROWS[:4],
    "a family without a finished trial": ROWS,
    "nothing finished": [row("none", 2, 0, "diverged"), row("other", 4, 0, "failed")],
    "only a plain VAE": [row("none", 0, 0)],
    "a plain VAE that did not finish": [row("none", 0, 0, "diverged"), row("planar", 4, 0)],
    "a plain VAE and a flow": [row("none", 0, 0), row("planar", 4, 0), row("planar", 10, 0)],
}


@pytest.mark.parametrize("rows", FIGURES.values(), ids=FIGURES)
def test_the_figure_is_the_same_each_time(tmp_path, rows):
    pictures = []
    for name in ("a.png", "b.png"):
        study_figure(study_of(rows), METADATA, tmp_path / name)
        pictures.append((tmp_path / name).read_bytes())
    assert pictures[0].startswith(b"\x89PNG")
    assert pictures[0] == pictures[1]
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("epochs", "seeds", "text"),
    [
        ((1,), (0,), "1 epoch of 1,000 images, seed 0 (one seed, so no intervals)"),
        ((5, None, 3), (0,), "5 epochs of 1,000 images, seed 0 (one seed, so no intervals)"),
        ((2, 2), (0, 7), "2 epochs of 1,000 images, seeds 0, 7 (bars: 95% intervals over seeds)"),
    ],
)
def test_a_title_states_the_budget_of_each_trial(epochs, seeds, text):
    """The epochs are those that were trained: `min_steps` may make them more, and early stopping fewer."""
    rows = [{"epochs": num_epochs} for num_epochs in epochs]
    assert title_of("depth", rows, seeds, METADATA) == f"Study 'depth': MNIST, static binarization\n{text}"


@pytest.fixture
def here(files, monkeypatch):
    """The working folder, with the results of both studies."""
    monkeypatch.chdir(files)
    return files


def read(folder):
    return read_studies(load_params(folder / "params.yaml"), read_metadata(folder / "data/prepared"))


def test_results_of_the_studies_are_read(here):
    depth, stability = read(here)
    assert (depth.name, depth.flows) == ("depth", {"none": PLAIN, "planar": PLANAR})
    assert (stability.name, stability.flows) == ("stability", {"none": REAL_NVP, "batch-norm": REAL_NVP})
    assert "1 epoch of 4,000 images, seed 0" in depth.title
    for study in (depth, stability):
        for typed, text in zip(study.rows, study_rows(here, study.name), strict=True):
            assert {key: type(typed[key]) for key in ("family", "num_transforms", "epochs", "nll_nats")} == {
                "family": str, "num_transforms": int, "epochs": int, "nll_nats": float,
            }  # fmt: skip
            assert typed["nll_nats"] == float(text["nll_nats"])


def test_every_study_is_in_the_report(here):
    report, page = ((here / "reports" / name).read_text() for name in ("results.md", "index.html"))
    for study in read(here):
        assert f"## Study: {study.name}" in report and f"<h2>Study: {study.name}</h2>" in page
        assert f"(figures/studies/{study.name}.png)" in report
        for line in study.table():
            assert all(cell in report and cell in page for cell in line)


def test_values_that_vary_may_be_text(here):
    """A search over lists and names writes them into the table as text."""
    over = {"model.encoder.channels": [[2, 2], [4, 4]], "training.learning_rate": [0.1, 0.2]}
    edit_params(here, lambda params: params["studies"]["depth"].update(over=over))
    rows = [
        each | {"model.encoder.channels": str(channels), "training.learning_rate": 0.1}
        for each, channels in zip(study_rows(here), ([2, 2], [4, 4], [4, 4]), strict=True)
    ]
    write_csv(here / "reports/studies/depth.csv", rows, rows[0])
    depth, _ = read(here)
    assert [each["model.encoder.channels"] for each in depth.rows] == ["[2, 2]", "[4, 4]", "[4, 4]"]
    study_figure(depth, read_metadata(here / "data/prepared"), here / "figure.png")


def test_no_studies(here):
    edit_params(here, lambda params: params.update(studies={}))
    assert read(here) == []


def remove(path):
    path.unlink()


def write(text):
    return lambda path: path.write_text(text)


def without(column):
    """Remove a column."""

    def edit(path):
        rows = study_rows(path.parents[2])
        write_csv(path, rows, [name for name in rows[0] if name != column])

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove, "cannot be read"),
        (write(""), "damaged, lacks rows"),
        (write("family,num_transforms,status\n"), "damaged, lacks rows"),
        (without("family"), "damaged, lacks family"),
        (without("nll_nats"), "damaged, lacks nll_nats"),
        (write("family,num_transforms,status,epochs\nnone,zero,finished,1\n"), "damaged (invalid literal for int"),
        (write("family,num_transforms,status,nll_nats\nnone,0,finished,low\n"), "damaged (could not convert string"),
        (lambda path: path.write_bytes(b"family\xff\n"), "damaged ("),
        (write("family,status\nnone,finished,more\n"), "damaged ("),
    ],
)
def test_damaged_results(here, complaint, damage, message):
    damage(here / "reports/studies/depth.csv")
    line = complaint(here, "report")
    assert line.startswith(f"reports/studies/depth.csv: {message}")
    assert "run dvc repro" in line


def test_results_of_a_study_that_has_not_run(here):
    edit_params(here, lambda params: params["studies"].update(new=TINY))
    with pytest.raises(InputError, match=r"^reports/studies/new\.csv: cannot be read .*; run dvc repro to create it$"):
        read(here)


def test_published_results_are_on_the_same_kind_of_values():
    bits = results_on("MNIST", "static")
    assert {each["binarization"] for each in bits} > {"static", "dynamic", "unstated"}
    assert results_on("MNIST, 5,000 digits", "dynamic") == bits
    assert results_on("MNIST", "none") == []
    assert results_on("SVHN", "none") == []


def test_published_points_are_those_of_the_flow():
    points = published_points(PLANAR, METADATA)
    assert points
    assert all("planar" in label for label in points)
    for terms in points.values():
        assert any(terms.values())
        assert all(depth > 0 and value > 50 for values in terms.values() for depth, value in values)
    other = metadata_of("SVHN", "none")
    assert published_points(PLANAR, other) == {}
