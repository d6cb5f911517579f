"""The records of rows in git: one JSON file per row, and the scores of each test image beside it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from flowvae.config import Config, NonNegativeFloat
from flowvae.errors import InputError
from flowvae.estimates import ImageScores
from flowvae.evaluation import EvaluationConfig
from flowvae.files import write_atomically
from flowvae.model.settings import VAEConfig
from flowvae.training.config import TrainingConfig
from pipeline import paths
from pipeline.rows.plan import Row

RESOLUTION = 0.01  # nats
LEVELS = np.iinfo(np.uint16).max
COMPACT = ("negative_elbo", "subset", "nll", "subset_negative_elbo")  # of ImageScores, that are kept
POSITIONS = "subset"  # the one that is not in nats
ADVICE = "restore it with git, or delete it to train the row again"


class Record(Config):
    """All that is known of a row: what it depends on, its scores, and where and how fast they were computed.

    Attributes:
        status: finished, or diverged (the loss became NaN or infinite).
        reason: why it diverged; None if it finished.
        vae, training, evaluation: all settings; evaluation has the number of images whose NLL was measured.
        seed: of training.
        data: SHA-256 of the arrays, by name.
        protocol: in words: data set, split, binarization, numbers of images.
        training_code, scoring_code: hashes of the code (`pipeline.rows.code`).
        weights_sha256: of the trained model; None if it diverged.
        scores: in nats per test image, with standard errors (`pipeline.scores`); empty if it diverged.
        curve: learning curves, one value per epoch.
        seconds: training, scoring and drawing 1,000 images, by name; those that end in _cpu are of the processor, which
            depend little on what else runs. A training that was timed for less than two epochs has 0 of them.
        machine: processor, threads and versions.
        finished: date and time, UTC.
        git_revision: of the code; None outside a repository.
        images: SHA-256 of the file of the scores of each image, and nats per unit of each array in it.
    """

    status: Literal["finished", "diverged"]
    reason: str | None
    vae: VAEConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    seed: int
    data: dict[str, str]
    protocol: dict[str, Any]
    training_code: str
    scoring_code: str
    weights_sha256: str | None
    scores: dict[str, float]
    curve: dict[str, list[float]]
    seconds: dict[str, NonNegativeFloat]
    machine: dict[str, Any]
    finished: str
    git_revision: str | None
    images: dict[str, Any]


@dataclass(frozen=True)
class Done:
    """A row that has a record."""

    row: Row
    record: Record

    @property
    def is_finished(self) -> bool:
        return self.record.status == "finished"


def record_path(row: Row) -> Path:
    """The file of a row's record."""
    return paths.ROWS / row.preset / f"{row.name}.json"


def images_path(row: Row) -> Path:
    """The file of the scores of each image."""
    return record_path(row).with_suffix(".safetensors")


def read_record(row: Row) -> Record | None:
    """The record of a row; None if there is none.

    Raises:
        InputError: it is damaged.
    """
    path = record_path(row)
    try:
        return Record.model_validate(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, ValidationError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else "not JSON"
        raise InputError(f"{path}: damaged ({reason}); {ADVICE}") from None


def is_current(row: Row, record: Record, data: Mapping[str, str] | None) -> bool:
    """Whether a record is that of a row: of the same settings, seed, code of training and, if they are known, data.

    A setting that the record does not have, because it is newer, counts as its default.
    """
    return (
        has_settings(row, record) and record.training_code == row.code and (data is None or record.data == dict(data))
    )


def has_settings(row: Row, record: Record) -> bool:
    """Whether a record is of the settings and the seed of a row."""
    return (record.vae, record.training, record.seed) == (row.vae, row.training, row.point.seed)


def write_record(row: Row, record: Record, scores: ImageScores | None) -> None:
    """Write both files, the record last: a row that has one is done."""
    images: dict[str, Any] = {}
    if scores is not None:
        content, units = compact(scores)
        write_atomically(images_path(row), content)
        images = {"sha256": hashlib.sha256(content).hexdigest(), "units": units}
    rewrite_record(row, record.model_copy(update={"images": images}))


def rewrite_record(row: Row, record: Record) -> None:
    """Write the record alone."""
    write_atomically(record_path(row), (one_line_lists(record.model_dump_json(indent=1)) + "\n").encode())


def one_line_lists(text: str) -> str:
    """JSON with each list of numbers or words in one line."""
    lines: list[str] = []
    depth = 0
    for line in text.splitlines():
        inside = depth > 0
        depth += line.rstrip(",").endswith("[") - (line.strip().rstrip(",") == "]")
        if inside:
            lines[-1] += ("" if lines[-1].endswith("[") or line.strip().startswith("]") else " ") + line.strip()
        else:
            lines.append(line)
    return "\n".join(lines)


def compact(scores: ImageScores) -> tuple[bytes, dict[str, float]]:
    """The scores of each image as a file of 16-bit integers, and nats per unit of each array.

    Rounding to 0.01 nats changes no mean by more than 0.0002. If the NLL of all images was measured, neither their
    positions are kept nor their -ELBO from the same draws, which no estimate needs then.
    """
    complete = len(scores.subset) == len(scores.negative_elbo)
    names = [name for name in COMPACT if not (complete and name.startswith("subset"))]
    units = {name: unit_of(getattr(scores, name)) for name in names if name != POSITIONS}
    arrays = {name: np.rint(getattr(scores, name) / units.get(name, 1)).astype(np.uint16) for name in names}
    return save_arrays(arrays), units


def unit_of(values: np.ndarray) -> float:
    """Nats per unit: RESOLUTION, or as many times that as 16 bits need."""
    return RESOLUTION * max(1, int(np.ceil(values.max() / RESOLUTION / LEVELS)))


def read_scores(done: Done) -> ImageScores:
    """The scores of each image of a row, with NaN for what is not kept.

    Raises:
        InputError: the file is missing or damaged.
    """
    path, images = images_path(done.row), done.record.images
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != images["sha256"]:
            raise InputError(f"{path}: damaged, its checksum is not the one in {record_path(done.row).name}; {ADVICE}")
        arrays = load_arrays(content)
        units = images["units"]
        values = {name: array if name == POSITIONS else array * units[name] for name, array in arrays.items()}
        values.setdefault("subset", np.arange(len(values["negative_elbo"])))
        values.setdefault("subset_negative_elbo", values["negative_elbo"])
        absent = {field.name: np.full(1, np.nan) for field in fields(ImageScores) if field.name not in values}
        return ImageScores(**values, **absent)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {ADVICE}") from None
    except (SafetensorError, TypeError, KeyError) as error:
        raise InputError(f"{path}: damaged ({error}); {ADVICE}") from None
