"""The schema of `sweep` and `stability` in params.yaml: which models they train and compare."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from flowvae.config import Config, NonNegativeInt, PositiveInt

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
Values = Annotated[tuple[Any, ...], Field(strict=False, min_length=1)]
Depths = Annotated[tuple[NonNegativeInt, ...], Field(strict=False, min_length=1)]


class Family(Config):
    """One flow at several depths k; `flow` has the settings of a variant but for `num_transforms`."""

    flow: dict[str, Any]
    num_transforms: Depths


class Range(Config):
    """Real numbers between two, evenly spread, or evenly in their logarithm."""

    low: float
    high: float
    log: bool


class Grid(Config):
    """Every combination."""

    name: Literal["grid"]


class Sampled(Config):
    """Combinations drawn at random, or proposed by Optuna to lower the validation -ELBO."""

    name: Literal["random", "optuna"]
    num_trials: PositiveInt
    seed: NonNegativeInt


class EarlyStopping(Config):
    """ASHA (Li et al. 2020, arXiv:1810.05934), among the trials of each family: for search, not for depth figures."""

    grace_epochs: PositiveInt
    reduction_factor: Annotated[int, Field(ge=2)]


class Budget(Config):
    """One sweep: families x depths x seeds, and values of any other param by its path."""

    families: Annotated[dict[Name, Family], Field(min_length=1)]
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(strict=False, min_length=1)]
    settings: dict[str, Any]  # sections model, training, evaluation, and flow: what differs from those of params.yaml
    over: dict[str, Range | Values]
    search: Annotated[Grid | Sampled, Field(discriminator="name")]
    early_stopping: EarlyStopping | None


class SweepConfig(Config):
    """Budgets by name, and the one that is spent."""

    section: ClassVar[str] = "sweep"  # of params.yaml
    budget: str
    budgets: Annotated[dict[Name, Budget], Field(min_length=1)]

    @property
    def chosen(self) -> Budget:
        return self.budgets[self.budget]


class StabilityConfig(SweepConfig):
    """The same for the study of which normalisation lets deep stacks train."""

    section: ClassVar[str] = "stability"
