"""What the latents of a trained model are good for: imputation of missing pixels, and a linear probe."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowvae.conditional import log_prob_observed, pilot_images, upper_half
from flowvae.data.images import ImageSet
from flowvae.estimates import Estimate, ImageScores, mean_estimate
from flowvae.evaluation import batch_of
from flowvae.imputation import impute
from flowvae.model.vae import VAE
from flowvae.randomness import generator
from pipeline.galleries import FIGURE_COLUMNS, some_images, titled_rows
from pipeline.params.schema import DownstreamConfig, ImputationConfig
from pipeline.probe import LabelledImages, probe

GREY = 0.5  # of missing pixels in figures
IMPUTATIONS = 4  # of each image in figures


@dataclass(frozen=True)
class Imputation:
    """NLL of the lower half of test images, given the upper half.

    Args:
        images: positions in the test set, shape (n,).
        nll: -log p(x_m|x_o) in nats, shape (n,).
        effective: number of the particles where it was smallest, shape (n,).
    """

    images: np.ndarray
    nll: np.ndarray
    effective: np.ndarray


@dataclass(frozen=True)
class Downstream:
    """Results.

    Args:
        imputation: None if no image is scored.
        accuracies: of the probe, by the number of labels per class; empty without labels.
        figure: of imputations, ink, shape (H, W), in colour (H, W, 3).
    """

    imputation: Imputation | None
    accuracies: dict[int, Estimate]
    figure: np.ndarray

    def metrics(self) -> dict[str, float]:
        """Headline numbers for metrics/*.json."""
        found: dict[str, float] = {}
        if self.imputation:
            nll = mean_estimate(self.imputation.nll)
            found |= {"missing_nll_nats": round(nll.value, 4), "missing_nll_stderr": round(nll.stderr, 4)}
        for number, accuracy in self.accuracies.items():
            name = f"probe_accuracy_{number}"
            found |= {name: round(accuracy.value, 6), f"{name}_stderr": round(accuracy.stderr, 6)}
        return {name: value for name, value in found.items() if np.isfinite(value)}

    def content(self) -> dict[str, Any]:
        """What metrics/downstream/*.json holds; infinite numbers are null."""
        scored = self.imputation
        return {
            "imputation": scored
            and {
                "images": scored.images.tolist(),
                "nll": [short(value) for value in scored.nll.tolist()],
                "effective": [short(value) for value in scored.effective.tolist()],
            },
            "probe": {
                str(number): {"accuracy": short(each.value), "stderr": short(each.stderr)}
                for number, each in self.accuracies.items()
            },
        }


def short(value: float) -> float | None:
    """A number with six significant digits; None for one that JSON cannot hold."""
    return float(f"{value:.6g}") if np.isfinite(value) else None


def measure(
    vae: VAE,
    config: DownstreamConfig,
    train: ImageSet,
    test: ImageSet,
    scores: ImageScores,
    labelled: LabelledImages | None,
    seed: int,
) -> Downstream:
    """Measure everything that the settings ask for.

    Args:
        vae: the model, on the device of the images.
        config: the settings.
        train, test: the images.
        scores: of the test images, with the same seed.
        labelled: images for the probe; None to leave it out.
        seed: of all draws.
    """
    vae.eval().requires_grad_(False)
    frozen = test.freeze(generator(test.device, seed, "binarization"))  # the bits that were scored
    imputation = score_imputation(vae, config.imputation, train, frozen, scores, seed)
    accuracies = probe(vae, train, frozen, labelled, config.probe.regularization, seed) if labelled else {}
    return Downstream(imputation, accuracies, imputation_figure(vae, config.imputation, test, seed))


def score_imputation(
    vae: VAE, config: ImputationConfig, train: ImageSet, test: ImageSet, scores: ImageScores, seed: int
) -> Imputation | None:
    """Estimate log p(x_m|x_o) = log p(x) - log p(x_o) of some of the images whose NLL is known."""
    if not config.num_images:
        return None
    order = torch.randperm(len(scores.subset), generator=generator("cpu", seed, "subset", 3))
    rows = order[: config.num_images].sort().values.numpy()
    images = scores.subset[rows]
    x = batch_of(test, torch.from_numpy(images).to(test.device), vae)
    observed = upper_half(*test.image_shape[1:], test.device)
    pilot = pilot_images(train, vae, seed)
    found = log_prob_observed(vae, x, observed, pilot, config.num_particles, config.num_temperatures, seed)
    nll = found.log_prob_observed.double().numpy() + scores.nll[rows]
    return Imputation(images, nll, found.effective.numpy())


def imputation_figure(vae: VAE, config: ImputationConfig, test: ImageSet, seed: int) -> np.ndarray:
    """Test images, what is observed of them, and draws of the rest by the chain of `impute`, one below the other."""
    x = some_images(test, FIGURE_COLUMNS, seed, vae)
    missing = ~upper_half(*test.image_shape[1:], test.device).expand(test.image_shape)
    draws = generator(x.device, seed, "pixels", 1)
    imputed = impute(vae, x.repeat(IMPUTATIONS, 1, 1, 1), missing, config.num_steps, draws).draws
    titled: dict[str, Tensor] = {
        "test images": x,
        "observed": torch.where(missing, GREY, x),
        f"imputed, {config.num_steps} steps of the chain": imputed,
    }
    return titled_rows(titled, test.reading == "levels", columns=len(x))
