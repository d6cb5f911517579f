"""Presets: parts of params.yaml that one command applies."""

import sys
from pathlib import Path

import pytest
from project import ROOT, command
from ruamel.yaml import YAML

from pipeline.params.checks import check_models
from pipeline.params.reading import check_params, load_params, read_yaml
from pipeline.params.trees import leaf_paths, nested, overlay, value_at
from pipeline.preset import apply_preset
from pipeline.study.points import study_problems

PARAMS = ROOT / "params.yaml"
PRESETS = {path.stem: path for path in sorted((ROOT / "presets").glob("*.yaml"))}
CONTENTS = {name: read_yaml(path) for name, path in PRESETS.items()}
COMPLETE = [name for name, content in CONTENTS.items() if set(content) != {"studies"}]
REPLACED_WHOLE = ("variants", "studies")  # with their comments


@pytest.fixture
def folder(tmp_path):
    """A copy of params.yaml, with a folder for the test's own presets."""
    (tmp_path / "presets").mkdir()
    (tmp_path / "params.yaml").write_bytes(PARAMS.read_bytes())
    return tmp_path


def put(folder, text, name="mine"):
    """Write a preset and apply it by the command."""
    (folder / f"presets/{name}.yaml").write_text(text)
    return command(folder, sys.executable, "-m", "pipeline.preset", name, check=False, PYTHONPATH=str(ROOT))


def test_only_what_is_named_changes(folder):
    ran = put(folder, "training: {epochs: 7}\nmodel: {encoder: {channels: [8, 8]}}\n")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["model.encoder.channels: [16, 32] -> [8, 8]", "training.epochs: 5 -> 7"]
    params = load_params(folder / "params.yaml")
    assert params.training.epochs == 7
    assert params.model.encoder.channels == (8, 8)
    before, after = PARAMS.read_text().splitlines(), (folder / "params.yaml").read_text().splitlines()
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert changed == [("    - 16", "    - 8"), ("    - 32", "    - 8"), ("  epochs: 5", "  epochs: 7")]


@pytest.mark.parametrize(
    "text",
    [
        "seeds: [0, 1]\n",
        "seeds:\n- 3\n- 4\n",
        "model: {latent_shape: [7]}\n",
        "model:\n  decoder:\n    channels:\n    - 8\n    - 4\n",
        "data: {folder: {size: [16, 24]}}\n",
        "training:\n  kl_warmup:\n    length: 2.0\n    unit: epochs\n",
        "studies: {}\n",
        "report: {title: 'A title: with a colon'}\n",
    ],
)
def test_lists_and_mappings_of_either_style_replace_those_of_the_other(folder, text):
    """Comments after a key stay valid, so the file has the values that were asked for."""
    assert put(folder, text).returncode == 0
    expected = overlay(read_yaml(PARAMS), YAML(typ="safe").load(text))
    assert read_yaml(folder / "params.yaml") == expected
    if "studies" not in text:
        assert comments(folder / "params.yaml") == comments(PARAMS)


def test_variants_and_schedules_are_replaced_as_a_whole(folder):
    variant = dict(read_yaml(PARAMS)["variants"]["real-nvp-5"])
    rows = f"variants:\n  vae: {{posterior: {{flow: none}}, prior: {{flow: none}}}}\n  real-nvp-5: {variant!r}"
    rows = rows.replace("'", "").replace("True", "true").replace("False", "false")
    assert put(folder, rows + "\ntraining: {schedule: {name: one_cycle, start: 0.1, peak: 0.3}}\n").returncode == 0
    params = load_params(folder / "params.yaml")
    assert list(params.variants) == ["vae", "real-nvp-5"]
    assert params.training.schedule.name == "one_cycle"
    assert params.studies == load_params(PARAMS).studies  # although the variants that they copied are gone
    assert "<<: {" not in (folder / "params.yaml").read_text()


def test_anchors_with_a_name_that_params_yaml_has_do_not_mix(folder):
    flow = "{flow: real_nvp, num_transforms: 5, hidden_features: [9], context: true, log_scale_bound: 3.0}"
    rest = ", normalization: none, weight_norm: false, net_batch_norm: false}"
    preset = "variants:\n  vae: {posterior: {flow: none}, prior: {flow: none}}\n"
    preset += f"  real-nvp-5: {{posterior: &real_nvp {flow[:-1]}{rest}, prior: {{flow: none}}}}\n"
    assert (
        put(
            folder, preset + "  real-nvp-6: {posterior: {<<: *real_nvp, num_transforms: 6}, prior: {flow: none}}\n"
        ).returncode
        == 0
    )
    params, before = load_params(folder / "params.yaml"), load_params(PARAMS)
    assert params.variants["real-nvp-6"].posterior.log_scale_bound == 3.0
    assert params.studies == before.studies


def test_networks_and_likelihoods_with_a_name_are_replaced_as_a_whole(folder):
    encoder = "{name: residual, channels: [8, 8], num_blocks: 1, hidden_features: [], context_features: 4}"
    text = f"model: {{encoder: {encoder}}}\n"
    assert put(folder, text).returncode == 0
    assert load_params(folder / "params.yaml").model.encoder.num_blocks == 1
    back = "model: {encoder: {name: conv, channels: [8, 8], hidden_features: [], context_features: 4}}\n"
    assert put(folder, back).returncode == 0
    assert not hasattr(load_params(folder / "params.yaml").model.encoder, "num_blocks")
    ran = put(folder, "model: {encoder: {name: residual, num_blocks: 2}}\n")
    assert "presets/mine.yaml: model.encoder.channels: missing key; add it" in ran.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {epoch: 7}\n", "presets/mine.yaml: training.epoch: unknown key"),
        ("training: {epochs: many}\n", "presets/mine.yaml: training.epochs: "),
        (
            "variants: {vae: {posterior: {flow: none}, prior: {flow: none}}}\n",
            "presets/mine.yaml: interpolation.right: ",
        ),
        ("studies: {new: {}}\n", "presets/mine.yaml: studies.new.families: missing key"),
        ("training: [\n", "presets/mine.yaml, line "),
        ("variants: {vae: *nothing}\n", "presets/mine.yaml, line 1: not valid YAML (found undefined alias"),
        ("7\n", "presets/mine.yaml: "),
    ],
)
def test_a_preset_that_does_not_fit_changes_nothing(folder, text, message):
    ran = put(folder, text)
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"preset: {message}")
    assert "Traceback" not in ran.stderr
    assert (folder / "params.yaml").read_bytes() == PARAMS.read_bytes()


def test_an_unknown_name_lists_those_that_are_known(folder):
    put(folder, "training: {epochs: 7}\n")
    ran = command(folder, sys.executable, "-m", "pipeline.preset", "other", check=False, PYTHONPATH=str(ROOT))
    assert ran.returncode == 1
    assert "NAME among mine" in ran.stderr


def test_twice_is_once(folder):
    put(folder, "training: {epochs: 7}\n")
    once = (folder / "params.yaml").read_bytes()
    assert put(folder, "training: {epochs: 7}\n").stdout == "params.yaml has all values of mine already\n"
    assert (folder / "params.yaml").read_bytes() == once


def comments(path, without=()):
    """The comments of a file, without those inside some sections."""
    section, found = "", []
    for line in path.read_text().splitlines():
        if line and line[0] not in " -#":
            section = line.partition(":")[0]
        comment = line.partition("#")[2]
        if comment and (section not in without or line.startswith("#")):
            found.append(comment)
    return found


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_that_ships_can_be_applied_to_params_yaml(folder, name):
    """The file keeps its comments, and merge keys have the values that the preset gives."""
    expected = overlay(read_yaml(PARAMS), CONTENTS[name])
    changed = apply_preset(folder / "params.yaml", PRESETS[name])
    assert changed
    assert read_yaml(folder / "params.yaml") == expected
    params = load_params(folder / "params.yaml")
    check_models(params, Path("params.yaml"))
    assert list(study_problems(params)) == []
    without = (*REPLACED_WHOLE, "model")  # in which encoder and decoder are replaced
    assert comments(folder / "params.yaml", without) == comments(PARAMS, without)
    assert apply_preset(folder / "params.yaml", PRESETS[name]) == []
    assert read_yaml(folder / "params.yaml") == expected


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_gives_the_same_after_any_other(name):
    """Those that name only studies leave all other sections as they were."""
    committed, preset = read_yaml(PARAMS), CONTENTS[name]
    alone = overlay(committed, preset)
    for other, content in CONTENTS.items():
        before = overlay(committed, content)
        after = overlay(before, preset)
        assert after == (alone if name in COMPLETE else before | {"studies": preset["studies"]}), other


def test_presets_of_studies_only_are_those_expected():
    assert {name for name in PRESETS if name not in COMPLETE} == {"depth-full", "stability-forty", "stability-full"}


@pytest.mark.parametrize("name", ["depth-full", "stability-full"])
def test_a_preset_of_studies_fits_after_every_other(folder, name):
    """Also as text: its anchors and those of the preset before stay apart."""
    for other in COMPLETE:
        (folder / "params.yaml").write_bytes(PARAMS.read_bytes())
        apply_preset(folder / "params.yaml", PRESETS[other])
        expected = read_yaml(folder / "params.yaml") | {"studies": CONTENTS[name]["studies"]}
        apply_preset(folder / "params.yaml", PRESETS[name])
        assert read_yaml(folder / "params.yaml") == expected
        assert list(study_problems(load_params(folder / "params.yaml"))) == []


def test_all_presets_one_after_another(folder):
    expected = read_yaml(PARAMS)
    for name in (*PRESETS, *reversed(PRESETS)):
        expected = overlay(expected, CONTENTS[name])
        apply_preset(folder / "params.yaml", PRESETS[name])
        assert read_yaml(folder / "params.yaml") == expected


def test_a_preset_without_studies_removes_them():
    params = check_params(overlay(read_yaml(PARAMS), CONTENTS["five-minutes"]), Path("params.yaml"))
    assert params.studies == {}


def test_overlay_does_not_change_its_arguments():
    content, changes = {"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": {"e": 4}}
    assert overlay(content, changes) == {"a": {"b": 3, "c": 2}, "d": {"e": 4}}
    assert content == {"a": {"b": 1, "c": 2}}


def test_leaves_paths_and_values_of_nested_mappings():
    tree = {"a": {"b": 1, "c": {}}, "d": [2]}
    assert leaf_paths(tree) == [("a", "b"), ("d",)]
    assert value_at(tree, ("a", "b")) == 1
    assert value_at(tree, ("a", "b", "c")) is None
    assert nested({"a.b": 1, "a.c.d": 2, "e": 3}) == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
