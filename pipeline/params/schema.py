"""The schema of params.yaml."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator
from pydantic_core import PydanticCustomError

from flowvae.config import Config, ImageShape, NonNegativeInt, PositiveInt
from flowvae.datasets.config import DataConfig
from flowvae.errors import InputError
from flowvae.evaluation import EvaluationConfig
from flowvae.model.flows import AnyFlowConfig
from flowvae.model.settings import ModelConfig, VAEConfig
from flowvae.training.config import TrainingConfig


def _each_seed_once(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise PydanticCustomError("repeated", "expected each seed once")
    return seeds


def _each_value_once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if any(value in values[:i] for i, value in enumerate(values)):  # they may be lists, which have no hash
        raise PydanticCustomError("repeated", "expected each value once")
    return values


class VariantConfig(Config):
    """The flows of a variant."""

    posterior: AnyFlowConfig
    prior: AnyFlowConfig


def at_each_depth(family: Any) -> Any:
    """A variant in which one `num_transforms` is a list, as one variant per depth: {num_transforms: variant}.

    Without a list it is one variant, at its own depth.
    """
    sides = {side: family[side] for side in SIDES if side in family} if isinstance(family, Mapping) else {}
    depths = {side: flow.get("num_transforms", 0) for side, flow in sides.items() if isinstance(flow, Mapping)}
    lists = [side for side, depth in depths.items() if isinstance(depth, list)]
    if len(lists) > 1:
        raise PydanticCustomError("family", "expected a list of num_transforms in the posterior or in the prior")
    if not lists:
        return {next((depth for depth in depths.values() if type(depth) is int and depth), 0): family}
    (side,) = lists
    several = depths[side]
    if not several or any(type(depth) is not int for depth in several) or len(set(several)) < len(several):
        raise PydanticCustomError("family", "expected num_transforms to be a list of integers, with each depth once")
    return {depth: {**family, side: {**family[side], "num_transforms": depth}} for depth in several}


SIDES = ("posterior", "prior")
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]  # files are named after it
Seeds = Annotated[tuple[NonNegativeInt, ...], Field(strict=False, min_length=1), AfterValidator(_each_seed_once)]
Choices = Annotated[tuple[Any, ...], Field(strict=False, min_length=1), AfterValidator(_each_value_once)]
Family = Annotated[dict[int, VariantConfig], BeforeValidator(at_each_depth)]


class Range(Config):
    """Real numbers between two bounds, spread evenly on a linear or a logarithmic scale."""

    low: float
    high: float
    log: bool

    @model_validator(mode="after")
    def _check(self) -> "Range":
        if self.low >= self.high or (self.log and self.low <= 0):
            raise PydanticCustomError("range", "expected low < high, and low > 0 on a logarithmic scale")
        return self


def _range_or_choices(values: Any) -> str:
    return "range" if isinstance(values, Mapping | Range) else "choices"


Values = Annotated[
    Annotated[Range, Tag("range")] | Annotated[Choices, Tag("choices")], Discriminator(_range_or_choices)
]


class GridSearch(Config):
    """Every combination."""

    name: Literal["grid"]


class SampledSearch(Config):
    """Combinations drawn at random, or proposed by Optuna to lower the validation −ELBO."""

    name: Literal["random", "optuna"]
    num_trials: PositiveInt
    seed: NonNegativeInt


class NoEarlyStopping(Config):
    """Every trial is trained to its end."""

    name: Literal["none"]


class ASHA(Config):
    """ASHA (Li et al. 2020, arXiv:1810.05934) among the trials of each family: for search, not for depth figures."""

    name: Literal["asha"]
    grace_epochs: PositiveInt
    reduction_factor: Annotated[int, Field(ge=2)]


class StudyConfig(Config):
    """Families of flows at several depths, trained with several seeds, and values of any other params by their paths.

    Attributes:
        families: by name; a family is a variant in which one `num_transforms` may be a list.
        seeds: of training.
        settings: values of model, training, evaluation, posterior and prior that replace those of params.yaml.
        over: values to vary, by the path of the param.
        search: which combinations become trials.
        early_stopping: which trials end early.
    """

    families: Annotated[dict[Name, Family], Field(min_length=1)]
    seeds: Seeds
    settings: dict[str, Any]
    over: dict[str, Values]
    search: Annotated[GridSearch | SampledSearch, Field(discriminator="name")]
    early_stopping: Annotated[NoEarlyStopping | ASHA, Field(discriminator="name")]


class ImputationConfig(Config):
    """Imputation of the lower half of test images.

    Attributes:
        num_images: whose missing pixels are scored, among those whose NLL is measured; 0 for none.
        num_particles: of the sampler that scores the observed pixels, per image.
        num_temperatures: of the sampler.
        num_steps: of the chain that draws the figure.
    """

    num_images: NonNegativeInt
    num_particles: Annotated[int, Field(ge=2)]
    num_temperatures: PositiveInt
    num_steps: PositiveInt

    @field_validator("num_images")
    @classmethod
    def _enough_for_an_error(cls, count: int) -> int:
        if count == 1:
            raise PydanticCustomError("too_few", "expected 0 or at least 2")
        return count


class ProbeConfig(Config):
    """A linear classifier on latents.

    Attributes:
        num_labels: numbers of labelled training images per class; none to leave the probe out.
        num_draws: of the labelled images.
        regularization: C of scikit-learn's LogisticRegression.
    """

    num_labels: Annotated[tuple[PositiveInt, ...], Field(strict=False), AfterValidator(_each_value_once)]
    num_draws: PositiveInt
    regularization: Annotated[float, Field(gt=0)]


class DownstreamConfig(Config):
    """What the latents of a trained model are good for."""

    imputation: ImputationConfig
    probe: ProbeConfig


class InterpolationConfig(Config):
    """Paths between pairs of test images, for two variants side by side; the labels of a pair differ if possible."""

    left: str
    right: str
    path: Literal["linear", "spherical"]
    space: Literal["latent", "base"]
    num_pairs: PositiveInt
    num_steps: Annotated[int, Field(ge=2)]
    seed: NonNegativeInt


class ReportConfig(Config):
    """Title of the report, and the variant that the others are compared with."""

    title: Annotated[str, Field(min_length=1)]
    reference: str


class Params(Config):
    """All of params.yaml."""

    data: DataConfig
    model: ModelConfig
    variants: Annotated[dict[Name, VariantConfig], Field(min_length=1)]
    seeds: Seeds
    training: TrainingConfig
    evaluation: EvaluationConfig
    downstream: DownstreamConfig
    interpolation: InterpolationConfig
    studies: dict[Name, StudyConfig]
    report: ReportConfig

    def vae_config(self, variant: str, image_shape: ImageShape) -> VAEConfig:
        """The model of a variant."""
        return vae_config(self.model, self.variants[variant], image_shape)

    def check_run(self, variant: str, seed: int) -> None:
        """Raise InputError unless params.yaml declares this run."""
        if variant not in self.variants:
            raise InputError(f"params.yaml: variants: expected {variant!r} among {', '.join(self.variants)}")
        if seed not in self.seeds:
            raise InputError(f"params.yaml: seeds: expected {seed} among {list(self.seeds)}")

    def check_study(self, name: str) -> None:
        """Raise InputError unless params.yaml declares this study."""
        if name not in self.studies:
            raise InputError(f"params.yaml: studies: expected {name!r} among {', '.join(self.studies) or 'none'}")


def vae_config(model: ModelConfig, variant: VariantConfig, image_shape: ImageShape) -> VAEConfig:
    """The model of a variant, for images of a shape."""
    return VAEConfig(image_shape=image_shape, **dict(model), **dict(variant))


def run_name(variant: str, seed: int) -> str:
    """The name of a run in file names; it equals DVC's key of the stage instance."""
    return f"{variant}-{seed}"
