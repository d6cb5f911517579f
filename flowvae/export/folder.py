"""A model folder as it is handed on, in the layout of a repository on the Hugging Face hub."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import torch

from flowvae.errors import InputError
from flowvae.export.card import PICTURE, Card
from flowvae.export.onnx import check_installed, metadata_of, write_graphs
from flowvae.export.results import read_results
from flowvae.files import write_atomically
from flowvae.model.loading import load
from flowvae.model.networks import plain_weights
from flowvae.model.vae import VAE
from flowvae.model.weights import CONFIG, WEIGHTS
from flowvae.pictures import CHANNELS, picture_of, write_png
from flowvae.randomness import generator
from flowvae.sampling import decode_noise

CARD, ONNX = "README.md", "onnx"
NUM_SAMPLES = 32  # in the picture
SEED = 0
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


class Exported(NamedTuple):
    """What was written.

    Attributes:
        scored: whether the card has scores.
        differences: between onnxruntime and torch, by graph.
    """

    scored: bool
    differences: dict[str, float]


def export_model(
    folder: Path | str,
    out: Path | str,
    *,
    onnx: bool = False,
    metrics: Path | str | None = None,
    license: str | None = None,
) -> Exported:
    """Write a folder to hand on: weights, config, results, a model card, and a picture of samples.

    Args:
        folder: a model, as `vae.save` or a project wrote it.
        out: the new folder.
        onnx: whether to add `encoder.onnx`, `decoder.onnx` and `sampler.onnx`, which takes the extra `onnx`.
        metrics: a file of scores; default: those beside the model, or in its project.
        license: identifier on the hub, such as `mit`.

    Raises:
        InputError: the model or its results are damaged, there is something at `out`, or ONNX is impossible.
        OSError: a file cannot be written.
    """
    folder, out = Path(folder), Path(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise InputError(f"--out: {out}: exists; choose a new folder, or remove it first")
    if license is not None and not LICENSE.fullmatch(license):
        raise InputError(f"--license: {license!r}: expected an identifier of the hub, such as mit or apache-2.0")
    if onnx:
        check_installed()
    vae = plain_weights(load(folder))
    results = read_results(folder, vae, Path(metrics) if metrics else None)
    with whole_folder(out) as partial:
        for name in (WEIGHTS, CONFIG):
            write_atomically(partial / name, (folder / name).read_bytes())
        results.write(partial)
        picture = write_samples(vae, partial / PICTURE)
        checksum = json.loads((partial / CONFIG).read_bytes())["weights_sha256"]
        differences = write_graphs(vae, partial / ONNX, metadata_of(vae, own_version(), checksum)) if onnx else {}
        card = Card(folder.resolve().name, vae, results, own_version(), picture, differences, license)
        write_atomically(partial / CARD, card.text.encode())
    return Exported(bool(results.metrics), differences)


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `out` at the end, and is removed if anything fails."""
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@torch.inference_mode()
def write_samples(vae: VAE, path: Path) -> bool:
    """Write a picture of samples. Returns: whether its images can be shown."""
    if vae.config.image_shape[0] not in CHANNELS:
        return False
    like = next(vae.parameters())
    noise = torch.randn(NUM_SAMPLES, vae.latent_dim, generator=generator("cpu", SEED, "prior"), dtype=like.dtype)
    means = decode_noise(vae, noise, NUM_SAMPLES).images
    draws = decode_noise(vae, noise, NUM_SAMPLES, generator("cpu", SEED, "pixels")).images
    write_png(path, picture_of(means, draws))
    return True


def own_version() -> str:
    """The version of flowvae that is installed."""
    try:
        return version("flowvae")
    except PackageNotFoundError:  # a source tree
        return "0+unknown"
