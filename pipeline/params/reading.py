"""params.yaml -> typed config; every mistake is one line that names the key."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flowvae.config import EXPLICIT, UNSTATED, expectation
from flowvae.errors import InputError
from flowvae.model.flows import FLOWS
from pipeline.params.checks import contradictions
from pipeline.params.schema import Params
from pipeline.params.trees import value_at


def load_params(path: Path) -> Params:
    """Read and check params.yaml.

    Raises:
        InputError: one line per unknown, missing, mistyped, out-of-range or contradictory key.
    """
    return check_params(read_yaml(path), path)


def check_params(content: Any, path: Path) -> Params:
    """Check the contents of params.yaml.

    Raises:
        InputError: one line per unknown, missing, mistyped, out-of-range or contradictory key.
    """
    if content is None:
        raise InputError(f"{path}: empty; expected the keys {', '.join(Params.model_fields)}")
    try:
        params = Params.model_validate(content, context=EXPLICIT)
    except ValidationError as error:
        raise InputError("\n".join(f"{path}: {line}" for line in validation_lines(error, content))) from None
    if problems := list(contradictions(params)):
        raise InputError("\n".join(f"{path}: {problem}" for problem in problems))
    return params


def read_yaml(path: Path) -> Any:
    """Read the plain contents of a YAML file.

    Raises:
        InputError: the file is missing, or not valid YAML (a repeated key is not).
    """
    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', error)})") from error
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        reason = str(getattr(error, "problem", error)).partition(" with value ")[0]
        raise InputError(f"{path}{line}: not valid YAML ({reason}); fix it there") from error


def validation_lines(error: ValidationError, content: Any) -> list[str]:
    """Each problem of the contents of params.yaml as 'key.path: what is wrong', in one line."""
    return list(dict.fromkeys(validation_line(problem, content) for problem in error.errors()))


def validation_line(problem: Mapping[str, Any], content: Any) -> str:
    """One of pydantic's errors as one line."""
    kind, loc = "missing" if problem["input"] is UNSTATED else problem["type"], problem["loc"]
    added = loc[-1:] if kind == "missing" else ()  # the contents have no such key
    keys = keys_of(loc[: len(loc) - len(added)], content)
    parent = value_at(content, tuple(map(str, keys[:-1])))
    flow = parent.get("flow") if isinstance(parent, dict) else None
    entry = FLOWS.get(str(flow))
    key = ".".join(map(str, (*keys, *added))) or "the file"
    got = "null (nothing after the colon?)" if problem["input"] is None else repr(problem["input"])
    match kind:
        case "extra_forbidden":
            known = f" (flow {flow} has {', '.join(entry.config.model_fields)})" if entry else ""
            return f"{key}: unknown key{known}; remove it or fix the typo"
        case "missing":
            return f"{key}: missing {'number' if isinstance(loc[-1], int) else 'key'}; add it"
        case "union_tag_invalid":
            context = problem["ctx"]
            discriminator = context["discriminator"].strip("'")
            return f"{key}.{discriminator}: expected one of {context['expected_tags']}, got {context['tag']!r}"
        case "union_tag_not_found":
            return f"{key}.{problem['ctx']['discriminator'].strip(chr(39))}: missing key; add it"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{key}: expected a mapping (key: value), got {got}"
        case "tuple_type":
            return f"{key}: expected a list, got {got}"
        case "too_short" | "too_long":
            return f"{key}: expected {problem['msg'].partition(' have ')[2].partition(' after ')[0]}, got {got}"
        case "string_pattern_mismatch":
            return f"{key}: expected a name of at most 64 lowercase letters, digits, - and _, got {got}"
    return f"{key}: {expectation(problem)}, got {got}"


def keys_of(loc: Sequence[str | int], content: Any) -> list[str | int]:
    """The parts of a location of pydantic's that are keys of the contents; the others are tags of unions, or depths."""
    keys: list[str | int] = []
    for part in loc:
        try:
            content = content[part]
            keys.append(part)
        except (KeyError, TypeError, IndexError):
            pass
    return keys
