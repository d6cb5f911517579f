"""The schema of the library's settings: frozen, strict, without defaults.

Values live in `params.yaml` alone, so no field has a default. An unknown, missing,
mistyped or out-of-range key is an error that names the key. Flow families, networks,
likelihoods, the VAE and the training loop keep their schemas beside their code.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
ProperFraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


def _vector_or_map(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) not in (1, 3):
        raise PydanticCustomError("latent_shape", "expected [size] or [channels, height, width]")
    return shape


ImageShape = Annotated[tuple[PositiveInt, PositiveInt, PositiveInt], Field(strict=False)]
Widths = Annotated[tuple[PositiveInt, ...], Field(strict=False)]  # YAML and JSON have lists only
Channels = Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1, max_length=4)]
LatentShape = Annotated[tuple[PositiveInt, ...], Field(strict=False), AfterValidator(_vector_or_map)]


class Config(BaseModel):
    """Base of every settings object: immutable, typed, closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FlowConfig(Config):
    """What every flow family has in its settings; `flow` names the entry of FLOWS."""

    flow: str
    num_transforms: NonNegativeInt


class EvaluationConfig(Config):
    """How a trained model is scored on the test set."""

    num_elbo_samples: Annotated[int, Field(ge=2)]
    num_importance_samples: PositiveInt
    num_nll_images: Annotated[int, Field(ge=2)]
    chunk_size: PositiveInt
    num_figure_images: PositiveInt
    seed: NonNegativeInt


class InterpolationConfig(Config):
    """Paths between pairs of test images, of different labels where there are labels, for two variants side by side."""

    left: str
    right: str
    path: Literal["linear", "spherical"]
    num_pairs: PositiveInt
    num_steps: Annotated[int, Field(ge=2)]
    seed: NonNegativeInt
