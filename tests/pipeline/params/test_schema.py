"""The schema of params.yaml: every field is read somewhere, and none has a default in Python."""

import ast
from typing import Any, get_args

from project import ROOT
from ruamel.yaml import YAML

from flowvae.config import Config
from flowvae.model.flows import FLOWS
from pipeline.params.schema import Params


def configs(annotation: Any = Params) -> set[type[Config]]:
    """Every settings class that a type contains; all of params.yaml if none is given."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        inner = [field.annotation for field in annotation.model_fields.values()]
        return {annotation}.union(*map(configs, inner))
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


def test_no_field_has_a_default():
    for config in configs():
        assert all(field.is_required() for field in config.model_fields.values()), config
    assert set(Params.model_fields) == set(YAML(typ="safe", pure=True).load(ROOT / "params.yaml"))
