"""prepare: decode, binarize and split the images that `fetch` found."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from torch import Tensor

from flowvae.data.arrays import write_arrays
from flowvae.data.binarization import binarize
from flowvae.data.config import DataConfig
from flowvae.data.datasets import SOURCES, sources_of
from flowvae.data.rows import SPLITS, Source
from flowvae.data.streaming import decode_source, image_files, work_id
from flowvae.errors import InputError
from pipeline import paths
from pipeline.corrupt import check_corrupt, corrupt_banner
from pipeline.files import read_json
from pipeline.params import Params, describe_values
from pipeline.raw import obtain

SECONDS_BETWEEN_LINES = 5


def run(params: Params) -> None:
    data, found = params.data, read_json(paths.SOURCE)
    name = found.get("source")
    if name not in sources_of(data):
        raise InputError(
            f"{paths.SOURCE}: damaged, expected a source among {', '.join(sources_of(data))}, got {name!r}; "
            "run dvc repro"
        )
    source = SOURCES[name].read(obtain(SOURCES[name], data), data)
    # Not in data/prepared, which DVC empties before this stage runs: what a killed run has done is found again.
    work = paths.CHECKPOINTS / f"prepare-{work_id(image_files(source))}"
    decoded, corrupt = decode_source(source, work, num_cores(), progress())
    check_corrupt(source, corrupt, data.max_corrupt)
    metadata = write_arrays(
        paths.PREPARED,
        decoded.images,
        decoded.test_labels,
        partial(write_as, source, data),
        dataset=source.dataset,
        source=name,
        origin=source.origin,
        binarization=data.binarization,
        binarization_seed=data.seed,
        split=source.split,
        processing=source.processing,
        corrupt={split: len(corrupt.get(split, ())) for split in SPLITS},
        fingerprint=found.get("fingerprint"),
        banner=" ".join(filter(None, (source.banner, corrupt_banner(source, corrupt)))) or None,
    )
    for finished in paths.CHECKPOINTS.glob("prepare-*"):
        shutil.rmtree(finished)
    counts = " / ".join(f"{count:,} {split}" for split, count in metadata.counts.items())
    print(f"prepare: {source.dataset}, {describe_values(data.binarization)}: {counts}")
    if metadata.banner:
        print(metadata.banner, file=sys.stderr)


def write_as(source: Source, data: DataConfig, chunks: Iterable[Tensor], split: int) -> Iterator[Tensor]:
    """What is written of the images of a split."""
    return binarize(chunks, "none" if source.bits else data.binarization, data.seed, split)


def num_cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def progress() -> Callable[[int, int], None]:
    """A callback that prints how far decoding is, now and then."""
    last = time.monotonic()

    def on_progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > SECONDS_BETWEEN_LINES or done == total:
            print(f"prepare  images {done}/{total}", flush=True)
            last = time.monotonic()

    return on_progress
