"""Variants can be told apart in every figure."""

import dataclasses

import pytest
from PIL import Image
from reporting import made_up_runs, make_run

from pipeline.report.charts.curves import last_values
from pipeline.report.charts.depth import depth_charts, own_values, published_values
from pipeline.report.columns import NLL_GAIN
from pipeline.report.figures.looks import looks_of, series_of
from pipeline.report.figures.variants import gains_against_depth, learning_curves
from pipeline.report.published import own_gains, results_on
from pipeline.report.table import summarize

RUNS = made_up_runs(25)
ROWS = summarize(RUNS, "vae")


@pytest.mark.parametrize("color", ["color", "color_on_dark"])
def test_no_two_variants_look_the_same(color):
    looks = looks_of(RUNS)
    assert len(looks) == len(RUNS)
    assert len({(getattr(look, color), look.dashes) for look in looks.values()}) == len(RUNS)
    assert {looks["planar-5-b"].position, looks["planar-5"].position} == {0, 1}
    assert looks["vae"].color == "#000000" and looks["vae"].color_on_dark == "#ffffff"


def test_a_curve_against_depth_has_one_variant_per_depth():
    series = series_of(ROWS)
    assert [(family, position, len(rows)) for family, position, rows in series[:2]] == [
        ("planar", 0, 3),
        ("planar", 1, 1),
    ]
    assert sum(len(rows) for _, _, rows in series) == len(RUNS) - 1
    values = own_values(ROWS, NLL_GAIN)
    assert len({(value["k"], value["color"], value["shape"]) for value in values}) == len(values)


def test_legends_of_many_entries_are_below_the_figure(tmp_path):
    learning_curves(RUNS, tmp_path / "many.png")
    learning_curves(RUNS[:5], tmp_path / "few.png")
    gains_against_depth(ROWS, tmp_path / "gains.png")
    (width, height), (few_width, few_height) = (size_of(tmp_path / f"{name}.png") for name in ("many", "few"))
    assert height > few_height + 50 and width < 2 * few_width


def size_of(path):
    with Image.open(path) as image:
        return image.size


def test_the_ends_of_curves_are_a_table():
    assert last_values(RUNS[:1]) == [["vae-0", "30", "91.67", "92.67", "92.67", "30"]]
    broken = [{"epoch": 1.0, "train_negative_elbo": 3.0, "valid_negative_elbo": float("nan")}]
    run = make_run()
    run.curve.extend(broken)
    assert last_values([run]) == [["vae-0", "1", "3.00", "nan", "–", "–"]]


def test_gains_of_others_are_over_their_own_plain_vae():
    values = {(value["group"], value["variant"], value["k"]): value for value in published_values(make_run())}
    planar = values["andrehuang/normalizing-flows-reproduce logs", "planar amortised", 10]
    assert planar["negative_elbo_gain"] == pytest.approx(96.84 - 92.99)
    assert planar["nll_gain"] == pytest.approx(91.42 - 88.46)
    assert all(value["k"] > 0 for value in values.values())
    for row in results_on("MNIST", "static"):
        if row["source"].startswith("Chen") or row["posterior"] == row["prior"] == "none":
            assert own_gains(row) == {}  # without a plain VAE under the same protocol, or it is one


def test_charts_leave_out_what_has_no_points():
    """Vega warns of layers without points."""
    plain = [make_run(), make_run("other")]
    assert depth_charts(summarize(plain, "vae"), plain[0]) == []
    levels = make_run("planar-4", 0, "planar", 4)
    colour = levels.protocol | {"data": levels.protocol["data"] | {"dataset": "CelebA", "binarization": "none"}}
    runs = [dataclasses.replace(run, protocol=run.protocol | {"data": colour["data"]}) for run in (make_run(), levels)]
    for chart in depth_charts(summarize(runs, "vae"), runs[0]):
        assert all(layer["data"]["values"] for layer in chart.spec["layer"])
