"""prepare: binarize and split the images that `fetch` found."""

import sys

from flowvae.config import DataConfig
from flowvae.data.arrays import write_arrays
from flowvae.data.sources import (
    Source,
    download_mnist,
    has_mnist,
    larochelle_files,
    mnist_folder,
    read_fallback,
    read_larochelle,
    read_mnist,
)
from flowvae.errors import InputError
from pipeline import paths
from pipeline.files import read_json
from pipeline.params import Params


def run(params: Params) -> None:
    data = params.data
    name = read_json(paths.SOURCE).get("source")
    if name not in SOURCES:
        raise InputError(
            f"{paths.SOURCE}: damaged, expected a source among {', '.join(SOURCES)}, got {name!r}; run dvc repro"
        )
    source = SOURCES[name](data)
    metadata = write_arrays(
        paths.PREPARED,
        source.arrays,
        dataset=source.dataset,
        source=name,
        origin=source.origin,
        binarization=data.binarization,
        binarization_seed=data.seed,
        split=source.split,
        banner=source.banner,
    )
    counts = " / ".join(f"{count:,} {split}" for split, count in metadata.counts.items())
    print(f"prepare: {source.dataset}, {data.binarization} binarization: {counts}")
    if source.banner:
        print(source.banner, file=sys.stderr)


def from_mnist(data: DataConfig) -> Source:
    root = paths.find_root(has_mnist)
    if root is None:  # arrays were made elsewhere and pulled, and now must be made anew
        root = paths.DOWNLOADS
        try:
            download_mnist(root)
        except InputError as error:
            looked = ", ".join(str(mnist_folder(folder)) for folder in paths.data_roots())
            raise InputError(f"{looked}: MNIST's four files are not there; put them there ({error})") from error
    return read_mnist(root, data.binarization, data.seed)


def from_larochelle(data: DataConfig) -> Source:
    return read_larochelle(paths.find_root(larochelle_files) or paths.data_roots()[0])


def from_fallback(data: DataConfig) -> Source:
    return read_fallback(data.binarization, data.seed)


SOURCES = {"mnist": from_mnist, "larochelle": from_larochelle, "fallback": from_fallback}
