"""What the stage `interpolate` drew of latent space, for the page: paths that one drags, and maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowvae.errors import InputError
from pipeline import paths
from pipeline.files import read_json
from pipeline.params.schema import InterpolationConfig, Params
from pipeline.report.embedding import data_uri

MAPS = paths.LATENTS / "maps.json"
KEYS = {"steps", "ends", "labels", "columns", "image_shape", "maps"}
MOST_LABELS = 100  # that are kinds of images; more are their names or numbers


@dataclass(frozen=True)
class Latents:
    """Pictures as data: URIs, and the maps.

    Args:
        steps: frames of a path.
        ends: labels of the images that paths join.
        end_images, images: sheets of the images that paths join, and of those on the maps.
        paths: sheets of frames, by variant.
        maps: labels and image_shape of the images on the maps, columns of their sheet, and positions by variant.
    """

    steps: int
    ends: Sequence[int]
    end_images: str
    images: str
    paths: Mapping[str, str]
    maps: Mapping[str, Any]

    @property
    def labelled(self) -> bool:
        """Whether the labels say what images show."""
        return 1 < len(set(self.maps["labels"])) <= MOST_LABELS


def read_latents(params: Params) -> Latents:
    """Read what `interpolate` wrote for all variants.

    Raises:
        InputError: a file is missing or damaged.
    """
    content = read_json(MAPS)
    if missing := KEYS - content.keys():
        raise damaged(f"lacks {', '.join(sorted(missing))}")
    if content["maps"].keys() != params.variants.keys():
        raise damaged(f"expected the variants {', '.join(params.variants)}, got {', '.join(content['maps'])}")
    return Latents(
        content["steps"],
        content["ends"],
        data_uri(paths.LATENTS / "ends.webp"),
        data_uri(paths.LATENTS / "images.webp"),
        {variant: data_uri(path_of(variant)) for variant in params.variants},
        {name: content[name] for name in ("labels", "columns", "image_shape", "maps")},
    )


def damaged(problem: str) -> InputError:
    """A complaint about the file of the maps."""
    return InputError(f"{MAPS}: {problem}; run dvc repro -f -s interpolate")


def path_of(variant: str) -> Path:
    """The sheet of frames of a variant."""
    return paths.LATENTS / "paths" / f"{variant}.webp"


def paths_note(config: InterpolationConfig) -> str:
    """What dragging shows."""
    space = ", in the space of the noise to which the prior's flow maps them" if config.space == "base" else ""
    return (
        f"Choose two test images, and drag. The picture is the decoded {config.path} path between their posterior "
        f"means, pushed through the posterior's flow{space}; at the ends, it is the reconstruction."
    )
