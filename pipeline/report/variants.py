"""What the page says of each variant besides its scores: its settings, and pictures of its first seed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowvae.data.arrays import pixel_text
from pipeline import paths
from pipeline.params.schema import SIDES, Params
from pipeline.report.embedding import compact_uri
from pipeline.report.runs import ScoredRun


@dataclass(frozen=True)
class Gallery:
    """One kind of picture.

    Args:
        folder: below reports/figures.
        title: of its section.
        note: below the title.
    """

    folder: str
    title: str
    note: str


GALLERIES = (
    Gallery(
        "samples",
        "Samples from the prior",
        "Means of p(x|z), and draws from it, at draws of z from the prior, beside test images. At temperature T, the "
        "noise that the prior maps to z is T times as large; T = 1 is the model.",
    ),
    Gallery(
        "nearest",
        "Nearest training images",
        "Rows of draws from the model, at temperature 1, each above the training images that are nearest in pixels. "
        "The table of diagnostics has the distances.",
    ),
    Gallery(
        "reconstructions",
        "Reconstructions",
        "Rows of test images, each above its reconstruction from the posterior mean pushed through the flow.",
    ),
)


IMPUTATIONS = Gallery(
    "imputations",
    "Imputations",
    "Test images, the half that is observed, and draws of the lower half by the Markov chain z ~ q(z|x), "
    "x_missing ~ p(x_missing|z), which starts from random pixels. Draws of one image are below each other.",
)


def first_seed(runs: Sequence[ScoredRun]) -> list[ScoredRun]:
    """One run per variant, whose pictures are shown."""
    return [run for run in runs if run.seed == runs[0].seed]


def pictures(gallery: Gallery, runs: Iterable[ScoredRun]) -> list[dict[str, str]]:
    """The embedded pictures of a gallery, by variant."""
    return [
        {"variant": run.variant, "image": compact_uri(paths.FIGURES / gallery.folder / f"{run.name}.png")}
        for run in runs
    ]


def settings_text(params: Params, variant: str, run: ScoredRun) -> dict[str, str]:
    """The settings of posterior and prior, as params.yaml has them, and the protocol of a run in a few words."""
    config = params.variants[variant].model_dump(mode="json")
    data, evaluation = run.protocol["data"], run.protocol["evaluation"]
    protocol = (
        f"{data['dataset']}, {pixel_text(data['binarization'])}, {data['counts']['train']:,} training images; "
        f"epochs: {run.protocol['epochs']}; seeds: {', '.join(map(str, params.seeds))}; "
        f"draws per image: {evaluation['num_elbo_samples']} for −ELBO, {evaluation['num_importance_samples']} for NLL"
    )
    sides = {side: ", ".join(map(setting_text, config[side].items())) for side in SIDES}
    return sides | {"protocol, as of all rows": protocol}


def setting_text(setting: tuple[str, Any]) -> str:
    """One setting: name and value."""
    name, value = setting
    return f"{name}: {inline(value)}"


def inline(value: Any) -> str:
    """A value as YAML writes it in a line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(map(setting_text, value.items())) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)
