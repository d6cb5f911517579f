"""Made-up results: runs whose numbers are known, and a whole report of them."""

import dataclasses
from typing import Any

import numpy as np
import torch
from project import ROOT
from ruamel.yaml import YAML

from flowvae.data.arrays import SPLITS, ArrayInfo, Metadata, Provenance
from flowvae.estimates import ImageScores
from flowvae.pictures import image_grid, sheet, write_png
from flowvae.randomness import generator
from pipeline import paths
from pipeline.latents import MAP_COLUMNS, MAP_IMAGES, STEPS, LatentMap, num_ends
from pipeline.params.schema import Params
from pipeline.report.latents import read_latents
from pipeline.report.page import Report
from pipeline.report.runs import ScoredRun
from pipeline.report.table import summarize
from pipeline.report.variants import GALLERIES, IMPUTATIONS
from pipeline.stages.interpolate import Drawn, write_latents

PROTOCOL = {
    "variant": "vae",
    "seed": 0,
    "epochs": 5,
    "training": {"epochs": 5, "batch_size": 128},
    "data": {
        "dataset": "MNIST",
        "binarization": "static",
        "binarization_seed": 0,
        "split": "in order",
        "image_shape": [1, 28, 28],
        "counts": {"train": 50_000, "valid": 10_000, "test": 10_000},
        "banner": None,
    },
    "evaluation": {"num_importance_samples": 200, "num_elbo_samples": 10, "num_nll_images": 2000},
}
METRICS = {
    "reconstruction_nats": 60.0,
    "kl_nats": 30.0,
    "negative_elbo_nats": 90.0,
    "negative_elbo_stderr": 0.2,
    "nll_nats": 85.0,
    "nll_stderr": 0.3,
    "negative_elbo_bits_per_dim": 0.1656,
    "negative_elbo_bits_per_dim_stderr": 0.0004,
    "nll_bits_per_dim": 0.1564,
    "nll_bits_per_dim_stderr": 0.0006,
    "active_units": 20,
    "parameters": 1_234_567,
}
IMAGES = np.random.default_rng(0).normal(90, 20, 50)  # −ELBO of each test image, before it is shifted


DIAGNOSTICS = {
    "kl_per_dim": [1.0, 0.5],
    "posterior_ladj": [0.25, 0.5],
    "prior_ladj": [],
    "prior_gap": 0.7,
    "round_trip": None,
    "nll_by_draws": {"1": 95.0, "10": 91.0, "200": 85.0},
    "median_effective_samples": 12.34,
    "nearest": {"samples": 0.2, "test_images": 0.25},
}
NO_FLOW = {"flow": "none", "num_transforms": 0}


def make_run(
    variant: str = "vae", seed: int = 0, flow: str = "none", num_transforms: int = 0, prior=NO_FLOW, **metrics
):
    """A run whose images have the mean −ELBO and NLL of its metrics; each image is shifted by as much."""
    settings, metrics = {"flow": flow, "num_transforms": num_transforms}, METRICS | metrics
    bounds, nll = (IMAGES - IMAGES.mean() + metrics[name] for name in ("negative_elbo_nats", "nll_nats"))
    scores = ImageScores(bounds, bounds - 30, np.full(50, 30.0), np.arange(50), nll, bounds, np.full(50, 9.0))
    protocol = PROTOCOL | {"variant": variant, "seed": seed, "posterior": settings, "prior": prior}
    return ScoredRun(variant, seed, metrics, protocol, [], scores, DIAGNOSTICS, made_up_downstream(metrics["nll_nats"]))


def made_up_downstream(nll: float) -> dict[str, Any]:
    """Missing pixels of ten images, and a probe that is better where NLL is lower."""
    accuracies = {10: 0.73, 100: 0.9, 1000: 0.93}
    return {
        "imputation": {
            "images": list(range(10)),
            "nll": [nll / 2 + 3 * (i % 5) for i in range(10)],
            "effective": [12.5] * 10,
        },
        "probe": {
            str(count): {"accuracy": value + (85 - nll) / 200, "stderr": 0.01 / (1 + count / 100)}
            for count, value in accuracies.items()
        },
    }


def made_up_runs(num_variants: int) -> list[ScoredRun]:
    """Runs with learning curves: the plain VAE, and families at several depths, with two variants at k = 5."""
    runs = [make_run()]
    for family in ("planar", "real_nvp", "radial", "sylvester", "spline_coupling", "autoregressive"):
        for depth, end in ((2, ""), (5, ""), (5, "-b"), (10, "")):
            better = 0.2 * len(runs)
            scores = {"negative_elbo_nats": 90 - better, "nll_nats": 85 - better}
            runs.append(make_run(f"{family.replace('_', '-')}-{depth}{end}", 0, family, depth, **scores))
    curves = [[point(epoch, 0.2 * i) for epoch in range(1, 31)] for i in range(num_variants)]
    return [dataclasses.replace(run, curve=curve) for run, curve in zip(runs[:num_variants], curves, strict=True)]


def point(epoch: int, better: float) -> dict[str, float]:
    """A point of a learning curve."""
    loss = 90 + 50 / epoch - better
    return {"epoch": epoch, "train_negative_elbo": loss, "valid_negative_elbo": loss + 1}


def made_up_params(runs: list[ScoredRun]) -> Params:
    """params.yaml with the variants of runs; of their settings only families and depths are theirs."""
    content = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text())
    content["variants"] = {run.variant: {"posterior": {"flow": "none"}, "prior": {"flow": "none"}} for run in runs}
    content["interpolation"].update(left=runs[0].variant, right=runs[-1].variant)
    content["studies"] = {}
    return Params.model_validate(content)


def made_up_metadata() -> Metadata:
    """Metadata of PROTOCOL's images."""
    data = PROTOCOL["data"]
    counts = data["counts"]
    arrays = {
        split: ArrayInfo(shape=(counts[split], 1, 28, 28), binarization="static", sha256=str(i) * 64)
        for i, split in enumerate(SPLITS)
    }
    provenance = Provenance(
        dataset="MNIST",
        origin="made up",
        binarization_seed=0,
        split="in order",
        processing=None,
        corrupt={},
        banner=None,
    )
    return Metadata(arrays=arrays, provenance=provenance)


def made_up_report(num_variants: int, digits: np.ndarray) -> Report:
    """A report whose pictures are made of digits and written into the working folder.

    Args:
        num_variants: at most 25.
        digits: ink in [0, 1], shape (N, 28, 28), N at least 600.
    """
    runs = made_up_runs(num_variants)
    params, rows = made_up_params(runs), summarize(runs, "vae")
    ink = torch.from_numpy(digits.astype(np.float32))[:, None]
    draws = generator("cpu", 0, "pairs")
    for run in runs:
        some = ink[torch.randperm(len(ink), generator=draws)[:192]].unflatten(0, (12, 16))
        for gallery in (*GALLERIES, IMPUTATIONS):
            write_png(paths.FIGURES / gallery.folder / f"{run.name}.png", image_grid(some))
    write_latents(made_up_latents([run.variant for run in runs], ink, draws))
    return Report(params, runs, rows, [], read_latents(params), made_up_metadata())


def made_up_latents(variants: list[str], ink: torch.Tensor, draws: torch.Generator) -> Drawn:
    """Paths that blend digits, which differ from variant to variant, and random maps."""
    ends = num_ends((1, 28, 28), len(variants))
    t = torch.linspace(0, 1, STEPS)[None, :, None, None, None]
    sheets = {}
    for variant in variants:
        one, other = (ink[torch.randperm(len(ink), generator=draws)[: ends * (ends - 1) // 2], None] for _ in range(2))
        sheets[variant] = sheet((1 - t) * one + t * other)
    maps = {name: LatentMap(torch.randn(MAP_IMAGES, 2, generator=draws).double().numpy(), 0.25) for name in variants}
    rows = ink[:MAP_IMAGES].unflatten(0, (-1, MAP_COLUMNS))
    return Drawn(
        grid=np.zeros((28, 28), np.float32),
        num_pairs=8,
        sheets={"ends": sheet(ink[None, :ends]), "images": sheet(rows.round())},
        paths=sheets,
        maps=maps,
        ends=list(range(ends)),
        labels=[i % 10 for i in range(MAP_IMAGES)],
        image_shape=(1, 28, 28),
    )
