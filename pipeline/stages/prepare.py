"""prepare: decode, binarize and split the images that `fetch` found."""

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from torch import Tensor

from flowvae.data.arrays import SPLITS, pixel_text
from flowvae.datasets.binarization import binarize
from flowvae.datasets.config import DataConfig
from flowvae.datasets.decoding import Decoded, decode_dataset, decoding_id
from flowvae.datasets.raw import RawDataset
from flowvae.datasets.registry import SOURCES, sources_of
from flowvae.datasets.shards import gathering_id, skipped_images
from flowvae.datasets.writing import Preparation, write_arrays
from flowvae.errors import InputError
from pipeline import paths
from pipeline.downloads import obtain
from pipeline.files import read_json, write_text
from pipeline.params.schema import Params
from pipeline.running.machine import available_cpus

SECONDS_BETWEEN_REPORTS = 5
CORRUPT_LIST = paths.LOGS / "prepare" / "corrupt.txt"
MIN_IMAGES = {"train": 2, "valid": 2, "test": 2}
CORRUPT_SHOWN = 10  # in the terminal; the file lists all


def run(params: Params) -> None:
    """Write data/prepared."""
    data, found = params.data, read_json(paths.SOURCE)
    source = str(found.get("source"))
    CORRUPT_LIST.unlink(missing_ok=True)  # of an earlier run
    if source not in sources_of(data):
        raise InputError(
            f"{paths.SOURCE}: damaged, expected a source among {', '.join(sources_of(data))}, got {source!r}; "
            "run dvc repro"
        )
    entry = SOURCES[source]
    raw = entry.read(gathered(data) if entry.is_gathered else obtain(entry, data), data)
    check_counts(raw)
    # Not in data/prepared, which DVC empties before this stage runs: a run that was killed is resumed from here.
    folder = paths.CHECKPOINTS / f"prepare-{decoding_id(raw.files)}"
    decoded = decode_dataset(raw, folder, available_cpus(), progress_printer())
    check_corrupt(raw, decoded, data.max_corrupt)
    check_counts(decoded.dataset)
    preparation = Preparation(
        source=found,
        binarization=data.binarization,
        binarization_seed=data.seed,
        corrupt={split: len(decoded.corrupt.get(split, ())) for split in SPLITS},
        banner=" ".join(filter(None, (raw.banner, corrupt_banner(raw, decoded)))) or None,
    )
    metadata = write_arrays(paths.PREPARED, decoded.dataset, partial(pixels_to_write, raw, data), preparation)
    for finished in paths.CHECKPOINTS.glob("prepare-*"):
        shutil.rmtree(finished)
    counts = " / ".join(f"{count:,} {split}" for split, count in metadata.counts.items())
    print(f"prepare: {raw.dataset}, {pixel_text(data.binarization)}: {counts}")
    print(f"prepare: split: {raw.split}")
    if raw.note:
        print(f"prepare: {raw.note}")
    if preparation.banner:
        print(preparation.banner, file=sys.stderr)


def gathered(data: DataConfig) -> Path:
    """Let Ray read and decode shards. A run that was killed starts again, unless it had read all of them.

    Returns:
        The folder with their images.

    Raises:
        InputError: shards cannot be read, or more of their images than the limit.
    """
    from pipeline.distributed.shards import gather_shards

    folder = paths.CHECKPOINTS / f"prepare-{gathering_id(data)}"
    gather_shards(data, folder, progress_printer())
    skipped, total = skipped_images(folder)
    report_corrupt(skipped, total, data.max_corrupt, too_many=False)
    return folder


def pixels_to_write(raw: RawDataset, data: DataConfig, chunks: Iterable[Tensor], split: int) -> Iterator[Tensor]:
    """Binarize the images of a split, unless they are bits already."""
    return binarize(chunks, "none" if raw.bits else data.binarization, data.seed, split)


def check_counts(dataset: RawDataset) -> None:
    """Raise InputError if there are too few images for standard errors, or for an interpolation."""
    counts = {split: len(images) for split, images in dataset.images.items()}
    for split, least in MIN_IMAGES.items():
        if counts[split] < least:
            split_text = ", ".join(f"{count} {name}" for name, count in counts.items())
            raise InputError(
                f"data: {dataset.dataset}: expected at least {least} images for {split}, got {counts[split]} "
                f"({split_text}; {dataset.split}); add images, or change the fractions"
            )


def progress_printer() -> Callable[[int, int | None], None]:
    """A callback that prints the progress of decoding now and then; None for an unknown number of images."""
    last = time.monotonic()

    def on_progress(done: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last > SECONDS_BETWEEN_REPORTS or done == total:
            print(f"prepare  images {done}" + ("" if total is None else f"/{total}"), flush=True)
            last = time.monotonic()

    return on_progress


def check_corrupt(raw: RawDataset, decoded: Decoded, limit: float) -> None:
    """List the images that cannot be read.

    Raises:
        InputError: they are more than the limit, or all images of a split.
    """
    files = raw.files
    lines = [
        f"{files[split].folder / files[split].names[i]}: {reason}"
        for split, corrupt in decoded.corrupt.items()
        for i, reason in corrupt.items()
    ]
    emptied = any(len(corrupt) == len(files[split]) for split, corrupt in decoded.corrupt.items())
    report_corrupt(lines, sum(map(len, files.values())), limit, too_many=emptied)


def report_corrupt(lines: list[str], total: int, limit: float, *, too_many: bool) -> None:
    """List the images that cannot be read.

    Args:
        lines: path and reason of each.
        total: number of all images.
        limit: the largest fraction that is allowed.
        too_many: whether they are too many even below the limit.

    Raises:
        InputError: they are more than the limit.
    """
    if not lines:
        return
    lines = [line.encode(errors="backslashreplace").decode() for line in lines]
    write_text(CORRUPT_LIST, "\n".join(lines) + "\n")
    if too_many or len(lines) > limit * total:
        raise InputError(
            f"data.max_corrupt: {len(lines):,} of {total:,} images cannot be read, and the limit is a fraction of "
            f"{limit}; the first is {lines[0]}; {CORRUPT_LIST} lists all; fix or remove them, or raise the limit"
        )
    for line in lines[:CORRUPT_SHOWN]:
        print(f"prepare: skipped {line}", file=sys.stderr)
    if len(lines) > CORRUPT_SHOWN:
        print(f"prepare: skipped {len(lines) - CORRUPT_SHOWN:,} more, listed in {CORRUPT_LIST}", file=sys.stderr)


def corrupt_banner(raw: RawDataset, decoded: Decoded) -> str | None:
    """The warning that readers need if images were skipped."""
    counts = {split: len(corrupt) for split, corrupt in decoded.corrupt.items() if corrupt}
    if not counts:
        return None
    total = sum(map(len, raw.files.values()))
    splits = ", ".join(f"{count:,} of {split}" for split, count in counts.items())
    return f"CORRUPT IMAGES SKIPPED: {sum(counts.values()):,} of {total:,} images could not be read ({splits})."
