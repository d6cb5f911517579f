"""The headline says what the numbers say, and no more."""

import dataclasses

import numpy as np
from reporting import made_up_runs, make_run

from pipeline.report.headline import findings
from pipeline.report.table import summarize


def noisy(run, spread=1.0, seed=0):
    """The run with other scores of single images; their means stay."""
    draws = np.random.default_rng(seed).normal(0, spread, len(run.images.nll))
    draws -= draws.mean()
    images = dataclasses.replace(run.images, nll=run.images.nll + draws, negative_elbo=run.images.negative_elbo + draws)
    return dataclasses.replace(run, images=images)


def sentences(*runs):
    found = findings(runs, summarize(runs, "vae"), "vae")
    return [found.first, *found.others]


def test_the_best_is_named_with_its_gain_and_its_error():
    better = noisy(make_run("planar-4", 0, "planar", 4, nll_nats=83.0, negative_elbo_nats=88.0))
    first, *others = sentences(make_run(), better)
    assert first.startswith("planar-4 is the best model: its NLL is 83.00 ± 0.30 nats per test image, 2.00 ± 0.")
    assert first.endswith("nats lower than that of vae.")
    assert others == [
        "± is one standard error of differences image by image; with one training seed they leave out the luck of "
        "training, which only more seeds would show."
    ]


def test_a_gain_within_two_errors_is_not_sure():
    other = noisy(make_run("planar-4", 0, "planar", 4, nll_nats=84.9, negative_elbo_nats=90.0))
    first, *_ = sentences(make_run(), other)
    assert first.startswith(
        "No variant is surely a better model than vae: the largest gain in NLL is that of planar-4, +0.10 ± "
    )
    worse = noisy(make_run("planar-4", 0, "planar", 4, nll_nats=86.0, negative_elbo_nats=91.0))
    assert "planar-4, -1.00 ± " in sentences(make_run(), worse)[0]


def test_who_follows_and_whether_that_is_sure():
    runs = [
        make_run(),
        make_run("planar-4", 0, "planar", 4, nll_nats=83.0, negative_elbo_nats=88.0),
        make_run("planar-8", 0, "planar", 8, nll_nats=82.9, negative_elbo_nats=88.0),
    ]
    assert "planar-4 follows, 0.10 ± 0.00 nats behind." in sentences(*runs)
    runs[2] = noisy(runs[2])
    (text,) = (text for text in sentences(*runs) if "follows" in text)
    assert text.endswith("nats behind, so which of the two is better is open.")


def test_depth_posterior_and_prior():
    flow = {"flow": "real_nvp", "num_transforms": 5}
    runs = [
        make_run(),
        make_run("planar-2", 0, "planar", 2, nll_nats=84.0),
        make_run("planar-8", 0, "planar", 8, nll_nats=83.5),
        make_run("prior", 0, prior=flow, nll_nats=83.0),
    ]
    texts = sentences(*runs)
    parts = "in the posterior alone +1.50 ± 0.00 (planar-8); in the prior alone +2.00 ± 0.00 (prior)"
    assert f"The largest gain of a flow: {parts}." in texts
    assert "What depth adds in NLL: +0.50 ± 0.00 for planar (k = 2 to 8)." in texts
    runs[2] = noisy(make_run("planar-8", 0, "planar", 8, nll_nats=83.95))
    (text,) = (text for text in sentences(*runs) if "depth" in text)
    assert text.endswith("for planar (k = 2 to 8, which is not sure).")


def test_several_seeds_and_a_single_variant():
    assert sentences(make_run()) == ["Only vae was trained, so there is nothing to compare."]
    seeds = [make_run(seed=seed) for seed in (0, 1)]
    seeds += [make_run("planar-4", seed, "planar", 4, nll_nats=83.0) for seed in (0, 1)]
    assert sentences(*seeds)[-1].endswith("differences are averaged over 2 training seeds.")


def test_two_variants_at_one_depth():
    texts = sentences(*made_up_runs(20))
    assert texts[0].startswith("spline-coupling-5-b is the best model")  # the last of them
    (depth,) = (text for text in texts if "depth" in text)
    assert depth.count("k = 2 to 10") == 4
