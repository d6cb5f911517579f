"""Presets: a part of params.yaml that one command puts in."""

import sys
from pathlib import Path

import pytest
from project import ROOT, command

from pipeline.params import check_models, check_params, load_params, read_yaml
from pipeline.points import check_sweeps
from pipeline.preset import overlay, value_at

PRESETS = sorted(path.stem for path in (ROOT / "params").glob("*.yaml"))


@pytest.fixture
def folder(tmp_path):
    """The committed params.yaml, and a preset of the test's own."""
    (tmp_path / "params").mkdir()
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    return tmp_path


def put(folder, text, name="mine"):
    (folder / f"params/{name}.yaml").write_text(text)
    return command(folder, sys.executable, "-m", "pipeline.preset", name, check=False, PYTHONPATH=str(ROOT))


def test_only_what_is_named_changes(folder):
    ran = put(folder, "training: {epochs: 7}\nmodel: {encoder: {channels: [8, 8]}}\n")
    assert ran.returncode == 0
    assert ran.stdout.splitlines() == ["model.encoder.channels: [16, 32] -> [8, 8]", "training.epochs: 5 -> 7"]
    params = load_params(folder / "params.yaml")
    assert params.training.epochs == 7
    assert params.model.encoder.channels == (8, 8)
    before = (ROOT / "params.yaml").read_text().splitlines()
    after = (folder / "params.yaml").read_text().splitlines()
    changed = [
        (old.partition("#")[2], new.partition("#")[2]) for old, new in zip(before, after, strict=True) if old != new
    ]
    assert len(changed) == 2
    assert all(old == new for old, new in changed)  # comments stay


def test_variants_and_schedules_are_replaced_as_a_whole(folder):
    rows = "variants:\n  vae: {flow: none, num_transforms: 0}\n  real-nvp-5: " + repr(
        dict(read_yaml(ROOT / "params.yaml")["variants"]["real-nvp-5"])
    ).replace("'", "").replace("True", "true")
    assert put(folder, rows + "\ntraining: {schedule: {name: one_cycle, start: 0.1, peak: 0.3}}\n").returncode == 0
    params = load_params(folder / "params.yaml")
    assert list(params.variants) == ["vae", "real-nvp-5"]
    assert params.training.schedule.name == "one_cycle"


def test_networks_and_likelihoods_that_are_named_are_replaced_as_a_whole(folder):
    encoder = "{name: residual, channels: [8, 8], num_blocks: 1, hidden_features: [], context_features: 4}"
    text = f"model: {{encoder: {encoder}}}\n"
    assert put(folder, text).returncode == 0
    assert load_params(folder / "params.yaml").model.encoder.num_blocks == 1
    back = "model: {encoder: {name: conv, channels: [8, 8], hidden_features: [], context_features: 4}}\n"
    assert put(folder, back).returncode == 0
    assert not hasattr(load_params(folder / "params.yaml").model.encoder, "num_blocks")
    ran = put(folder, "model: {encoder: {name: residual, num_blocks: 2}}\n")
    assert "params/mine.yaml: model.encoder.channels: missing key; add it" in ran.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {epoch: 7}\n", "params/mine.yaml: training.epoch: unknown key"),
        ("training: {epochs: many}\n", "params/mine.yaml: training.epochs: "),
        ("variants: {vae: {flow: none, num_transforms: 0}}\n", "params/mine.yaml: interpolation.right: "),
        ("training: [\n", "params/mine.yaml, line "),
        ("7\n", "params/mine.yaml: "),
    ],
)
def test_a_preset_that_does_not_fit_changes_nothing(folder, text, message):
    ran = put(folder, text)
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"preset: {message}")
    assert "Traceback" not in ran.stderr
    assert (folder / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_an_unknown_name_lists_those_that_are_known(folder):
    put(folder, "training: {epochs: 7}\n")
    ran = command(folder, sys.executable, "-m", "pipeline.preset", "other", check=False, PYTHONPATH=str(ROOT))
    assert ran.returncode == 1
    assert "NAME among mine" in ran.stderr


def test_twice_is_once(folder):
    put(folder, "training: {epochs: 7}\n")
    once = (folder / "params.yaml").read_bytes()
    assert put(folder, "training: {epochs: 7}\n").stdout == "params.yaml has it all already\n"
    assert (folder / "params.yaml").read_bytes() == once


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_that_ships_fits_params_yaml(folder, name):
    text = (ROOT / f"params/{name}.yaml").read_text()
    assert put(folder, text, name).returncode == 0
    load_params(folder / "params.yaml")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_the_same_after_any_other(name):
    """It names all that any preset changes, so nothing of another stays; budgets that are not spent aside."""
    committed, preset = read_yaml(ROOT / "params.yaml"), read_yaml(ROOT / f"params/{name}.yaml")
    alone = in_use(overlay(committed, preset))
    check_models(alone, Path("params.yaml"))
    assert list(check_sweeps(alone)) == []
    for other in PRESETS:
        after = overlay(overlay(committed, read_yaml(ROOT / f"params/{other}.yaml")), preset)
        assert in_use(after) == alone, other


def in_use(content):
    """Typed params, with the budgets that are spent alone."""
    params = check_params(content, Path("params.yaml"))
    spent = {
        section: getattr(params, section).model_copy(
            update={"budgets": {getattr(params, section).budget: getattr(params, section).chosen}}
        )
        for section in ("sweep", "stability")
    }
    return params.model_copy(update=spent)


def test_overlay_leaves_its_arguments_alone():
    content, changes = {"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": {"e": 4}}
    assert overlay(content, changes) == {"a": {"b": 3, "c": 2}, "d": {"e": 4}}
    assert content == {"a": {"b": 1, "c": 2}}
    assert value_at(content, ("a", "b")) == 1
    assert value_at(content, ("a", "b", "c")) is None
