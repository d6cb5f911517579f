"""evaluate: score one trained variant on the test set, and draw its samples and reconstructions."""

import math
import os
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowvae.data.arrays import open_images, read_info, read_metadata
from flowvae.data.images import ImageSet
from flowvae.diagnostics import Diagnostics, diagnose
from flowvae.evaluation import Evaluation, EvaluationConfig, evaluate
from flowvae.model.loading import load
from flowvae.model.networks import plain_weights
from flowvae.model.vae import VAE
from flowvae.randomness import generator
from pipeline import paths
from pipeline.device import device_text, keep_freed_memory, pick_device
from pipeline.files import read_json, write_json
from pipeline.params.schema import Params, run_name
from pipeline.pictures import as_ink, image_grid, write_png
from pipeline.running.placement import find_placement
from pipeline.running.timings import record_timing
from pipeline.scores import flat_metrics

FIGURE_COLUMNS = 16
TERMS = ("kl_per_dim", "posterior_ladj", "prior_ladj")  # of KL, in metrics/diagnostics
FEW_DRAWS = 3  # effective ones, below which an importance-weighted bound rests on a single draw or two


def run(params: Params, variant: str, seed: int) -> None:
    """Write the metrics, the scores of each image, the protocol, and figures of samples and reconstructions.

    Raises:
        InputError: params.yaml does not declare the run, or its input is missing or damaged.
    """
    name, config = run_name(variant, seed), params.evaluation
    params.check_run(variant, seed)
    placement = find_placement(None, torch.get_num_threads(), torch.cuda.device_count(), os.environ)
    test, vae = read_info(paths.PREPARED, "test"), load(paths.MODELS / name, "cpu")
    trained = read_json(paths.MODELS / name / "training.json")
    call = partial(score, plain_weights(vae), config)
    if placement.address:
        from pipeline.distributed.remote import compute_on_ray

        scored = compute_on_ray(call, paths.PREPARED.resolve(), read_metadata(paths.PREPARED), placement)
    else:
        scored = call(paths.PREPARED, pick_device())
    evaluation, seconds = scored.evaluation, scored.seconds
    num_images = test.shape[0]
    num_passes = num_images * config.num_elbo_samples + evaluation.num_nll_images * config.num_importance_samples
    write_json(paths.METRICS / f"{name}.json", flat_metrics(evaluation, vae, test.image_shape))
    evaluation.images.save(paths.SCORES / f"{name}.safetensors")
    write_json(paths.DIAGNOSTICS / f"{name}.json", diagnostics_content(scored.diagnostics, evaluation))
    counts = {"num_nll_images": evaluation.num_nll_images}
    protocol = {
        **trained,
        "data": trained["data"] | {"test": test.model_dump()},
        "evaluation": config.model_dump() | counts,
    }
    write_json(paths.PROTOCOLS / f"{name}.json", protocol)
    write_png(paths.FIGURES / "samples" / f"{name}.png", scored.samples)
    write_png(paths.FIGURES / "reconstructions" / f"{name}.png", scored.reconstructions)
    record_timing(
        "evaluate",
        name,
        seconds=seconds,
        images_per_second=num_passes / seconds,
        device=scored.device,
        placement=placement.text() if placement.address else "this process",
    )
    nll, bound = evaluation.nll, evaluation.negative_elbo
    effective = float(np.median(evaluation.images.effective_samples))
    print(
        f"{name}  -ELBO {bound.value:.2f} ± {bound.stderr:.2f}  NLL {nll.value:.2f} ± {nll.stderr:.2f} "
        f"({effective:.0f} of {config.num_importance_samples} draws effective)  {seconds:.0f} s"
    )
    if effective < FEW_DRAWS <= config.num_importance_samples:
        print(
            f"{name}: warning: for half of the images fewer than {FEW_DRAWS} draws are effective, so NLL is an upper "
            f"bound that is not tight; raise evaluation.num_importance_samples"
        )

    trip = scored.diagnostics.round_trip
    if trip and trip.lost:
        print(
            f"{name}: warning: the prior's flow does not return to the noise of {trip.lost:.1%} of its samples (worst "
            f"error {trip.worst:.2g}), so samples and interpolations in its space suffer; use a shallower prior, a "
            f"smaller log_scale_bound or act norm"
        )


def diagnostics_content(diagnostics: Diagnostics, evaluation: Evaluation) -> dict[str, Any]:
    """What metrics/diagnostics/*.json holds, in nats; null where a number is infinite."""
    trip = diagnostics.round_trip
    return {
        **{
            name: list(map(finite, getattr(diagnostics, name)))
            for name in ("kl_per_dim", "posterior_ladj", "prior_ladj")
        },
        "prior_gap": finite(diagnostics.prior_gap),
        "round_trip": {name: finite(value) for name, value in asdict(trip).items()} if trip else None,
        "nll_by_draws": {str(count): finite(value) for count, value in evaluation.nll_by_draws.items()},
        "median_effective_samples": finite(float(np.median(evaluation.images.effective_samples))),
    }


def finite(value: float) -> float | None:
    """A number with six significant digits; None for one that JSON cannot hold."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


@dataclass(frozen=True)
class Scored:
    """Scores and figures of one trained variant on the test set.

    Args:
        evaluation: the estimates.
        diagnostics: of the latents.
        samples: a figure of ink, shape (H, W), in colour (H, W, 3).
        reconstructions: the same.
        seconds: duration of the evaluation.
        device: description.
    """

    evaluation: Evaluation
    diagnostics: Diagnostics
    samples: np.ndarray
    reconstructions: np.ndarray
    seconds: float
    device: str


def score(vae: VAE, config: EvaluationConfig, prepared: Path, device: torch.device) -> Scored:
    """Evaluate a model and draw its figures on a device, with the test images in the folder `prepared`."""
    keep_freed_memory()
    images, vae = open_images(prepared, "test", device), vae.to(device)
    started = time.monotonic()
    evaluation = evaluate(vae, images, config)
    seconds = time.monotonic() - started
    diagnostics = diagnose(vae, images, config)
    ink = partial(as_ink, eight_bit=images.reading == "levels")
    figures = (
        image_grid(rows_of(ink(samples(vae, config.num_figure_images, config.seed)))),
        image_grid(pairs_of_rows(*map(ink, reconstructions(vae, images, config)))),
    )
    return Scored(evaluation, diagnostics, *figures, seconds, device_text(device))


@torch.inference_mode()
def samples(vae: VAE, num_images: int, seed: int) -> Tensor:
    """Means of the likelihood at draws from the prior, the same draws for every variant."""
    weight = next(vae.parameters())
    noise = generator(weight.device, seed, "prior")
    draws = torch.randn(num_images, vae.latent_dim, dtype=weight.dtype, device=weight.device, generator=noise)
    return vae.likelihood(vae.prior.from_noise(draws)).mean


@torch.inference_mode()
def reconstructions(vae: VAE, images: ImageSet, config: EvaluationConfig) -> tuple[Tensor, Tensor]:
    """Test images, and their reconstructions from the pushed posterior mean."""
    device, dtype = images.device, next(vae.parameters()).dtype
    images = images.freeze(generator(device, config.seed, "binarization"))
    chosen = torch.randperm(len(images), generator=generator("cpu", config.seed, "pairs"))[: config.num_figure_images]
    x = images.batch(chosen.to(device), dtype, generator(device, config.seed, "binarization"))
    return x, vae.likelihood(vae.posterior(x).push_loc()).mean


def pairs_of_rows(upper: Tensor, lower: Tensor) -> Tensor:
    """Each row of one set of images above that of the other, shape (2 rows, columns, C, H, W)."""
    return torch.stack((rows_of(upper), rows_of(lower)), dim=1).flatten(0, 1)


def rows_of(images: Tensor) -> Tensor:
    """(N, C, H, W) -> (rows, columns, C, H, W), the last row filled with blank images."""
    columns = min(FIGURE_COLUMNS, len(images))
    blank = images.new_zeros(-len(images) % columns, *images.shape[1:])
    return torch.cat((images, blank)).unflatten(0, (-1, columns))
