"""Images in shards, read and decoded by Ray Data on a cluster, or on this machine, and streamed into a local folder."""

import functools
import json
import logging
import os
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
from ray.exceptions import RayError

from flowvae.datasets.array_writing import write_array
from flowvae.datasets.config import DataConfig, ShardsConfig
from flowvae.datasets.decoder import register_plugins
from flowvae.datasets.registry import image_shape
from flowvae.datasets.shard_rows import DecodedRow, decode_row
from flowvae.datasets.shards import CODES, DIGESTS, SHARD_SPLITS, SKIPPED, Shards, list_shards
from flowvae.errors import InputError
from flowvae.files import write_atomically
from pipeline.distributed.cluster import connect, first_sentence
from pipeline.distributed.driver_code import check_code
from pipeline.running.machine import available_cpus
from pipeline.running.placement import placement_of

BATCH = 256  # decoded images that this process receives at a time
Progress = Callable[[int, int | None], None]


def gather_shards(data: DataConfig, folder: Path, on_progress: Progress) -> None:
    """Read and decode all images of the shards, in their order, unless `folder` has them already.

    Shards are read one after another by many tasks, and Ray waits if this process does not keep up. So neither the
    shards nor their images are ever in memory or on a disk as a whole, apart from the decoded images in the folder.

    Args:
        data: the settings.
        folder: to write; what `read_shards` opens.
        on_progress: called with the number of images so far, and None for that of all.

    Raises:
        InputError: shards or images cannot be read, or Ray is unavailable.
    """
    if (folder / SHARD_SPLITS).exists():
        return
    shards = list_shards(data)
    connect(placement_of(None, available_cpus(), 0, os.environ))
    try:
        write_gathered(shards, data, folder, on_progress)
    except RayError as error:
        raise InputError(
            f"data.shards.uri: {data.shards.uri}: cannot be read ({first_sentence(cause_of(error))})"
        ) from error
    finally:
        ray.shutdown()


def cause_of(error: RayError) -> Exception:
    """The error in the code of a task, if that was what failed."""
    cause: Exception = getattr(error, "cause", None) or error
    return cause


def write_gathered(shards: Shards, data: DataConfig, folder: Path, on_progress: Progress) -> None:
    """Write the images, and for each one its digest and the split of its shard; then what was skipped."""
    digests, codes, skipped = array("Q"), bytearray(), defaultdict[str, list[str]](list)

    def items() -> Iterator[tuple[np.ndarray, int | None]]:
        for row in decoded_rows(shards, data.shards):
            split = shards.splits[row["path"]]
            if row["problem"]:
                skipped[split].append(f"{row['path']}: {row['problem']}")
                continue
            digests.append(row["digest"])
            codes.append(CODES[split])
            label = row["label"]
            yield np.frombuffer(row["pixels"], np.uint8).reshape(image_shape(data)), None if label < 0 else label
            on_progress(len(digests), None)

    try:
        write_array(folder, "images", items())
    except ValueError as error:
        first = f"; the first that cannot be read is {next(iter(skipped.values()))[0]}" if skipped else ""
        raise InputError(f"data.shards.uri: {data.shards.uri}: {error}{first}") from error
    write_atomically(folder / DIGESTS, lambda file: np.save(file, np.asarray(digests)))
    write_atomically(folder / SKIPPED, json.dumps(skipped).encode())
    write_atomically(folder / SHARD_SPLITS, lambda file: np.save(file, np.frombuffer(codes, np.uint8)))


def decoded_rows(shards: Shards, config: ShardsConfig) -> Iterator[DecodedRow]:
    """Yield the decoded images of all shards, in their order."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    rows = open_shards(shards, config).map(functools.partial(decode_on_worker, config=config))
    for batch in rows.iter_batches(batch_size=BATCH, batch_format="pyarrow"):
        yield from batch.to_pylist()


def open_shards(shards: Shards, config: ShardsConfig) -> ray.data.Dataset:
    """The rows of the shards, with the path of each."""
    paths = [info.path for info in shards.files]
    if shards.format == "webdataset":
        return ray.data.read_webdataset(paths, filesystem=shards.filesystem, decoder=None, include_paths=True)
    wanted = {*config.image, *config.label, "shape"}
    names = [name for name in parquet_columns(shards) if name in wanted]
    return ray.data.read_parquet(paths, filesystem=shards.filesystem, columns=names, include_paths=True)


def parquet_columns(shards: Shards) -> list[str]:
    """Names of the columns of the first shard."""
    import pyarrow.parquet

    with shards.filesystem.open_input_file(shards.files[0].path) as file:
        return list(pyarrow.parquet.read_schema(file).names)


def decode_on_worker(row: Mapping[str, Any], config: ShardsConfig) -> DecodedRow:
    """Decode a row in a task of Ray, which must run the code of the driver."""
    prepare_worker()
    return decode_row(row, config)


@functools.cache
def prepare_worker() -> None:
    """Check the code of this process, and let Pillow read all formats."""
    check_code()
    register_plugins()
