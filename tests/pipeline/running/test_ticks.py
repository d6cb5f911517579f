"""Ticks of stages: what is read of their output."""

import pytest

from pipeline.running.ticks import MARK, Tick, print_tick, read_scores, read_tick


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("vae-0  epoch 2/5  -ELBO train 94.66", Tick(2, 5, "epoch")),
        ("vae-0  step 26/2605  4,000 images/s", Tick(26, 2605, "step")),
        ("depth  3/9 trials ended", None),
        ("depth  trials 3/9", Tick(3, 9, "trial")),
        ("prepare  images 512/11000", Tick(512, 11000, "image")),
        ("Logical resource usage: 2.0/2 CPUs", None),
        ("step 0/0", None),
        (f"{MARK}{{broken", None),
        (f"{MARK}{{}}", None),
    ],
)
def test_the_progress_that_a_line_reports(line, expected):
    assert read_tick(line) == expected


def test_a_tick_is_read_as_it_was_printed(capsys):
    """Also behind the name of a worker of Ray's."""
    tick = Tick(3, 12, "step", images_per_second=812.5, negative_elbo=94.25)
    print_tick(tick)
    assert read_tick(f"(RayTrainWorker pid=7) {capsys.readouterr().out}") == tick
    assert tick.fraction == 0.25


def test_scores_are_read_as_evaluate_prints_them():
    line = "vae-0  -ELBO 94.29 ± 0.25  NLL 90.19 ± 0.27 (57 of 200 draws effective)  12 s"
    assert read_scores(line) == "-ELBO 94.29 ± 0.25, NLL 90.19 ± 0.27"
    assert read_scores("vae-0  epoch 2/5  -ELBO train 94.66, valid 94.30 = rec 71.07 + KL 23.23") is None
