"""What differs from data set to data set: the contract of an entry of DATASETS."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowvae.config import ImageShape
from flowvae.datasets.config import DataConfig
from flowvae.datasets.raw import RawDataset
from flowvae.datasets.torchvision_reader import torchvision_download
from flowvae.datasets.web_files import WebFile, download_file
from flowvae.errors import InputError


def no_fingerprint(data: DataConfig) -> None:
    """For data sets whose files do not change."""


@dataclass(frozen=True)
class DatasetEntry:
    """One data set: its files, its reader and its download.

    Args:
        title: name in messages.
        image_shape: settings -> (C, H, W), known before any image is read.
        files: settings -> required files, relative to a data root. An absolute path needs no root.
        read: (data root, settings) -> the images, split. Raises InputError if files are missing or damaged.
        torchvision: class in torchvision.datasets that downloads the set; None if none does.
        downloads: settings -> keyword arguments (all but root) of each download call.
        web_files: settings -> files to download by their addresses; None if there are none.
        addresses: one file on each mirror that torchvision uses. They are listed because asking torchvision takes 2 s.
        source: where users find the files, for a message.
        fingerprint: settings -> hash of files that may change between runs; None for files that do not.
        fallback: name of the entry of SOURCES to use if this set is unavailable and the settings allow it.
        is_gathered: whether Ray gathers the images in a folder first; `read` then gets that folder as its root.
        lacks: data root -> which files it lacks, where any of several files would do.
    """

    title: str
    image_shape: Callable[[DataConfig], ImageShape]
    files: Callable[[DataConfig], Sequence[str]]
    read: Callable[[Path, DataConfig], RawDataset]
    torchvision: str | None = None
    downloads: Callable[[DataConfig], Sequence[dict[str, object]]] = lambda data: ({},)
    web_files: Callable[[DataConfig], Sequence[WebFile]] | None = None
    addresses: tuple[str, ...] = ()
    source: str | None = None
    fingerprint: Callable[[DataConfig], str | None] = no_fingerprint
    fallback: str | None = None
    is_gathered: bool = False
    lacks: Callable[[Path], Sequence[str]] | None = None

    def missing(self, root: Path, data: DataConfig) -> Sequence[str]:
        """The files that a data root lacks, relative to it. The contents of others are checked when they are read."""
        if self.lacks:
            return self.lacks(root)
        return [file for file in self.files(data) if not (root / file).exists()]

    def is_in(self, root: Path, data: DataConfig) -> bool:
        """Whether a data root holds all files."""
        return not self.missing(root, data)

    @property
    def can_be_downloaded(self) -> bool:
        """Whether its files have public addresses."""
        return self.torchvision is not None or self.web_files is not None

    def download(self, root: Path, data: DataConfig) -> None:
        """Download the files by their addresses, or with torchvision, which shows progress. Checksums are verified.

        Raises:
            InputError: the set cannot be downloaded, no mirror answered, or a checksum was wrong.
        """
        if self.web_files:
            for file in self.web_files(data):
                download_file(file, root)
            return
        if self.torchvision is None:
            raise InputError(f"{self.title}: cannot be downloaded")
        calls = [{"root": str(root), **part} for part in self.downloads(data)]
        try:
            torchvision_download(self.torchvision, calls)
        except (RuntimeError, OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(f"{self.title}: the download failed ({reason})") from error

    def folder(self, data: DataConfig) -> Path:
        """Folder of the files, relative to a data root."""
        return Path(self.files(data)[0]).parent

    def by_hand(self, data: DataConfig) -> str:
        """Instructions for users whose machine cannot download the files."""
        names = ", ".join(Path(file).name for file in self.files(data))
        folder = (Path("FOLDER") / self.folder(data)).as_posix()
        source = f" from {self.source}" if self.source else ""
        return f"put {names}{source} into {folder}, and set FLOWVAE_DATA_ROOT to FOLDER"


def in_folder(folder: str, *names: str) -> Callable[[DataConfig], Sequence[str]]:
    """The same files for any settings."""
    return lambda data: tuple(f"{folder}/{name}" for name in names)


def always(channels: int, height: int, width: int) -> Callable[[DataConfig], ImageShape]:
    """The same image shape for any settings."""
    return lambda data: (channels, height, width)


def of_web_file(
    title: str,
    file: WebFile,
    image_shape: ImageShape,
    read: Callable[[Path, DataConfig], RawDataset],
) -> DatasetEntry:
    """The entry of a data set that is a single file with a public address."""
    return DatasetEntry(
        title=title,
        image_shape=always(*image_shape),
        files=lambda data: (file.path,),
        read=read,
        web_files=lambda data: (file,),
        addresses=(file.address,),
        source=file.address,
    )
