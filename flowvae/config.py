"""The schema of the library's settings: frozen and strict.

Settings of models and of training have defaults, for use from Python. `params.yaml` states every value nevertheless
(`EXPLICIT`). An unknown, missing, mistyped or out-of-range key is an error that names the key. Every schema is
defined beside the code that reads it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError, PydanticKnownError

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)  # which has no public name

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
ProperFraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
MAX_PIXEL = 255  # of an 8-bit value
MAX_TRANSFORMS = 1000  # of a flow: more is a typing error, and would run out of memory
NumTransforms = Annotated[int, Field(gt=0, le=MAX_TRANSFORMS)]


def _vector_or_map(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) not in (1, 3):
        raise PydanticCustomError("latent_shape", "expected [size] or [channels, height, width]")
    return shape


# Not strict, because YAML and JSON have lists and no tuples.
ImageShape = Annotated[tuple[PositiveInt, PositiveInt, PositiveInt], Field(strict=False)]
LayerWidths = Annotated[tuple[PositiveInt, ...], Field(strict=False)]
StageChannels = Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1, max_length=4)]
MapShape = ImageShape
LatentSizes = tuple[int, ...] | tuple[tuple[int, int, int], ...]  # one level, or several
OneLevel = Annotated[tuple[PositiveInt, ...], Field(strict=False), AfterValidator(_vector_or_map)]
Levels = Annotated[tuple[MapShape, ...], Field(strict=False, min_length=1)]


def has_levels(latent_shape: Any) -> bool:
    """Whether this is the shape of a hierarchy of latents: a list of maps."""
    return isinstance(latent_shape, Sequence) and any(isinstance(size, Sequence) for size in latent_shape)


TAGS = ("one level", "several levels")  # pydantic has them in the locations of errors
LatentShape = Annotated[
    Annotated[OneLevel, Tag(TAGS[0])] | Annotated[Levels, Tag(TAGS[1])],
    Discriminator(lambda shape: TAGS[has_levels(shape)]),
]


EXPLICIT = {"explicit": True}  # context of a validation in which defaults do not count
UNSTATED = object()  # the value of a field that such a validation misses


class OneLineErrors(ModelMetaclass):
    """Settings made in Python raise a ValueError of one line for all mistakes, where pydantic's has several lines."""

    def __call__(cls, *args: Any, **values: Any) -> Any:
        try:
            return super().__call__(*args, **values)
        except ValidationError as error:
            lines = (problem_line(problem) for problem in error.errors())
            raise ValueError(f"{cls.__name__.removesuffix('Config')}: {'; '.join(lines)}") from None


def problem_line(problem: Mapping[str, Any]) -> str:
    """One of pydantic's errors as 'name: what is wrong'."""
    name, kind = ".".join(str(part) for part in problem["loc"] if part not in TAGS), problem["type"]
    if kind in ("missing", "extra_forbidden"):
        return f"{name}: {'missing' if kind == 'missing' else 'unknown'}"
    expected = "expected settings or a mapping" if kind == "model_attributes_type" else expectation(problem)
    return f"{name}: {expected}, got {problem['input']!r}"


def expectation(problem: Mapping[str, Any]) -> str:
    """What value one of pydantic's errors says was expected."""
    message = problem["msg"].replace("Input should be", "expected")
    return f"{message[0].lower()}{message[1:]}"


class Config(BaseModel, metaclass=OneLineErrors):
    """Base of every settings object: immutable, typed, closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _mark_unstated(cls, values: Any, info: ValidationInfo) -> Any:
        """With the context EXPLICIT, give every field that is not stated a value that it refuses.

        Fields with one possible value need no statement.
        """
        if info.context is not EXPLICIT or not isinstance(values, Mapping):
            return values
        optional = {name for name, field in cls.model_fields.items() if not (field.is_required() or _is_fixed(field))}
        return {**values, **dict.fromkeys(optional - values.keys(), UNSTATED)}

    def __repr_name__(self) -> str:
        return type(self).__name__.removesuffix("Config")  # the name under which `flowvae` exports it


def entry_by(tag: str, config_of: Callable[[str], type[Config]], names: Iterable[str]) -> BeforeValidator:
    """A validator of settings whose class is found by the value of one key, in a table to which users may add.

    Args:
        tag: the key.
        config_of: the class of the settings with a name.
        names: of all entries of the table; it is read again at every validation.
    """

    def validate(value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, Config):
            return value
        if not isinstance(value, Mapping):
            raise PydanticKnownError("model_attributes_type")
        if tag not in value:
            raise PydanticKnownError("union_tag_not_found", {"discriminator": repr(tag)})
        if value[tag] not in (known := list(names)):
            expected = ", ".join(map(repr, known))
            context = {"discriminator": repr(tag), "tag": str(value[tag]), "expected_tags": expected}
            raise PydanticKnownError("union_tag_invalid", context)
        return config_of(value[tag]).model_validate(value, context=info.context)

    return BeforeValidator(validate)


def _is_fixed(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1
