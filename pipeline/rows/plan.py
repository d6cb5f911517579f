"""The rows of a preset's studies, in the order in which they are trained."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from flowvae.datasets.registry import image_shape
from flowvae.errors import InputError
from flowvae.evaluation import EvaluationConfig
from flowvae.model.settings import VAEConfig
from flowvae.training.config import TrainingConfig
from pipeline import paths
from pipeline.params.reading import check_params, read_yaml
from pipeline.params.schema import SIDES, Params, vae_config
from pipeline.params.trees import overlay
from pipeline.preset import PRESETS
from pipeline.rows.code import training_code
from pipeline.study.points import Point, Study, study_problems


@dataclass(frozen=True)
class Row:
    """A variant with a seed, as a study of a preset declares it.

    Args:
        preset: its name.
        study: its name.
        point: family, depth and seed.
        vae, training, evaluation: all settings.
        rank: of its seed, of the plain VAE before others, and of its depth, in the order of training.
        place: of its study, and of its family there.
    """

    preset: str
    study: str
    point: Point
    vae: VAEConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    rank: tuple[int, ...]
    place: tuple[int, int]

    @property
    def name(self) -> str:
        """STUDY/FAMILY-DEPTH-SEED, the name of its files."""
        return f"{self.study}/{self.variant}-{self.point.seed}"

    @property
    def variant(self) -> str:
        """FAMILY-DEPTH, which rows of several seeds share."""
        return f"{self.point.family}-{self.point.num_transforms}"

    @cached_property
    def code(self) -> str:
        """The hash of the code that the trained model depends on."""
        return training_code(self.vae)


def is_plain(vae: VAEConfig) -> bool:
    """Whether posterior and prior are without a flow."""
    return not any(getattr(vae, side).num_transforms for side in SIDES)


def load_preset(name: str) -> tuple[str, Params]:
    """The name of a preset, and all params with its values.

    Args:
        name: of a file in presets/, or a path that ends in .yaml.

    Raises:
        InputError: there is no such preset, it is invalid, or it has no studies that can be rows.
    """
    path = Path(name) if name.endswith(".yaml") else PRESETS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(preset.stem for preset in PRESETS.glob("study-*.yaml")))
        raise InputError(f"{path}: no such preset; expected one of {known}, or a FILE.yaml")
    content = overlay(read_yaml(paths.PARAMS), read_yaml(path))
    params = check_params(content, path)
    problems = [*study_problems(params), *more_than_rows(params)]
    if problems:
        raise InputError("\n".join(f"{path}: {problem}" for problem in problems))
    return path.stem, params


def more_than_rows(params: Params) -> Iterator[str]:
    """What studies declare that rows do not have, one line each."""
    if not params.studies:
        yield "studies: expected at least one"
    for name, study in params.studies.items():
        if study.over or study.search.name != "grid" or study.early_stopping.name != "none":
            yield (
                f"studies.{name}: expected over: {{}}, search: {{name: grid}} and early_stopping: {{name: none}}; "
                "make a study of each value"
            )


def rows_of(preset: str, params: Params) -> list[Row]:
    """All rows in the order of training; of those with equal settings in several studies, only the first.

    The first seed of everything comes before the second, the plain VAE before all else, and the depth that a family
    lists first before the others.
    """
    rows = [
        row for name in params.studies for row in rows_of_study(preset, Study(name, params), image_shape(params.data))
    ]
    unique: list[Row] = []
    for row in rows:
        if not any(same_settings(row, other) for other in unique):
            unique.append(row)
    return sorted(unique, key=lambda row: (row.rank, row.place))


def rows_of_study(preset: str, study: Study, shape: tuple[int, int, int]) -> Iterator[Row]:
    """The rows of one study, in the order of its declaration."""
    seeds, families = study.config.seeds, list(study.config.families)
    for point in study.grid():
        sections = study.sections(point)
        vae = vae_config(sections.model, sections.variant, shape)
        depth = list(study.config.families[point.family]).index(point.num_transforms)
        place = list(study.params.studies).index(study.name), families.index(point.family)
        rank = (seeds.index(point.seed), not is_plain(vae), depth)
        yield Row(preset, study.name, point, vae, sections.training, sections.evaluation, rank, place)


def same_settings(one: Row, other: Row) -> bool:
    """Whether two rows are one and the same run."""
    pairs = ((one.point.seed, other.point.seed), (one.vae, other.vae), (one.training, other.training))
    return all(left == right for left, right in pairs)


def is_reference_of(one: Row, other: Row) -> bool:
    """Whether a row is the plain VAE with the settings and the seed of another one."""
    same = (one.training, one.point.seed) == (other.training, other.point.seed)
    return (
        is_plain(one.vae)
        and same
        and one.vae == other.vae.model_copy(update={side: getattr(one.vae, side) for side in SIDES})
    )


def chosen(rows: list[Row], only: str | None) -> list[Row]:
    """The rows of a study, or those in whose names a regular expression is found.

    Raises:
        InputError: it is not valid, or found nowhere.
    """
    if only is None:
        return rows
    try:
        found = [row for row in rows if row.study == only] or [row for row in rows if re.search(only, row.name)]
    except re.error as error:
        raise InputError(f"--only: not a valid regular expression ({error})") from None
    if not found:
        raise InputError(f"--only: no row has {only!r} in its name; names are like {rows[0].name}")
    return found
