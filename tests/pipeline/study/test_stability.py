"""The stability study: its trials, its table and its figure."""

import pytest
from killing import NO_PROXY
from project import edit_params, stage

from pipeline.files import read_csv
from pipeline.report.figures.stability import stability_figure
from pipeline.report.stability import HEADINGS, divergence_rate, table


def row(family, depth, seed, status="finished", **scores):
    known = {"nll_nats": 90.0, "nll_stderr": 0.5, "mean_grad_norm": 30.0, "max_grad_norm": 100.0}
    scores = known | {"images_per_second": 2000.0, "valid_negative_elbo": 95.0} | scores
    if status != "finished":
        scores = dict.fromkeys(scores, "")
    return {"family": family, "num_transforms": depth, "seed": seed, "status": status, "reason": ""} | scores


ROWS = [
    row("none", 2, 0, nll_nats=91.0),
    row("none", 2, 1, nll_nats=93.0, max_grad_norm=300.0),
    row("none", 40, 0, "diverged"),
    row("none", 40, 1),
    row("batch-norm", 2, 0, "diverged"),
    row("batch-norm", 2, 1, "failed"),
]


def test_table():
    lines = table(ROWS)
    assert all(len(line) == len(HEADINGS) for line in lines)
    assert lines[0] == ("none", "2", "0 of 2", "92.00 ± 0.50 (sd 1.41)", "30.0", "300.0", "2,000")
    assert lines[1] == ("none", "40", "1 of 2", "90.00 ± 0.50", "30.0", "100.0", "2,000")
    assert lines[2] == ("batch-norm", "2", "1 of 2 (1 failed)", "–", "–", "–", "–")


def test_divergence_is_a_rate_over_seeds_and_a_failure_is_none():
    assert divergence_rate(ROWS, "none") == ([2, 40], [0.0, 50.0])
    assert divergence_rate(ROWS, "batch-norm") == ([2], [50.0])


def test_the_figure_is_the_same_each_time(tmp_path):
    pictures = []
    for name in ("a.png", "b.png"):
        stability_figure(ROWS[:4], "two lines\nof title", tmp_path / name)
        pictures.append((tmp_path / name).read_bytes())
    assert pictures[0].startswith(b"\x89PNG")
    assert pictures[0] == pictures[1]


def test_a_study_of_which_nothing_was_trained_is_no_result(files):
    """Nor is it locked: the next dvc repro may find the data mended."""
    path = files / "data/prepared/train.npy"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1])
    edit_params(files, lambda params: params["stability"]["budgets"]["tiny"].update(seeds=[7]))
    ran = stage(files, "stability", **NO_PROXY)
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("stability: no trial was trained; ")
    assert "dvc repro -f stability" in ran.stderr


def test_what_dvc_repro_left(reproduced):
    rows = read_csv(reproduced.folder / "reports/stability.csv")
    assert [(row["family"], row["num_transforms"]) for row in rows] == [
        ("none", "1"),
        ("none", "2"),
        ("batch-norm", "1"),
        ("batch-norm", "2"),
    ]
    for found in rows:
        assert found["status"] == "finished"
        assert 0 < float(found["mean_grad_norm"]) <= float(found["max_grad_norm"])
        assert float(found["images_per_second"]) > 0
    assert "stability  trials 4/4" in reproduced.ran.stdout
    report = (reproduced.folder / "reports/results.md").read_text()
    assert table(rows)[0][3] in report and table(rows)[3][3] in report


def test_a_run_that_diverges_is_counted(files):
    """Before its first epoch ends, so that nothing but the count is known of it."""

    def overdo(params):
        params["training"].update(max_grad_norm=1e30)
        params["training"]["schedule"].update(warmup_steps=0)
        budget = params["stability"]["budgets"]["tiny"]
        budget.update(settings={"training": {"learning_rate": 1e12}})
        budget["families"] = {"none": budget["families"]["none"]}

    edit_params(files, overdo)
    ran = stage(files, "stability", **NO_PROXY)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "diverged: loss is not finite at epoch 1" in ran.stderr
    lines = table(read_csv(files / "reports/stability.csv"))
    assert [line[2] for line in lines] == ["1 of 1"] * 2


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"budget": "huge"}, "stability.budget: expected one of tiny, got 'huge'"),
        ({"budgets": {}}, "stability.budgets: "),
    ],
)
def test_mistakes_are_named(files, complaint, edit, message):
    edit_params(files, lambda params: params["stability"].update(edit))
    assert message in complaint(files, "fetch")
