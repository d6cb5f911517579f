"""params.yaml -> typed config; every mistake is one line that names the key."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flowvae.config import (
    Config,
    EvaluationConfig,
    ImageShape,
    InterpolationConfig,
    NonNegativeInt,
)
from flowvae.data.config import DataConfig
from flowvae.data.datasets import contradictions as data_contradictions
from flowvae.data.datasets import image_shape
from flowvae.errors import InputError
from flowvae.flows import FLOWS, AnyFlowConfig
from flowvae.likelihoods import LIKELIHOODS
from flowvae.training_config import TrainingConfig
from flowvae.vae import ModelConfig, VAEConfig, build_vae
from pipeline.sweeps import StabilityConfig, SweepConfig

VariantName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
Seeds = Annotated[tuple[NonNegativeInt, ...], Field(strict=False, min_length=1)]


class ReportConfig(Config):
    """What the report says of the runs."""

    title: Annotated[str, Field(min_length=1)]
    reference: str


class Params(Config):
    """All of params.yaml."""

    data: DataConfig
    model: ModelConfig
    variants: Annotated[dict[VariantName, AnyFlowConfig], Field(min_length=1)]
    seeds: Seeds
    training: TrainingConfig
    evaluation: EvaluationConfig
    interpolation: InterpolationConfig
    sweep: SweepConfig
    stability: StabilityConfig
    report: ReportConfig

    def vae_config(self, variant: str, image_shape: ImageShape) -> VAEConfig:
        """The model of one row of the table."""
        return VAEConfig(model=self.model, flow=self.variants[variant], image_shape=image_shape)

    def with_stability_as_sweep(self) -> "Params":
        """The trials of the stability study are those of a sweep, and run as such."""
        return self.model_copy(update={"sweep": self.stability})

    def check_run(self, variant: str, seed: int) -> None:
        """Raise InputError unless params.yaml declares this run."""
        if variant not in self.variants:
            raise InputError(f"params.yaml: variants: expected {variant!r} among {', '.join(self.variants)}")
        if seed not in self.seeds:
            raise InputError(f"params.yaml: seeds: expected {seed} among {list(self.seeds)}")


def run_key(variant: str, seed: int) -> str:
    """The name that files of one run carry; the same as DVC's key of a stage instance."""
    return f"{variant}-{seed}"


def load_params(path: Path) -> Params:
    """Read and check params.yaml.

    Raises:
        InputError: one line per unknown, missing, mistyped, out-of-range or contradictory key.
    """
    return check_params(read_yaml(path), path)


def check_params(content: Any, path: Path) -> Params:
    """Contents of params.yaml as typed config.

    Raises:
        InputError: one line per unknown, missing, mistyped, out-of-range or contradictory key.
    """
    if content is None:
        raise InputError(f"{path}: empty; expected the keys {', '.join(Params.model_fields)}")
    try:
        params = Params.model_validate(content)
    except ValidationError as error:
        raise InputError("\n".join(f"{path}: {describe(problem, content)}" for problem in error.errors())) from None
    if problems := list(contradictions(params)):
        raise InputError("\n".join(f"{path}: {problem}" for problem in problems))
    return params


def read_yaml(path: Path) -> Any:
    """The plain contents of a YAML file.

    Raises:
        InputError: it is missing, or not YAML (a key twice counts).
    """
    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', error)})") from error
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        reason = str(getattr(error, "problem", error)).partition(" with value ")[0]
        raise InputError(f"{path}{line}: not valid YAML ({reason}); mend it there") from error


def describe(problem: Mapping[str, Any], content: Any) -> str:
    """One pydantic error about the contents of params.yaml as 'key.path: what is wrong'."""
    parents, kind = keys_of_file(problem["loc"][:-1], content)
    family = FLOWS.get(kind)
    last = problem["loc"][-1:] or ("the file",)
    key = ".".join(str(part) for part in (*parents, *last) if part != "[key]")
    got = "null (nothing after the colon?)" if problem["input"] is None else repr(problem["input"])
    match problem["type"]:
        case "extra_forbidden":
            known = f" (flow {kind} has {', '.join(family.config.model_fields)})" if family else ""
            return f"{key}: unknown key{known}; remove it or mend its spelling"
        case "missing":
            return f"{key}: missing {'number' if isinstance(last[0], int) else 'key'}; add it"
        case "union_tag_invalid":
            context = problem["ctx"]
            tag = context["discriminator"].strip("'")
            return f"{key}.{tag}: expected one of {context['expected_tags']}, got {context['tag']!r}"
        case "union_tag_not_found":
            return f"{key}.{problem['ctx']['discriminator'].strip(chr(39))}: missing key; add it"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{key}: expected a mapping (key: value), got {got}"
        case "tuple_type":
            return f"{key}: expected a list, got {got}"
        case "too_short" | "too_long":
            return f"{key}: expected {problem['msg'].partition(' have ')[2].partition(' after ')[0]}, got {got}"
        case "string_pattern_mismatch":
            return f"{key}: expected a name of small letters, digits, - and _, got {got}"
    message = problem["msg"].replace("Input should be", "expected")
    return f"{key}: {message[0].lower()}{message[1:]}, got {got}"


def keys_of_file(loc: Sequence[str | int], content: Any) -> tuple[list[str | int], str | int | None]:
    """Those parts of a pydantic location that lead through the contents, and the last that does not.

    A discriminated union puts the name of the kind that was chosen into the location.
    """
    keys, kind = [], None
    for part in loc:
        try:
            content = content[part]
            keys.append(part)
        except (KeyError, TypeError):
            kind = part
    return keys, kind


def contradictions(params: Params) -> Iterator[str]:
    """Keys that are fine alone and wrong together, each as one line."""
    named = {
        "interpolation.left": params.interpolation.left,
        "interpolation.right": params.interpolation.right,
        "report.reference": params.report.reference,
    }
    for key, variant in named.items():
        if variant not in params.variants:
            yield f"{key}: expected one of the variants ({', '.join(params.variants)}), got {variant!r}"
    yield from data_contradictions(params.data)
    if params.training.objective == "importance_weighted" and params.training.free_nats:
        yield f"training.free_nats: expected 0 with the importance_weighted objective, got {params.training.free_nats}"
    if problem := misread(params.data, params.model):
        yield problem
    if len(set(params.seeds)) < len(params.seeds):
        yield f"seeds: expected each seed once, got {list(params.seeds)}"


def misread(data: DataConfig, model: ModelConfig) -> str | None:
    """What is wrong if the likelihood is of bits and the data are 8-bit values, or the other way round."""
    bits = [name for name, kind in LIKELIHOODS.items() if kind.likelihood.of_bits]
    if (model.likelihood.name in bits) != eight_bit(data.binarization):
        return None
    fitting = [name for name in LIKELIHOODS if (name in bits) != eight_bit(data.binarization)]
    return (
        f"model.likelihood.name: expected one of {', '.join(fitting)} where data.binarization is "
        f"{data.binarization}, got {model.likelihood.name}"
    )


def eight_bit(binarization: str) -> bool:
    """Whether images stay 8-bit values under this `data.binarization`, instead of becoming bits."""
    return binarization == "none"


def describe_values(binarization: str) -> str:
    """What the pixels are."""
    return "8-bit values" if eight_bit(binarization) else f"{binarization} binarization"


def check_models(params: Params, path: Path) -> None:
    """Build every variant once; `fetch` does it for all stages.

    Raises:
        InputError: one line per reason why variants do not fit the model.
    """
    unbuildable: dict[str, list[str]] = {}
    for variant, flow in params.variants.items():
        if problem := misfit(params.data, params.model, flow):
            unbuildable.setdefault(problem, []).append(f"variants.{variant}")
    if unbuildable:
        lines = (f"{path}: model with {', '.join(keys)}: {message}" for message, keys in unbuildable.items())
        raise InputError("\n".join(lines))


def misfit(data: DataConfig, model: ModelConfig, flow: AnyFlowConfig) -> str | None:
    """Why images, networks and flow do not fit each other, found by building them."""
    try:
        build_vae(VAEConfig(model=model, flow=flow, image_shape=image_shape(data)), seed=0)
    except ValueError as error:
        return str(error)
    return None


def unread_keys(params: Any, stages: dict[str, Any]) -> list[str]:
    """Keys of params.yaml that no stage of dvc.yaml lists, as dotted paths.

    Args:
        params: contents of params.yaml.
        stages: `stages` of dvc.yaml.
    """
    listed = [
        entry.replace("${item.variant}", "*").split(".")
        for stage in stages.values()
        for entry in stage.get("params", ())
    ]
    return [
        ".".join(path)
        for path in leaf_paths(params)
        if not any(
            all(part in ("*", key) for part, key in zip(prefix, path)) and len(prefix) <= len(path) for prefix in listed
        )
    ]


def leaf_paths(tree: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths of all values that are not mappings."""
    if not isinstance(tree, dict):
        return [path]
    return [leaf for key, value in tree.items() for leaf in leaf_paths(value, (*path, str(key)))]
