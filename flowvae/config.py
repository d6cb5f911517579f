"""The schema of the library's settings: frozen, strict, without defaults.

Values live in `params.yaml` alone, so no field has a default. An unknown, missing,
mistyped or out-of-range key is an error that names the key. Flow families and the training
loop keep their schemas beside their code.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
ProperFraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
ImageShape = Annotated[tuple[PositiveInt, PositiveInt, PositiveInt], Field(strict=False)]
Widths = Annotated[tuple[PositiveInt, ...], Field(strict=False)]  # YAML and JSON have lists only


class Config(BaseModel):
    """Base of every settings object: immutable, typed, closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FlowConfig(Config):
    """What every flow family has in its settings; `flow` names the entry of FLOWS."""

    flow: str
    num_transforms: NonNegativeInt


class EncoderConfig(Config):
    """Convolution and pooling layers, then fully connected layers."""

    channels: Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1, max_length=4)]
    hidden_features: Widths
    context_features: PositiveInt


class DecoderConfig(Config):
    """Fully connected layers, then transposed convolutions; the mirror of the encoder."""

    channels: Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1, max_length=4)]
    hidden_features: Widths


class ModelConfig(Config):
    """All of a VAE but its flow."""

    latent_dim: PositiveInt
    encoder: EncoderConfig
    decoder: DecoderConfig


class EvaluationConfig(Config):
    """How a trained model is scored on the test set."""

    num_elbo_samples: Annotated[int, Field(ge=2)]
    num_importance_samples: PositiveInt
    num_nll_images: Annotated[int, Field(ge=2)]
    chunk_size: Annotated[int, Field(ge=1000)]
    num_figure_images: PositiveInt
    seed: NonNegativeInt


class InterpolationConfig(Config):
    """Paths between pairs of test images of different digits, for two variants side by side."""

    left: str
    right: str
    path: Literal["linear", "spherical"]
    num_pairs: PositiveInt
    num_steps: Annotated[int, Field(ge=2)]
    seed: NonNegativeInt
