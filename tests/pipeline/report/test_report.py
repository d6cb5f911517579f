"""The report's pure functions: differences of protocols, summaries, the Markdown table, grids of images."""

import copy
import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from project import edit_params
from reporting import DIAGNOSTICS, PROTOCOL, make_run

from flowvae.data.arrays import read_metadata
from flowvae.errors import InputError
from flowvae.pictures import GAP, TITLE_HEIGHT, as_ink, image_grid, with_titles, write_png
from pipeline.params.reading import load_params
from pipeline.report.columns import BOUND_GAIN, BY_NAME, COLUMNS, NLL_GAIN, REPORTED_METRICS, MetricColumn
from pipeline.report.diagnostics import HEADINGS, diagnostics_table
from pipeline.report.figures.variants import curves_against_time
from pipeline.report.latents import read_latents
from pipeline.report.page import Report, markdown_page
from pipeline.report.published import nll_cell, published_table
from pipeline.report.runs import Flows, epoch_times, first_difference, read_runs
from pipeline.report.studies import read_studies
from pipeline.report.table import markdown, protocol_text, summarize, unproven, variant_table
from pipeline.scores import metric_names
from pipeline.stages.report import draw_times

TABLE_HEADINGS = (*("−log p(x|z)", "KL", "−ELBO", "gain in −ELBO", "NLL", "gain in NLL", "active units", "parameters"),)
GAINS = (BOUND_GAIN, NLL_GAIN)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("training", "batch_size"), 64),
        (("data", "counts", "test"), 500),
        (("data", "banner"), "small"),
        (("epochs",), 6),
        (("evaluation", "seed"), 1),
        (("data",), "MNIST"),
    ],
)
def test_first_difference_is_a_dotted_path(path, value):
    other = copy.deepcopy(PROTOCOL)
    part = other
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    assert first_difference(PROTOCOL, other) == ".".join(path)
    assert first_difference(other, PROTOCOL) == ".".join(path)


def test_runs_may_differ_only_in_variant_and_seed():
    assert first_difference(PROTOCOL, PROTOCOL | {"variant": "planar-4", "seed": 1}) is None
    inner = PROTOCOL | {"evaluation": {**PROTOCOL["evaluation"], "seed": 1}}
    assert first_difference(PROTOCOL, inner) == "evaluation.seed"


def test_a_missing_key_is_a_difference_even_where_the_value_is_null():
    without = copy.deepcopy(PROTOCOL)
    del without["data"]["banner"]
    assert first_difference(PROTOCOL, without) == "data.banner"


def test_summary_averages_over_seeds():
    runs = [
        make_run(negative_elbo_nats=90.0, nll_nats=84.0),
        make_run(seed=1, negative_elbo_nats=92.0, nll_nats=86.0),
        make_run("planar-4", 0, "planar", 4, negative_elbo_nats=88.0),
        make_run("planar-4", 1, "planar", 4, negative_elbo_nats=91.0),
    ]
    plain, planar = summarize(runs, "vae")
    assert (plain.variant, plain.flows) == ("vae", Flows("none", 0, "none", 0))
    assert [plain.values[name] for name in ("negative_elbo_nats", "nll_nats")] == [91.0, 85.0]
    assert math.isclose(plain.seed_spread, math.sqrt(2))
    assert (planar.variant, planar.flows.depth, planar.flows.label) == ("planar-4", 4, "planar")
    assert planar.values["negative_elbo_nats"] == 89.5
    assert [planar.values[name] for name in GAINS] == pytest.approx([1.5, 0.0], abs=1e-9)
    assert planar.values["negative_elbo_stderr"] == pytest.approx(0.2)  # over test images, which seeds share
    assert planar.values["parameters"] == 1_234_567


@pytest.mark.parametrize(
    ("round_trip", "text"),
    [
        (None, "–"),
        ({"median": 1e-6, "worst": 2e-5, "lost": 0.0}, "2.0e-05"),
        ({"median": 1e-3, "worst": None, "lost": 0.25}, "inf (25.0% lost)"),
    ],
)
def test_diagnostics(round_trip, text):
    run = dataclasses.replace(make_run("planar-4"), diagnostics=DIAGNOSTICS | {"round_trip": round_trip})
    (cells,) = diagnostics_table([run])
    assert cells == ["planar-4-0", "0.70", "0.75", "–", "12.3 of 200", "10: +6.00", text, "0.200 (0.250)"]
    assert len(cells) == len(HEADINGS)


def test_variants_that_are_not_surely_better_are_named():
    better = make_run("b", 0, "planar", 4, negative_elbo_nats=88.0, nll_nats=84.0)
    mixed = make_run("c", 0, "planar", 8, negative_elbo_nats=88.0, nll_nats=86.0)
    rows = summarize([make_run(), better], "vae")
    assert unproven(rows, "vae").endswith("in −ELBO and in NLL.")
    rows = summarize([make_run(), better, mixed, make_run("d")], "vae")
    assert unproven(rows, "vae").endswith("in −ELBO and in NLL, except c (NLL), d (−ELBO and NLL).")


def test_one_seed_has_no_spread():
    (only,) = summarize([make_run()], "vae")
    assert only.seed_spread is None
    _, (line,) = variant_table([make_run()], [only])
    assert not any("sd" in cell for cell in line)


def test_gain_is_against_the_reference():
    runs = [
        make_run(negative_elbo_nats=90.0),
        make_run("real-nvp-5", 0, "real_nvp", 5, negative_elbo_nats=87.0, nll_nats=84.5),
    ]
    for reference, other, sign in (("vae", "real-nvp-5", 1), ("real-nvp-5", "vae", -1)):
        rows = {row.variant: row.values for row in summarize(runs, reference)}
        assert [rows[other][name] for name in GAINS] == pytest.approx([3 * sign, 0.5 * sign], abs=1e-9)
        assert not rows[reference].keys() & set(GAINS)


def test_the_error_of_a_gain_is_that_of_the_differences():
    """Not that of the two scores, which images that are hard for both models dominate."""
    plain, other = make_run(), make_run("real-nvp-5", 0, "real_nvp", 5, negative_elbo_nats=87.0)
    moved = other.images.negative_elbo + np.resize([0.7, -0.7], 50)
    other = dataclasses.replace(other, images=dataclasses.replace(other.images, negative_elbo=moved))
    values = summarize([plain, other], "vae")[1].values
    assert values["negative_elbo_gain"] == pytest.approx(3.0)
    assert values["negative_elbo_gain_stderr"] == pytest.approx(0.7 / math.sqrt(49))


def test_cells_follow_the_headings():
    runs = [make_run(), make_run(seed=1, negative_elbo_nats=91.0, active_units=21)]
    headings, (shown,) = variant_table(runs, summarize(runs, "vae"))
    assert headings == ["variant", "posterior, k", "prior, k", *TABLE_HEADINGS] and len(shown) == len(headings)
    assert shown[:5] == ["vae", "–", "–", "60.00", "30.00"]
    assert shown[5:] == ["90.50 ± 0.20 (sd 0.71)", "–", "85.00 ± 0.30", "–", "20.5", "1,234,567"]
    other = [make_run("b", seed, "planar", 4, negative_elbo_nats=88.0, nll_nats=86.0) for seed in (0, 1)]
    _, (_, line) = variant_table(runs + other, summarize(runs + other, "vae"))
    assert (line[1], line[2], line[6], line[8]) == ("planar, 4", "–", "+2.50 ± 0.00", "-1.00 ± 0.00")


def test_bits_per_dimension_are_only_in_the_table_of_8_bit_data():
    run = make_run(negative_elbo_bits_per_dim=4.51234, nll_bits_per_dim=4.4, nll_bits_per_dim_stderr=0.0123)
    rows = summarize([run], "vae")
    headings, (line,) = variant_table([run], rows)
    levels = dataclasses.replace(run, protocol=run.protocol | {"data": PROTOCOL["data"] | {"binarization": "none"}})
    more_headings, (more,) = variant_table([levels], rows)
    assert more_headings == [*headings, "−ELBO, bits/dim", "NLL, bits/dim"]
    assert more == [*line, "4.512 ± 0.000", "4.400 ± 0.012"]
    assert "static binarization (seed 0), 50,000" in protocol_text([run], "vae")
    words = protocol_text([levels], "vae")
    assert "8-bit values, 50,000" in words and "the last two columns in bits per dimension" in words


def test_a_run_that_may_stop_early_says_so():
    early = PROTOCOL | {"training": {"batch_size": 128, "patience": 20}}
    assert "; 5 epochs of batches of 128" in protocol_text([make_run()], "vae")
    assert "; at most 5 epochs" in protocol_text([dataclasses.replace(make_run(), protocol=early)], "vae")


def test_one_table_serves_csv_checks_and_cells():
    """Every metric that an evaluation gives is in the table of columns, once, and nothing else is."""
    stored = {name for column in COLUMNS if not column.derived for name in column.names}
    assert stored == set(REPORTED_METRICS) and len(REPORTED_METRICS) == len(stored)
    assert set(metric_names()) - stored == {
        "reconstruction_stderr",
        "kl_stderr",
    }  # of terms that are compared with none
    assert stored <= set(metric_names())
    assert BY_NAME.keys() == {column.name for column in COLUMNS}


def test_a_cell_has_its_error_and_its_spread():
    column = MetricColumn("x", "X", "{:.1f}", error="x_stderr", show_spread=True)
    assert column.cell({"x": 1.25, "x_stderr": 0.5}) == "1.2 ± 0.5"
    assert column.cell({}) == "–"
    assert column.cell({"x": 1.25, "x_stderr": 0.5}, spread=0.25) == "1.2 ± 0.5 (sd 0.25)"


def test_row_has_the_columns_in_order():
    row = make_run("planar-4", 3, "planar", 4).row()
    assert tuple(row)[-len(REPORTED_METRICS) :] == REPORTED_METRICS
    assert (row["variant"], row["seed"], row["posterior_transforms"], row["num_train"]) == ("planar-4", 3, 4, 50_000)
    assert row["nll_bits_per_dim"] == 0.1564 and row["negative_elbo_bits_per_dim_stderr"] == 0.0004


def test_markdown_is_aligned_and_every_row_has_every_cell():
    lines = markdown(("name", "value"), [("a", "1.00"), ("much longer", "-10.25")]).splitlines()
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1
    assert all(line.count("|") == 3 for line in lines)
    assert lines[1].replace("-", "") == "| : | : |"
    assert lines[3] == "| much longer | -10.25 |"


def test_markdown_escapes_bars():
    """A | inside a cell would shift the columns."""
    heading, _, line = markdown(("p(x|z)",), [("a|b",)]).splitlines()
    assert heading == "| p(x\\|z) |" and line == "|    a\\|b |"


def test_markdown_refuses_rows_of_another_length():
    with pytest.raises(ValueError, match="zip"):
        markdown(("name", "value"), [("a",)])


def test_pages_tables_have_no_stray_bars(reproduced, monkeypatch):
    """A | inside a cell would shift the columns."""
    monkeypatch.chdir(reproduced.folder)
    params = load_params(reproduced.folder / "params.yaml")
    metadata = read_metadata(reproduced.folder / "data/prepared")
    runs = read_runs(params, metadata)
    rows, studies = summarize(runs, "vae"), read_studies(params, metadata)
    page = markdown_page(Report(params, runs, rows, studies, read_latents(params), metadata))
    tables = [block.splitlines() for block in page.split("\n\n") if block.startswith("| ")]
    assert len(tables) == 4 + len(params.studies)  # variants, uses, each study, diagnostics, published results
    for lines in tables:
        assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert page == (reproduced.folder / "reports/results.md").read_text()


def test_times_of_runs_that_were_not_trained_here_are_left_out(files, monkeypatch):
    """Nor are damaged ones shown, or those of another curve."""
    monkeypatch.chdir(files)
    params, metadata = load_params(files / "params.yaml"), read_metadata(files / "data/prepared")
    runs = read_runs(params, metadata)
    names = [run.name for run in runs]
    assert list(epoch_times(runs)) == names
    curves_against_time(runs, epoch_times(runs), files / "all.png")
    (files / f"timings/epochs/{names[0]}.csv").unlink()
    (files / f"timings/epochs/{names[1]}.csv").write_text("epoch,seconds\n1,2.0\n2,4.0\n")
    assert list(epoch_times(runs)) == names[2:]
    curves_against_time(runs, {names[2]: [7200.0]}, files / "one.png")
    for name in ("all.png", "one.png"):
        with Image.open(files / name) as figure:
            assert figure.size[0] > 500
    (files / f"timings/epochs/{names[2]}.csv").write_text("epoch,seconds\n1,soon\n")
    assert epoch_times(runs) == {}
    figure = files / "reports/figures/against_time.png"
    assert figure.is_file()
    draw_times(runs, figure)
    assert not figure.exists()  # it would be that of older runs


def test_published_results_are_complete():
    rows = published_table(make_run())
    assert len(rows) > 5
    assert all(all(row) for row in rows)
    other = PROTOCOL | {"data": PROTOCOL["data"] | {"dataset": "CelebA", "binarization": "none"}}
    assert published_table(dataclasses.replace(make_run(), protocol=other)) == []
    assert nll_cell({"nll_nats": "85.1", "importance_samples": "200"}) == "85.1 (200 samples)"
    assert nll_cell({"nll_nats": "", "importance_samples": ""}) == "–"


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (("training", "batch_size"), r"training\.batch_size differs from metrics/protocol/"),
        (("data", "test", "binarization"), r"data\.test: other images than those in data/prepared"),
    ],
)
def test_table_refuses_two_protocols(files, monkeypatch, keys, says):
    monkeypatch.chdir(files)
    params, metadata = load_params(files / "params.yaml"), read_metadata(files / "data/prepared")
    assert [run.variant for run in read_runs(params, metadata)] == list(params.variants)
    path = files / "metrics/protocol/real-nvp-2-0.json"
    protocol = json.loads(path.read_text())
    part = protocol
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = "other"
    path.write_text(json.dumps(protocol))
    with pytest.raises(InputError, match=rf"^metrics/protocol/real-nvp-2-0\.json: {says}"):
        read_runs(params, metadata)


def test_params_that_no_longer_fit_the_runs_are_refused(files, monkeypatch):
    """Depth is read from params.yaml, and must be the depth that was trained."""
    monkeypatch.chdir(files)
    edit_params(files, lambda params: params["variants"]["planar-4"]["posterior"].update(num_transforms=9))
    with pytest.raises(InputError, match="planar-4"):
        read_runs(load_params(files / "params.yaml"), read_metadata(files / "data/prepared"))


def test_run_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_run().seed = 2


def test_image_grid_places_every_image():
    images = torch.arange(1.0, 7.0).view(2, 3, 1, 1, 1).expand(2, 3, 1, 4, 5) / 6
    grid = image_grid(images)
    assert grid.shape == (2 * (4 + GAP) + GAP, 3 * (5 + GAP) + GAP)
    for y in range(2):
        for x in range(3):
            top, left = GAP + y * (4 + GAP), GAP + x * (5 + GAP)
            assert np.allclose(grid[top : top + 4, left : left + 5], (3 * y + x + 1) / 6)
    assert np.isclose(grid.sum(), images.sum().item())  # nothing but the images


def test_image_grid_keeps_orientation_and_zooms():
    image = torch.tensor([[0.0, 0.5], [1.0, 0.25]]).view(1, 1, 1, 2, 2)
    assert np.array_equal(image_grid(image)[GAP:-GAP, GAP:-GAP], image[0, 0, 0].numpy())
    zoomed = image_grid(image, zoom=3)
    assert zoomed.shape == (6 + 2 * GAP, 6 + 2 * GAP)
    assert np.array_equal(zoomed[GAP:-GAP, GAP:-GAP], np.kron(image[0, 0, 0].numpy(), np.ones((3, 3))))


def test_grid_of_colour_images_keeps_the_channels_apart(tmp_path):
    images = torch.rand(2, 3, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    grid = image_grid(images, zoom=2)
    assert grid.shape == (2 * (8 + GAP) + GAP, 3 * (10 + GAP) + GAP, 3)
    for channel in range(3):
        assert np.array_equal(grid[..., channel], image_grid(images[:, :, channel : channel + 1], zoom=2))


def read_png(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("channels", [1, 3])
def test_8_bit_images_are_shown_as_they_are_on_white(tmp_path, channels):
    levels = torch.arange(256).repeat(channels, 1).view(1, 1, channels, 16, 16)
    levels = (levels + 50 * torch.arange(channels)[:, None, None]) % 256
    grid = with_titles(image_grid(as_ink(levels / 255, eight_bit=True)), ["left", "right"])
    write_png(tmp_path / "grid.png", grid)
    shown = read_png(tmp_path / "grid.png").reshape(grid.shape[0], grid.shape[1], channels)
    tile = shown[TITLE_HEIGHT + GAP : -GAP, GAP:-GAP]
    assert np.array_equal(tile, levels[0, 0].movedim(0, -1).numpy())
    assert (shown[TITLE_HEIGHT:, 0] == 255).all() and (shown[-1] == 255).all()
    assert shown[:TITLE_HEIGHT].min() < 128  # the titles, in black


def test_bits_are_black_on_white(tmp_path):
    bits = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(1, 1, 1, 2, 2)
    write_png(tmp_path / "grid.png", image_grid(as_ink(bits, eight_bit=False)))
    assert np.array_equal(read_png(tmp_path / "grid.png")[GAP:-GAP, GAP:-GAP], [[0, 255], [255, 0]])
