"""The points of a study: what params.yaml declares, and the typed settings at each."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from flowvae.config import EXPLICIT, Config
from flowvae.errors import InputError
from flowvae.evaluation import EvaluationConfig
from flowvae.model.flows import AnyFlowConfig
from flowvae.model.settings import ModelConfig
from flowvae.training.config import TrainingConfig
from pipeline.params.checks import likelihood_mismatch, model_mismatch
from pipeline.params.reading import validation_lines
from pipeline.params.schema import SIDES, Params, Range, StudyConfig, VariantConfig
from pipeline.params.trees import nested, overlay


class Sections(Config):
    """All settings of a trial: the sections of params.yaml that a study may change, and the flows."""

    model: ModelConfig
    posterior: AnyFlowConfig
    prior: AnyFlowConfig
    training: TrainingConfig
    evaluation: EvaluationConfig

    @property
    def variant(self) -> VariantConfig:
        return VariantConfig(posterior=self.posterior, prior=self.prior)


@dataclass(frozen=True)
class Point:
    """Position of a trial in a study.

    Args:
        family: a key of `families`.
        num_transforms: k of the posterior or of the prior, whichever the family varies.
        seed: of training.
        values: of the other params that the study varies, by path.
    """

    family: str
    num_transforms: int
    seed: int
    values: Mapping[str, Any]

    def columns(self) -> dict[str, Any]:
        """The first columns of the trial's row."""
        return {"family": self.family, "num_transforms": self.num_transforms, "seed": self.seed, **self.values}


@dataclass(frozen=True)
class Study:
    """One entry of `studies` in params.yaml.

    Args:
        name: of the entry.
        params: all of params.yaml, whose sections the study changes.
    """

    name: str
    params: Params

    @property
    def config(self) -> StudyConfig:
        return self.params.studies[self.name]

    def bases(self) -> list[tuple[str, int, int]]:
        """Every (family, num_transforms, seed), in the order of params.yaml."""
        return [
            (name, depth, seed)
            for name, family in self.config.families.items()
            for depth in family
            for seed in self.config.seeds
        ]

    def grid(self) -> list[Point]:
        """Every base with every combination of the values that are varied."""
        paths = list(self.config.over)
        choices = [values for values in self.config.over.values() if not isinstance(values, Range)]
        combinations = [dict(zip(paths, chosen, strict=True)) for chosen in itertools.product(*choices)]
        return [Point(*base, values) for base in self.bases() for values in combinations]

    def sections(self, point: Point) -> Sections:
        """The settings of a trial: those of params.yaml, replaced by the study's, replaced by the point's.

        Raises:
            InputError: one line per invalid key.
        """
        names = [name for name in Sections.model_fields if name not in SIDES]
        content: dict[str, Any] = {name: getattr(self.params, name).model_dump(mode="json") for name in names}
        content |= self.config.families[point.family][point.num_transforms].model_dump(mode="json")
        changes = {"settings": self.config.settings, "over": nested(point.values)}
        for key, given in changes.items():
            if unknown := given.keys() - Sections.model_fields.keys():
                expected = ", ".join(Sections.model_fields)
                raise InputError(f"studies.{self.name}.{key}: expected keys of {expected}, got {', '.join(unknown)}")
            for side in SIDES:
                if isinstance(given.get(side), Mapping) and "num_transforms" in given[side]:
                    raise InputError(
                        f"studies.{self.name}.{key}: {side}.num_transforms is set by the families; remove it"
                    )
            content = overlay(content, given)
        position = f"studies.{self.name}, {point.family} with k = {point.num_transforms}"
        try:
            return Sections.model_validate(content, context=EXPLICIT)
        except ValidationError as error:
            raise InputError("\n".join(f"{position}: {line}" for line in validation_lines(error, content))) from None


def study_problems(params: Params) -> Iterator[str]:
    """What is wrong with `studies` beyond their schema, one line each."""
    for name in params.studies:
        first_lines: dict[str, str] = {}  # by message: many trials have the same problem
        for line in problems_of(Study(name, params)):
            _, _, message = line.partition(": ")
            first_lines.setdefault(message, line)
        yield from first_lines.values()


def problems_of(study: Study) -> Iterator[str]:
    """What is wrong with one study."""
    config = study.config
    ranges = [path for path, values in config.over.items() if isinstance(values, Range)]
    if config.search.name == "grid" and ranges:
        yield (
            f"studies.{study.name}.over.{ranges[0]}: a grid needs a list of values; a range needs the search random "
            "or optuna"
        )
        return
    for family, depths in config.families.items():
        for depth in depths:
            for values in values_to_check(config):
                try:
                    sections = study.sections(Point(family, depth, 0, values))
                except InputError as error:
                    yield from str(error).splitlines()
                    continue
                problem = likelihood_mismatch(study.params.data, sections.model)
                if not problem and depth == min(depths):  # whether a model can be built does not depend on its depth
                    problem = model_mismatch(study.params.data, sections.model, sections.variant)
                if problem:
                    yield f"studies.{study.name}, {family}: {problem}"


def values_to_check(config: StudyConfig) -> Iterator[dict[str, Any]]:
    """The first value of every path that varies, then each other value together with the first ones of other paths."""
    choices = {path: (values.low,) if isinstance(values, Range) else values for path, values in config.over.items()}
    first = {path: values[0] for path, values in choices.items()}
    yield first
    yield from ({**first, path: value} for path, values in choices.items() for value in values[1:])
