"""evaluate: score one trained variant on the test set, and draw its samples and reconstructions."""

import math
import os
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from flowvae.data.arrays import open_images, open_labels, read_info, read_metadata
from flowvae.diagnostics import Diagnostics, diagnose
from flowvae.evaluation import Evaluation, EvaluationConfig, evaluate
from flowvae.labels import read_train_labels
from flowvae.model.loading import load
from flowvae.model.networks import plain_weights
from flowvae.model.vae import VAE
from flowvae.pictures import write_png
from pipeline import paths
from pipeline.device import device_text, keep_freed_memory, pick_device
from pipeline.downstream import Downstream, measure
from pipeline.files import read_json, write_json
from pipeline.galleries import Galleries, draw_galleries
from pipeline.params.schema import DownstreamConfig, Params, run_name
from pipeline.probe import LabelledImages, draw_labelled
from pipeline.running.placement import find_placement
from pipeline.running.timings import record_timing
from pipeline.scores import flat_metrics

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
    labelled = draw_labelled(
        read_train_labels(paths.PREPARED),
        open_labels(paths.PREPARED).numpy(),
        params.downstream.probe.num_labels,
        params.downstream.probe.num_draws,
        config.seed,
    )
    call = partial(score, plain_weights(vae), config, params.downstream, labelled)
    if placement.address:
        from pipeline.distributed.remote import compute_on_ray

        scored = compute_on_ray(call, paths.PREPARED.resolve(), read_metadata(paths.PREPARED), placement)
    else:
        scored = call(paths.PREPARED, pick_device())
    evaluation, seconds = scored.evaluation, scored.seconds
    num_images = test.shape[0]
    num_passes = num_images * config.num_elbo_samples + evaluation.num_nll_images * config.num_importance_samples
    write_json(
        paths.METRICS / f"{name}.json", flat_metrics(evaluation, vae, test.image_shape) | scored.downstream.metrics()
    )
    evaluation.images.save(paths.SCORES / f"{name}.safetensors")
    write_json(paths.DIAGNOSTICS / f"{name}.json", diagnostics_content(scored))
    write_json(paths.DOWNSTREAM / f"{name}.json", scored.downstream.content())
    counts = {"num_nll_images": evaluation.num_nll_images}
    protocol = {
        **trained,
        "data": trained["data"] | {"test": test.model_dump()},
        "evaluation": config.model_dump() | counts,
        "downstream": params.downstream.model_dump(),
    }
    write_json(paths.PROTOCOLS / f"{name}.json", protocol)
    for folder, figure in (scored.galleries.figures | {"imputations": scored.downstream.figure}).items():
        write_png(paths.FIGURES / folder / f"{name}.png", figure)
    record_timing(
        "evaluate",
        name,
        seconds=seconds,
        images_per_second=num_passes / seconds,
        device=scored.device,
        placement=placement.text() if placement.address else "this process",
    )
    nll, bound = evaluation.nll, evaluation.negative_elbo
    effective = evaluation.median_effective_samples
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


def diagnostics_content(scored: "Scored") -> dict[str, Any]:
    """What metrics/diagnostics/*.json holds, in nats; null where a number is infinite."""
    diagnostics, evaluation = scored.diagnostics, scored.evaluation
    trip = diagnostics.round_trip
    return {
        **{
            name: list(map(finite, getattr(diagnostics, name)))
            for name in ("kl_per_dim", "posterior_ladj", "prior_ladj")
        },
        "prior_gap": finite(diagnostics.prior_gap),
        "round_trip": {name: finite(value) for name, value in asdict(trip).items()} if trip else None,
        "nll_by_draws": {str(count): finite(value) for count, value in evaluation.nll_by_draws.items()},
        "median_effective_samples": finite(evaluation.median_effective_samples),
        "nearest": {name: finite(value) for name, value in scored.galleries.nearest.items()},
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
        galleries: figures of samples and reconstructions.
        downstream: what the latents are good for.
        seconds: duration of the evaluation.
        device: description.
    """

    evaluation: Evaluation
    diagnostics: Diagnostics
    galleries: Galleries
    downstream: Downstream
    seconds: float
    device: str


def score(
    vae: VAE,
    config: EvaluationConfig,
    downstream: DownstreamConfig,
    labelled: LabelledImages | None,
    prepared: Path,
    device: torch.device,
) -> Scored:
    """Evaluate a model and draw its figures on a device, with the images in the folder `prepared`."""
    keep_freed_memory()
    images, vae = open_images(prepared, "test", device), vae.to(device)
    started = time.monotonic()
    evaluation = evaluate(vae, images, config)
    seconds = time.monotonic() - started
    diagnostics = diagnose(vae, images, config)
    train = open_images(prepared, "train", device)
    galleries = draw_galleries(vae, train, images, config)
    measured = measure(vae, downstream, train, images, evaluation.images, labelled, config.seed)
    return Scored(evaluation, diagnostics, galleries, measured, seconds, device_text(device))
