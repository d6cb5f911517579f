"""The points of a sweep: what params.yaml declares, and the typed settings at each."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from flowvae.config import EvaluationConfig
from flowvae.errors import InputError
from flowvae.flows import AnyFlowConfig
from flowvae.training_config import TrainingConfig
from flowvae.vae import ModelConfig
from pipeline.params import Params, describe, misfit, misread
from pipeline.preset import overlay
from pipeline.sweeps import Range

SCHEMAS = {
    "model": TypeAdapter(ModelConfig),
    "flow": TypeAdapter(AnyFlowConfig),
    "training": TypeAdapter(TrainingConfig),
    "evaluation": TypeAdapter(EvaluationConfig),
}  # by section, what a trial may change


@dataclass(frozen=True)
class Point:
    """Where a trial stands in what is compared.

    Args:
        family: a key of `families`.
        num_transforms: k.
        seed: of the training.
        values: of the other params that are varied, by path.
    """

    family: str
    num_transforms: int
    seed: int
    values: Mapping[str, Any]

    def columns(self) -> dict[str, Any]:
        return {"family": self.family, "num_transforms": self.num_transforms, "seed": self.seed, **self.values}


def grid(params: Params) -> list[Point]:
    """Every combination, deeper models last."""
    budget = params.sweep.chosen
    values = [
        dict(zip(budget.over, chosen, strict=True)) for chosen in itertools.product(*map(list, budget.over.values()))
    ]
    return [Point(*base, chosen) for base in families_depths_seeds(params) for chosen in values]


def families_depths_seeds(params: Params) -> list[tuple[str, int, int]]:
    budget = params.sweep.chosen
    return [
        (name, depth, seed)
        for name, family in budget.families.items()
        for depth in family.num_transforms
        for seed in budget.seeds
    ]


def resolve(params: Params, point: Point) -> dict[str, Any]:
    """Typed sections model, flow, training and evaluation: params.yaml's, then `settings`, then the point's.

    Raises:
        InputError: one line per key that makes no sense.
    """
    budget, where = params.sweep.chosen, f"{params.sweep.section}.budgets.{params.sweep.budget}"
    content = {name: getattr(params, name).model_dump(mode="json") for name in SCHEMAS if name != "flow"}
    content["flow"] = budget.families[point.family].flow | {"num_transforms": point.num_transforms}
    changes = nested(point.values)
    for name, given in ((f"{where}.settings", budget.settings), (f"{where}.over", changes)):
        if unknown := given.keys() - SCHEMAS.keys():
            raise InputError(f"{name}: expected keys of {', '.join(SCHEMAS)}, got {', '.join(sorted(unknown))}")
        content = overlay(content, given)
    problems, typed = [], {}
    for name, schema in SCHEMAS.items():
        try:
            typed[name] = schema.validate_python(content[name])
        except ValidationError as error:
            for problem in error.errors():
                described = describe(problem | {"loc": (name, *problem["loc"])}, content)
                problems.append(f"{where}, {point.family} with k = {point.num_transforms}: {described}")
    if problems:
        raise InputError("\n".join(problems))
    return typed


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """{'a.b': 1} -> {'a': {'b': 1}}."""
    tree: dict[str, Any] = {}
    for path, value in values.items():
        node = tree
        *parents, last = path.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def check_sweeps(params: Params) -> Iterator[str]:
    """What is wrong with `sweep` and `stability` beyond their schema, a line each."""
    for each in (params, params.with_stability_as_sweep()):
        yield from dict.fromkeys(check_sweep(each))


def check_sweep(params: Params) -> Iterator[str]:
    """What is wrong with `sweep` beyond its schema, a line each."""
    section = params.sweep.section
    if params.sweep.budget not in params.sweep.budgets:
        yield f"{section}.budget: expected one of {', '.join(params.sweep.budgets)}, got {params.sweep.budget!r}"
        return
    budget, where = params.sweep.chosen, f"{section}.budgets.{params.sweep.budget}"
    ranges = [path for path, values in budget.over.items() if isinstance(values, Range)]
    if budget.search.name == "grid" and ranges:
        yield f"{where}.over.{ranges[0]}: a grid needs a list of values; a range goes with random or optuna"
        return
    middle = {path: values.low if isinstance(values, Range) else values[0] for path, values in budget.over.items()}
    for name, family in budget.families.items():
        for depth in family.num_transforms:
            try:
                sections = resolve(params, Point(name, depth, 0, middle))
            except InputError as error:
                yield from str(error).splitlines()
                continue
            problem = misread(params.data, sections["model"])
            if not problem and depth == min(family.num_transforms):  # whether models fit depends on no depth
                problem = misfit(params.data, sections["model"], sections["flow"])
            if problem:
                yield f"{where}, {name}: {problem}"
