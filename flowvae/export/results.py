"""What is known of a trained model: how it was trained, its scores, and the images behind both."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flowvae.data.arrays import PROVENANCE, read_metadata
from flowvae.description import METRICS, TRAINING, count_parameters, read_object
from flowvae.errors import InputError
from flowvae.files import write_atomically
from flowvae.model.vae import VAE

PROTOCOL = "protocol.json"
MODELS, SCORED, PREPARED = "models", "metrics", Path("data/prepared")  # of a project


class Results(NamedTuple):
    """Contents of the JSON files beside a model; empty where nothing is known.

    Attributes:
        training: settings of the training, with what its images were.
        metrics: scores on test images, by name.
        protocol: how these were obtained.
        provenance: where the images are from, and what was done to them.
    """

    training: Mapping[str, Any]
    metrics: Mapping[str, Any]
    protocol: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def write(self, folder: Path) -> None:
        """Write what is known into a folder, from which `read_results` reads it."""
        for name, content in zip((TRAINING, METRICS, PROTOCOL, PROVENANCE), self, strict=True):
            if content:
                write_atomically(folder / name, (json.dumps(content, indent=2) + "\n").encode())


def read_results(folder: Path, vae: VAE, metrics: Path | None = None) -> Results:
    """Read what is known of a model.

    Its scores are beside it, where it was exported before, or where a project has them.

    Args:
        folder: of the model.
        vae: the model in it, without weight norm.
        metrics: a file of scores instead; `protocol/NAME` beside it may say how they were obtained.

    Raises:
        InputError: a file is damaged or missing, or the scores are of another model.
    """
    folder = folder.resolve()
    training, project = read_object(folder / TRAINING), folder.parents[1] if folder.parent.name == MODELS else None
    if metrics:
        if not metrics.is_file():
            raise InputError(f"--metrics: {metrics}: no such file")
        file, protocol = metrics, metrics.parent / "protocol" / metrics.name
    elif (folder / METRICS).exists() or not project:
        file, protocol = folder / METRICS, folder / PROTOCOL
    else:
        file = project / SCORED / f"{folder.name}.json"
        protocol = project / SCORED / "protocol" / file.name
    results = Results(training, read_object(file), read_object(protocol), {})
    check_scores(results, vae, file, folder)
    provenance = read_object(folder / PROVENANCE) or (provenance_of(project, results) if project else {})
    return results._replace(provenance=provenance)


def check_scores(results: Results, vae: VAE, file: Path, folder: Path) -> None:
    """Raise InputError if scores are not numbers, or are not of this model."""
    if wrong := [name for name, value in results.metrics.items() if type(value) not in (int, float)]:
        raise InputError(f"{file}: expected numbers, got something else for {', '.join(wrong)}")
    count = count_parameters(vae)
    if results.metrics.get("parameters", count) != count:
        raise InputError(
            f"{file}: scores of a model with {results.metrics['parameters']:,} parameters, {folder} has {count:,}"
        )
    if results.protocol and any(
        not holds(results.protocol.get(name), value) for name, value in results.training.items()
    ):
        raise InputError(f"{file}: scores of another training than that of {folder}; evaluate the model again")


def holds(content: Any, part: Any) -> bool:
    """Whether a value is another one, or a mapping with all of its entries."""
    if isinstance(content, Mapping) and isinstance(part, Mapping):
        return all(name in content and holds(content[name], value) for name, value in part.items())
    return bool(content == part)


def provenance_of(project: Path, results: Results) -> dict[str, Any]:
    """Where the images are from, if those in a project are the ones that the model was trained on."""
    trained_on = results.training.get("data")
    if not isinstance(trained_on, Mapping) or not (project / PREPARED / PROVENANCE).exists():
        return {}
    metadata = read_metadata(project / PREPARED)
    if not holds({name: info.model_dump(mode="json") for name, info in metadata.arrays.items()}, trained_on):
        return {}
    return metadata.provenance.model_dump(mode="json")
