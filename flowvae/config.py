"""The schema of the library's settings: frozen, strict, without defaults.

Values are set only in `params.yaml`, so no field has a default. An unknown, missing, mistyped or out-of-range key is an
error that names the key. Every schema is defined beside the code that reads it.
"""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
ProperFraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
MAX_PIXEL = 255  # of an 8-bit value


def _vector_or_map(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) not in (1, 3):
        raise PydanticCustomError("latent_shape", "expected [size] or [channels, height, width]")
    return shape


# Not strict, because YAML and JSON have lists and no tuples.
ImageShape = Annotated[tuple[PositiveInt, PositiveInt, PositiveInt], Field(strict=False)]
LayerWidths = Annotated[tuple[PositiveInt, ...], Field(strict=False)]
StageChannels = Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1, max_length=4)]
LatentShape = Annotated[tuple[PositiveInt, ...], Field(strict=False), AfterValidator(_vector_or_map)]


class Config(BaseModel):
    """Base of every settings object: immutable, typed, closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
