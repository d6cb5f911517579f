"""prepare: decode, binarize and split the images that `fetch` found."""

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from flowvae.data.arrays import SPLITS, pixel_text
from flowvae.datasets.binarization import binarize
from flowvae.datasets.config import DataConfig
from flowvae.datasets.decoding import Decoded, decode_dataset, decoding_id
from flowvae.datasets.raw import RawDataset
from flowvae.datasets.registry import SOURCES, sources_of
from flowvae.datasets.shards import gathering_id
from flowvae.datasets.writing import Preparation, write_arrays
from flowvae.errors import InputError
from pipeline import paths
from pipeline.downloads import obtain
from pipeline.files import read_json, write_text
from pipeline.params.schema import Params
from pipeline.running.machine import available_cpus

SECONDS_BETWEEN_REPORTS = 5
CORRUPT_LIST = paths.LOGS / "prepare" / "corrupt.txt"
UNKNOWN = "unknown"  # the split of unreadable images that were to be drawn
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
    # Not in data/prepared, which DVC empties before this stage runs: a run that was killed is resumed from here.
    folder = paths.CHECKPOINTS / f"prepare-{decoding_id(raw.files)}"
    check_counts(raw, raw.skipped)
    decoded = decode_dataset(raw, folder, available_cpus(), progress_printer())
    corrupt = corrupt_images(raw, decoded)
    num_images = sum(map(len, (*raw.images.values(), *raw.skipped.values())))
    check_corrupt(corrupt, num_images, data.max_corrupt)
    check_counts(decoded.dataset, corrupt)
    preparation = Preparation(
        source=found,
        binarization=data.binarization,
        binarization_seed=data.seed,
        corrupt=dict.fromkeys(SPLITS, 0) | {split or UNKNOWN: len(lines) for split, lines in corrupt.items()},
        banner=" ".join(filter(None, (raw.banner, corrupt_banner(corrupt, num_images)))) or None,
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
        InputError: shards cannot be read.
    """
    from pipeline.distributed.shards import gather_shards

    folder = paths.CHECKPOINTS / f"prepare-{gathering_id(data)}"
    gather_shards(data, folder, progress_printer())
    return folder


def pixels_to_write(raw: RawDataset, data: DataConfig, chunks: Iterable[Tensor], split: int) -> Iterator[Tensor]:
    """Binarize the images of a split, unless they are bits already."""
    return binarize(chunks, "none" if raw.bits else data.binarization, data.seed, split)


def check_counts(dataset: RawDataset, corrupt: Mapping[str, Sequence[str]]) -> None:
    """Check that there are enough images for standard errors, and for an interpolation.

    Args:
        dataset: its readable images.
        corrupt: path and reason of each other image, by split.

    Raises:
        InputError: a split has too few.
    """
    counts = {split: len(images) for split, images in dataset.images.items()}
    for split, least in MIN_IMAGES.items():
        if counts[split] < least:
            split_text = ", ".join(f"{count} {name}" for name, count in counts.items())
            if unreadable := sum(map(len, corrupt.values())):
                split_text += f", {unreadable} unreadable"
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


def corrupt_images(raw: RawDataset, decoded: Decoded) -> dict[str, list[str]]:
    """Path and reason of each image that cannot be read, by split."""
    files, found = raw.files, {split: list(lines) for split, lines in raw.skipped.items()}
    for split, corrupt in decoded.corrupt.items():
        lines = [f"{files[split].folder / files[split].names[i]}: {reason}" for i, reason in corrupt.items()]
        found[split] = found.get(split, []) + lines
    return {split: lines for split, lines in found.items() if lines}


def check_corrupt(corrupt: Mapping[str, Sequence[str]], total: int, limit: float) -> None:
    """List the images that cannot be read.

    Args:
        corrupt: path and reason of each, by split.
        total: number of all images.
        limit: the largest fraction that is allowed.

    Raises:
        InputError: they are more than the limit.
    """
    lines = [line.encode(errors="backslashreplace").decode() for some in corrupt.values() for line in some]
    if not lines:
        return
    write_text(CORRUPT_LIST, "\n".join(lines) + "\n")
    if len(lines) > limit * total:
        raise InputError(
            f"data.max_corrupt: {len(lines):,} of {total:,} images cannot be read, and the limit is a fraction of "
            f"{limit}; the first is {lines[0]}; {CORRUPT_LIST} lists all; fix or remove them, or raise the limit"
        )
    for line in lines[:CORRUPT_SHOWN]:
        print(f"prepare: skipped {line}", file=sys.stderr)
    if len(lines) > CORRUPT_SHOWN:
        print(f"prepare: skipped {len(lines) - CORRUPT_SHOWN:,} more, listed in {CORRUPT_LIST}", file=sys.stderr)


def corrupt_banner(corrupt: Mapping[str, Sequence[str]], total: int) -> str | None:
    """The warning that readers need if images were skipped."""
    if not corrupt:
        return None
    splits = ", ".join(f"{len(lines):,} of {split}" for split, lines in corrupt.items() if split)
    return (
        f"CORRUPT IMAGES SKIPPED: {sum(map(len, corrupt.values())):,} of {total:,} images could not be read"
        f"{f' ({splits})' if splits else ''}."
    )
