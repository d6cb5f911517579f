"""The schema of params.yaml: every field is read somewhere, and no default in Python replaces an absent value."""

import ast
import json
from collections.abc import Iterator
from functools import reduce
from operator import getitem
from typing import Any, get_args

import pytest
from project import ROOT

from flowvae.config import Config
from flowvae.errors import InputError
from flowvae.model.flows import FLOWS
from pipeline.params.reading import check_params, read_yaml
from pipeline.params.schema import Params


def configs(annotation: Any = Params) -> set[type[Config]]:
    """Every settings class that a type contains; all of params.yaml if none is given."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        inner = [field.annotation for field in annotation.model_fields.values()]
        entries = [child for child in annotation.__subclasses__() if child.__module__.startswith("flowvae")]
        return {annotation}.union(*map(configs, (*inner, *entries)))
    return set().union(*map(configs, get_args(annotation)))


def names_read() -> set[str]:
    """Attributes read, and parameters declared, anywhere in the two packages."""
    names = set()
    for package in ("flowvae", "pipeline"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    names.add(node.attr)
                elif isinstance(node, ast.arg):  # the settings of a flow reach its module as keywords
                    names.add(node.arg)
    return names


def test_all_settings_classes_are_found():
    names = {config.__name__ for config in configs()}
    assert {"DataConfig", "TrainingConfig", "EvaluationConfig", "StudyConfig", "ASHA", "Range"} <= names
    assert {entry.config for entry in FLOWS.values()} <= configs()


def test_every_field_is_read():
    fields = {field for config in configs() for field in config.model_fields}
    assert {"max_grad_norm", "log_scale_bound", "reference", "num_blocks", "num_mixtures", "latent_shape"} <= fields
    assert fields - names_read() == set()


def leaves(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values that are no mappings."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from leaves(value, (*path, key))
    else:
        yield path


def test_every_value_is_stated_in_params_yaml():
    """Also one for which the library has a default: a key that is missing is an error that names it."""
    path = ROOT / "params.yaml"
    content = json.loads(json.dumps(read_yaml(path)))  # in which no mapping stands twice
    assert set(Params.model_fields) == set(content)
    for *parents, key in list(leaves(content)):
        parent = reduce(getitem, parents, content)
        if "settings" in parents:
            continue  # which replace values that are stated elsewhere
        value = parent.pop(key)
        with pytest.raises(InputError) as caught:
            check_params(content, path)
        name = ".".join((*parents, key))
        assert f"{path}: {name}: missing key; add it" in str(caught.value), name
        parent[key] = value
