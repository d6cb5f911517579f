"""The schema of params.yaml: every field is read somewhere, and none has a default in Python."""

import ast
from typing import Any

from project import ROOT
from ruamel.yaml import YAML

import flowvae.config
import flowvae.datasets.config
import flowvae.model.flows
import flowvae.model.likelihoods
import flowvae.model.networks
import flowvae.model.vae
import pipeline.params.reading
from flowvae.config import Config
from pipeline.params.reading import Params


def configs() -> set[type[Config]]:
    """Every settings class that params.yaml can reach."""
    modules = (
        flowvae.config,
        flowvae.datasets.config,
        flowvae.model.networks,
        flowvae.model.likelihoods,
        flowvae.model.vae,
        pipeline.params.reading,
    )
    found = {value for module in modules for value in vars(module).values() if is_config(value)}
    return (found | {family.config for family in flowvae.model.flows.FLOWS.values()}) - {Config}


def is_config(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Config)


def names_read() -> set[str]:
    """Attributes read, and parameters declared, anywhere in the two packages."""
    names = set()
    for package in ("flowvae", "pipeline"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    names.add(node.attr)
                elif isinstance(node, ast.arg):  # a family's settings reach its module as keywords
                    names.add(node.arg)
    return names


def test_every_field_is_read():
    fields = {field for config in configs() for field in config.model_fields}
    assert {"max_grad_norm", "log_scale_bound", "reference", "num_blocks", "num_mixtures", "latent_shape"} <= fields
    assert fields - names_read() == set()


def test_no_field_has_a_default():
    for config in configs():
        assert all(field.is_required() for field in config.model_fields.values()), config
    assert set(Params.model_fields) == set(YAML(typ="safe", pure=True).load(ROOT / "params.yaml"))
