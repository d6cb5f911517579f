"""params.yaml: every mistake is one line that names the key."""

from collections.abc import Callable
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.hydra import apply_overrides
from project import ROOT, copy_project, stage
from ruamel.yaml import YAML

from flowvae.datasets.registry import DATASETS, image_shape
from flowvae.errors import InputError
from flowvae.model.flows import FLOWS
from flowvae.model.likelihoods import LIKELIHOODS
from pipeline.params.checks import check_models, contradictions
from pipeline.params.reading import load_params, read_yaml

COMMITTED = ROOT / "params.yaml"
DELETED = object()
BERNOULLI = {"name": "bernoulli"}
TEXT = COMMITTED.read_bytes()


def put(key: str, value: Any) -> Callable[[Any], None]:
    """An edit that sets (or deletes) the value at a dotted path."""

    def edit(params: Any) -> None:
        *parents, last = key.split(".")
        for parent in parents:
            params = params[parent]
        if value is DELETED:
            del params[last]
        else:
            params[last] = value

    return edit


# name: (key, value put there, part of the message); the message begins with the same key
VALUES = {
    "unknown at the top": ("modle", 1, "unknown key"),
    "unknown in data": ("data.url", "x", "unknown key"),
    "unknown in model": ("model.dropout", 0.5, "unknown key"),
    "unknown in the encoder": ("model.encoder.kernel_size", 3, "unknown key"),
    "unknown in a variant": ("variants.vae.depth", 1, "unknown key"),
    "unknown in training": ("training.optimizer", "adam", "unknown key"),
    "unknown in evaluation": ("evaluation.gpu", True, "unknown key"),
    "unknown in interpolation": ("interpolation.steps", 3, "unknown key"),
    "unknown in report": ("report.author", "x", "unknown key"),
    "another family's option, planar": ("variants.planar-4.posterior.hidden_features", [64], "unknown key"),
    "another family's option, Real NVP": ("variants.real-nvp-2.posterior.amortised", True, "unknown key"),
    "missing section": ("training", DELETED, "missing key"),
    "missing seeds": ("seeds", DELETED, "missing key"),
    "missing studies": ("studies", DELETED, "missing key"),
    "missing in the decoder": ("model.decoder.channels", DELETED, "missing key"),
    "missing in a variant": ("variants.real-nvp-2.posterior.log_scale_bound", DELETED, "missing key"),
    "missing flow": ("variants.planar-4.posterior.flow", DELETED, "missing key"),
    "missing in report": ("report.reference", DELETED, "missing key"),
    "string for int": ("training.epochs", "five", "'five'"),
    "quoted number": ("training.learning_rate", "1e-3", "'1e-3'"),
    "int for string": ("report.title", 3, "got 3"),
    "bool for int": ("training.batch_size", True, "got True"),
    "int for bool": ("data.fallback", 1, "got 1"),
    "number for a shape": ("model.latent_shape", 40, "expected a list, got 40"),
    "no latents": ("model.latent_shape", [], "expected [size] or [channels, height, width], got []"),
    "latents of two axes": ("model.latent_shape", [4, 4], "expected [size] or [channels, height, width], got [4, 4]"),
    "unknown likelihood": ("model.likelihood.name", "normal", "'logistic_mixture', got 'normal'"),
    "likelihood without a name": ("model.likelihood.name", DELETED, "missing key"),
    "key of another likelihood": ("model.likelihood.num_mixtures", 5, "unknown key"),
    "name for a likelihood": ("model.likelihood", "bernoulli", "expected a mapping"),
    "unknown encoder": ("model.encoder.name", "transformer", "'conv', 'residual', 'ladder', got 'transformer'"),
    "encoder without a name": ("model.encoder.name", DELETED, "missing key"),
    "unknown decoder": ("model.decoder.name", "mlp", "'conv', 'residual', 'ladder', got 'mlp'"),
    "key of another encoder": ("model.encoder.num_blocks", 2, "unknown key"),
    "float for int": ("training.epochs", 40.5, "got 40.5"),
    "null": ("evaluation.seed", None, "got null"),
    "list for mapping": ("model.encoder", [16, 32], "got [16, 32]"),
    "mapping for list": ("model.decoder.channels", {"first": 32}, "got {'first': 32}"),
    "number for a variant": ("variants.vae", 4, "got 4"),
    "list for variants": ("variants", ["vae"], "got ['vae']"),
    "list for studies": ("studies", ["depth"], "got ['depth']"),
    "nothing for studies": ("studies", None, "got null"),
    "number for seeds": ("seeds", 0, "got 0"),
    "no epochs": ("training.epochs", 0, "greater than 0"),
    "empty batch": ("training.batch_size", 0, "greater than 0"),
    "negative learning rate": ("training.learning_rate", -0.001, "greater than 0"),
    "NaN": ("training.weight_decay", float("nan"), "nan"),
    "infinity": ("training.max_grad_norm", float("inf"), "finite"),
    "negative warm-up": ("training.kl_warmup.length", -1.5, "greater than or equal to 0"),
    "unit of a warm-up": ("training.kl_warmup.unit", "hours", "'steps'"),
    "fraction above 1": ("training.schedule.decay_start", 1.5, "less than or equal to 1"),
    "negative fraction": ("training.schedule.decay_start", -0.1, "greater than or equal to 0"),
    "unknown schedule": ("training.schedule.name", "linear", "'one_cycle'"),
    "key of another schedule": ("training.schedule.peak", 0.3, "unknown key"),
    "missing key of a schedule": ("training.schedule.warmup_steps", DELETED, "missing key"),
    "schedule without a name": ("training.schedule.name", DELETED, "missing key"),
    "average of nothing": ("training.average_decay", 1.0, "less than 1"),
    "unknown precision": ("training.precision", "float16", "'bfloat16'"),
    "unknown objective": ("training.objective", "loss", "'importance_weighted'"),
    "no parts": ("training.accumulation_steps", 0, "greater than 0"),
    "negative seed": ("data.seed", -1, "greater than or equal to 0"),
    "no chunk": ("evaluation.chunk_size", 0, "greater than 0"),
    "one draw has no variance": ("evaluation.num_elbo_samples", 1, "2"),
    "no samples": ("evaluation.num_importance_samples", 0, "greater than 0"),
    "one step": ("interpolation.num_steps", 1, "2"),
    "empty title": ("report.title", "", "at least 1"),
    "no channels": ("model.encoder.channels", [], "at least 1"),
    "unknown data set": ("data.name", "lsun", "'arrays' or 'shards'"),
    "nothing held out": ("data.valid_fraction", 0.0, "greater than 0"),
    "all may be corrupt": ("data.max_corrupt", 1.0, "less than 1"),
    "unknown EMNIST": ("data.emnist.split", "letter", "'letters'"),
    "a set without its settings": ("data.svhn", DELETED, "missing key"),
    "unknown binarization": ("data.binarization", "hard", "'threshold'"),
    "unknown path": ("interpolation.path", "geodesic", "'spherical'"),
    "no variants": ("variants", {}, "at least 1"),
    "no seeds": ("seeds", [], "at least 1"),
    "a seed twice": ("seeds", [0, 1, 0], "each seed once"),
    "left names no variant": ("interpolation.left", "vea", "one of the variants"),
    "right names no variant": ("interpolation.right", "real-nvp-6", "one of the variants"),
    "reference names no variant": ("report.reference", "plain", "one of the variants"),
    "planar of depth 0": ("variants.planar-4.posterior.num_transforms", 0, "greater than 0"),
    "plain VAE of depth 1": ("variants.vae.prior.num_transforms", 1, "0"),
}

COUPLED = (*(f"real-nvp-{k}" for k in (2, 5, 10, 20)), "prior-real-nvp-5", "both-real-nvp-5")
# name: (edits, the key at the start of the message, part of it)
EDITS = {
    "unknown flow": (
        [put("variants.planar-4.posterior.flow", "plannar")],
        "variants.planar-4.posterior.flow",
        "'real_nvp'",
    ),
    "latent size 0": ([put("model.latent_shape", [4, 0, 4])], "model.latent_shape.1", "greater than 0"),
    "residual encoder without its depth": (
        [put("model.encoder.name", "residual")],
        "model.encoder.num_blocks",
        "missing key",
    ),
    "likelihood of 8-bit values for bits": (
        [put("model.likelihood", {"name": "discretized_logistic"})],
        "model.likelihood.name",
        "expected one of bernoulli where data.binarization is static, got discretized_logistic",
    ),
    "no mixtures": (
        [put("model.likelihood", {"name": "logistic_mixture", "num_mixtures": 0})],
        "model.likelihood.num_mixtures",
        "greater than 0",
    ),
    "map that is not the size of the lowest stage": (
        [
            put("model.latent_shape", [2, 8, 8]),
            put("model.encoder.name", "residual"),
            put("model.encoder.num_blocks", 1),
        ],
        "model with " + ", ".join(f"variants.{name}" for name in YAML(typ="safe").load(TEXT)["variants"]),
        "latent map of 7 x 7, the size of the lowest stage of channels, got 8 x 8",
    ),
    "second seed": ([put("seeds", [0, "one"])], "seeds.1", "'one'"),
    "width 0": ([put("model.encoder.hidden_features", [256, 0])], "model.encoder.hidden_features.1", "greater than 0"),
    "bad name": (
        [put("variants.Planar 4", {"posterior": {"flow": "none"}, "prior": {"flow": "none"}})],
        "variants.Planar 4",
        "lowercase letters",
    ),
    "numeric name": (
        [put("variants", {4: {"posterior": {"flow": "none"}, "prior": {"flow": "none"}}})],
        "variants.4",
        "string",
    ),
    "channels that do not halve 28": (
        [put("model.encoder.channels", [8, 8, 8])],
        "model with " + ", ".join(f"variants.{name}" for name in YAML(typ="safe").load(TEXT)["variants"]),
        "divisible by 8",
    ),
    "colours as bits": (
        [put("data.name", "svhn")],
        "data.binarization",
        "expected none for the colour images of svhn, got 'static'",
    ),
    "another set's binarization": (
        [put("data.name", "omniglot"), put("data.binarization", "larochelle")],
        "data.binarization",
        "larochelle exists for mnist only",
    ),
    "one number for a size": ([put("data.folder.size", [32])], "data.folder.size.1", "missing number"),
    "nothing to couple": (
        [put("model.latent_shape", [1])],
        "model with " + ", ".join(f"variants.{name}" for name in COUPLED),
        "a latent of at least 2 dimensions",
    ),
}

# name: (contents, part of the message); None for a missing file
CONTENTS = {
    "tab": (TEXT.replace(b"  epochs:", b"\tepochs:"), "not valid YAML"),
    "open bracket": (TEXT.replace(b"channels: [32, 16]", b"channels: [32, 16"), "not valid YAML"),
    "unknown anchor": (TEXT.replace(b"<<: *planar,", b"<<: *planer,", 1), "not valid YAML (found undefined alias"),
    "anchor of a number": (
        TEXT.replace(b"vae: {posterior: {flow: none}", b"vae: {posterior: {flow: &planar none}").replace(
            b"&planar {", b"{"
        ),
        "not valid YAML (expected a mapping or list of mappings for merging",
    ),
    "key twice": (TEXT + b"\nseeds: [1]\n", "not valid YAML"),
    "inner key twice": (TEXT.replace(b"  epochs: 5", b"  epochs: 5\n  epochs: 6"), "not valid YAML"),
    "empty": (b"", "empty; expected the keys data"),
    "comment only": (b"# nothing\n", "empty; expected the keys data"),
    "a list": (b"- data\n- model\n", "the file"),
    "two documents": (TEXT + b"\n---\nseeds: [1]\n", "not valid YAML"),
    "not UTF-8": (TEXT + b"# \xff\xfe\n", "cannot be read"),
    "missing": (None, "cannot be read"),
}


def complaints(path: Path) -> list[str]:
    """Lines of the error. Each must name the file, and contain no words of Python's or pydantic's."""
    with pytest.raises(InputError) as raised:
        check_models(load_params(path), path)
    lines = str(raised.value).splitlines()
    assert lines
    for line in lines:
        assert line.startswith(str(path)), line
        assert not any(word in line.lower() for word in ("traceback", "pydantic", "http", "error_type")), line
    return lines


@pytest.fixture
def edited(tmp_path):
    """Write the resolved content of params.yaml, without merge keys, after some edits."""

    def write(*edits: Callable[[Any], None]) -> Path:
        yaml, path = YAML(), tmp_path / "params.yaml"
        yaml.representer.ignore_aliases = lambda value: True
        params = read_yaml(COMMITTED)
        for edit in edits:
            edit(params)
        with path.open("wb") as file:
            yaml.dump(params, file)
        return path

    return write


def test_committed_params_load_and_describe_the_table():
    params = load_params(COMMITTED)
    assert {variant.posterior.flow for variant in params.variants.values()} == {"none", "planar", "real_nvp"}
    assert {variant.prior.flow for variant in params.variants.values()} == {"none", "real_nvp", "autoregressive"}


@pytest.mark.parametrize(("key", "value", "says"), VALUES.values(), ids=VALUES)
def test_wrong_value(edited, key, value, says):
    (line,) = complaints(path := edited(put(key, value)))
    assert line.startswith(f"{path}: {key}: ")
    assert says in line.removeprefix(f"{path}: {key}: ")


def contradiction(params, binarization, **likelihood):
    """The problems of a likelihood with a binarization."""
    data = params.data.model_copy(update={"binarization": binarization})
    config = LIKELIHOODS[likelihood["name"]].config(**likelihood)
    model = params.model.model_copy(update={"likelihood": config})
    return list(contradictions(params.model_copy(update={"data": data, "model": model})))


@pytest.mark.parametrize("binarization", ["static", "larochelle", "dynamic", "threshold", "none"])
def test_likelihood_and_data_are_both_bits_or_both_8_bit_values(binarization):
    params = load_params(COMMITTED)
    eight_bit = [{"name": "discretized_logistic"}, {"name": "logistic_mixture", "num_mixtures": 2}]
    matching, others = ([BERNOULLI], eight_bit) if binarization != "none" else (eight_bit, [BERNOULLI])
    for likelihood in matching:
        assert contradiction(params, binarization, **likelihood) == []
    for likelihood in others:
        (line,) = contradiction(params, binarization, **likelihood)
        assert line.startswith("model.likelihood.name: expected one of ")
        assert f"where data.binarization is {binarization}, got {likelihood['name']}" in line
        assert all(name["name"] in line for name in matching)


@pytest.mark.parametrize(("edits", "key", "says"), EDITS.values(), ids=EDITS)
def test_wrong_edit(edited, edits, key, says):
    lines = complaints(path := edited(*edits))
    found = [line.removeprefix(f"{path}: {key}: ") for line in lines if line.startswith(f"{path}: {key}: ")]
    assert any(says in line for line in found), lines


@pytest.mark.parametrize(("content", "says"), CONTENTS.values(), ids=CONTENTS)
def test_wrong_file(tmp_path, content, says):
    path = tmp_path / "params.yaml"
    if content is not None:
        assert content != TEXT
        path.write_bytes(content)
    (line,) = complaints(path)
    assert says in line


@pytest.mark.parametrize("name", DATASETS)
def test_the_name_is_enough_to_change_the_data_set(edited, name):
    """For colour images together with the binarization and the likelihood."""
    channels, *_ = image_shape(load_params(COMMITTED).data.model_copy(update={"name": name}))
    eight_bit = (put("data.binarization", "none"), put("model.likelihood", {"name": "discretized_logistic"}))
    path = edited(put("data.name", name), *(eight_bit if channels == 3 else ()))
    check_models(load_params(path), path)


def test_grey_images_in_a_folder_may_be_bits(edited):
    path = edited(put("data.name", "folder"), put("data.folder.color", False))
    assert image_shape(load_params(path).data) == (1, 32, 32)


def test_folder_instead_of_the_file(tmp_path):
    (line,) = complaints(tmp_path)
    assert "cannot be read" in line


def test_yaml_error_names_the_line(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("data:\n  name: mnist\n  name: mnist\n")
    (line,) = complaints(path)
    assert line.startswith(f"{path}, line 3: ")


def test_each_mistake_gets_a_line(edited):
    path = edited(put("training.epochs", 0), put("data.fallback", "yes"), put("modle", 1), put("seeds", DELETED))
    keys = {line.removeprefix(f"{path}: ").split(":")[0] for line in complaints(path)}
    assert keys == {"training.epochs", "data.fallback", "modle", "seeds"}


@pytest.mark.parametrize(
    "key", ["training.weight_decay", "training.schedule.warmup_steps", "training.final_learning_rate"]
)
def test_zero_is_a_value(edited, key):
    load_params(edited(put(key, 0.0 if not key.endswith("warmup_steps") else 0)))


def test_there_may_be_no_studies(edited):
    assert load_params(edited(put("studies", {}))).studies == {}


def test_user_sees_one_line_per_mistake_and_no_traceback(tmp_path):
    project = copy_project(tmp_path / "project", git=False)
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("epochs: 1", "epochs: 0").replace("fallback: true", "falback: true"))
    ran = stage(project, "fetch")
    assert ran.returncode == 1
    assert [line.split(": ")[:3] for line in ran.stderr.splitlines()] == [
        ["fetch", "params.yaml", "data.fallback"],
        ["fetch", "params.yaml", "data.falback"],
        ["fetch", "params.yaml", "training.epochs"],
    ]
    assert not (project / "data").exists()


@pytest.mark.parametrize("content", [b"data: [\n", b"\xff", None], ids=["not YAML", "not UTF-8", "missing"])
def test_user_sees_which_file_is_wrong(run_stage, tmp_path, content):
    if content is not None:
        (tmp_path / "params.yaml").write_bytes(content)
    code, errors = run_stage(tmp_path, "fetch")
    assert code == 1
    (line,) = errors
    assert line.startswith("fetch: params.yaml")


def test_a_key_that_no_stage_lists_stops_fetch(run_stage, tmp_path):
    project = copy_project(tmp_path / "project", git=False)
    path = project / "dvc.yaml"
    text = path.read_text().replace("      - evaluation\n", "      - evaluation.seed\n")
    path.write_text(text.replace("[evaluation, downstream]", "[evaluation.seed, downstream]"))
    code, errors = run_stage(project, "fetch")
    assert code == 1
    assert "fetch: params.yaml: evaluation.chunk_size: no stage reads it; list it in dvc.yaml" in errors


def replaced(tmp_path, old: str, new: str) -> Path:
    """params.yaml as it is written, with its merge keys, after one edit of its text."""
    text = TEXT.decode()
    assert text.count(old) == 1
    path = tmp_path / "params.yaml"
    path.write_text(text.replace(old, new))
    return path


COPIES = (
    *(f"variants.real-nvp-{k}.posterior" for k in (2, 5, 10, 20)),
    "variants.prior-real-nvp-5.prior",
    "variants.both-real-nvp-5.posterior",
    "variants.both-real-nvp-5.prior",
)


def test_merge_keys_copy_all_values_but_those_that_are_given():
    variants, families = load_params(COMMITTED).variants, load_params(COMMITTED).studies["depth"].families
    posteriors = {name: variant.posterior for name, variant in variants.items()}
    for k in (5, 10, 20):
        assert posteriors[f"real-nvp-{k}"] == posteriors["real-nvp-2"].model_copy(update={"num_transforms": k})
    for k in (10, 20, 40):
        assert posteriors[f"planar-{k}"] == posteriors["planar-4"].model_copy(update={"num_transforms": k})
    changes = {"num_transforms": 5, "hidden_features": (128,), "context": False}
    assert variants["prior-real-nvp-5"].prior == posteriors["real-nvp-2"].model_copy(update=changes)
    assert variants["both-real-nvp-5"].prior == variants["prior-real-nvp-5"].prior
    assert families["real_nvp"] == {k: variants[f"real-nvp-{k}"] for k in (2, 5, 10, 20)}
    assert families["planar"] == {k: variants[f"planar-{k}"] for k in (4, 10, 20, 40)}


def test_an_edit_of_the_marked_variant_reaches_all_copies(tmp_path):
    path = replaced(tmp_path, "      log_scale_bound: 2.0\n", "      log_scale_bound: 3.0\n")
    params = load_params(path)
    flows = {f"variants.{name}.{side}": flow for name, variant in params.variants.items() for side, flow in variant}
    assert {key for key, flow in flows.items() if getattr(flow, "log_scale_bound", 0) == 3.0} == set(COPIES)
    families = params.studies["depth"].families
    assert all(variant.posterior.log_scale_bound == 3.0 for variant in families["real_nvp"].values())
    assert all(variant.prior.log_scale_bound == 3.0 for variant in families["prior_real_nvp"].values())


def test_a_typo_in_the_marked_variant_is_reported_for_each_copy(tmp_path):
    path = replaced(tmp_path, "      log_scale_bound: 2.0\n", "      log_scale_bond: 2.0\n")
    fields = ", ".join(FLOWS["real_nvp"].config.model_fields)
    families = ("real_nvp.posterior", "prior_real_nvp.prior")
    copies = (*COPIES, *(f"studies.depth.families.{family}" for family in families))
    assert sorted(complaints(path)) == sorted(
        line
        for key in copies
        for line in (
            f"{path}: {key}.log_scale_bound: missing key; add it",
            f"{path}: {key}.log_scale_bond: unknown key (flow real_nvp has {fields}); remove it or fix the typo",
        )
    )


def test_a_mistake_in_a_copy_is_reported_for_that_copy_only(tmp_path):
    (line,) = complaints(path := replaced(tmp_path, "*planar, num_transforms: 40},", "*planar, num_transforms: 0},"))
    assert line == f"{path}: variants.planar-40.posterior.num_transforms: expected greater than 0, got 0"
    (line,) = complaints(
        path := replaced(tmp_path, "planar-40: {posterior: {<<: *planar", "planar-40: {posterior: {<: *planar")
    )
    assert line == f"{path}: variants.planar-40.posterior.flow: missing key; add it"


def test_another_flow_does_not_fit_the_copied_values(tmp_path):
    path = replaced(
        tmp_path, "planar-40: {posterior: {<<: *planar,", "planar-40: {posterior: {<<: *planar, flow: real_nvp,"
    )
    keys = {line.removeprefix(f"{path}: variants.planar-40.posterior.").partition(":")[0] for line in complaints(path)}
    assert {"amortised", "hidden_features", "log_scale_bound"} <= keys


def test_set_param_of_dvc_changes_one_variant_only(tmp_path):
    """Although others copy the same values."""
    path = tmp_path / "params.yaml"
    path.write_bytes(TEXT)
    apply_overrides(path, ["variants.real-nvp-5.posterior.num_transforms=6", "training.epochs=1"])
    before, after = load_params(COMMITTED).variants, load_params(path).variants
    assert {name for name in before if before[name] != after[name]} == {"real-nvp-5"}
    assert after["real-nvp-5"].posterior.num_transforms == 6


def test_set_param_of_dvc_keeps_the_style_of_the_file(tmp_path):
    """`dvc exp run --set-param` writes the whole file: it adds the copied values to merge keys, and changes no more."""
    path = tmp_path / "params.yaml"
    path.write_bytes(TEXT)
    apply_overrides(path, ["training.epochs=1"])
    before, after = TEXT.decode().splitlines(), path.read_text().splitlines()
    changes = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    assert sum(max(i2 - i1, j2 - j1) for kind, i1, i2, j1, j2 in changes if kind != "equal") <= 60  # wrapped at 80
    expected = read_yaml(COMMITTED)
    assert expected["training"]["epochs"] != 1
    expected["training"]["epochs"] = 1
    assert read_yaml(path) == expected
    comments = [[line.partition("#")[2] for line in lines if "#" in line] for lines in (before, after)]
    assert comments[0] == comments[1]
