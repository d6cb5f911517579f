"""Saved models: exact when whole, one clear line when not."""

import hashlib
import json

import pytest
import torch
from examples import FLOW_SETTINGS, random, tiny_config, tiny_vae

import flowvae
from flowvae.errors import InputError
from flowvae.files import write_atomically
from flowvae.model.loading import build_vae, load
from flowvae.model.weights import CONFIG, WEIGHTS


def saved(folder, family="planar", std=0.3):
    vae = tiny_vae(family, std=std).float()
    vae.save(folder)
    return vae


def refused(folder, name, *words):
    """Loading fails with one line that names the file."""
    with pytest.raises(InputError) as caught:
        load(folder)
    message = str(caught.value)
    assert str(folder / name) in message and "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize("family", FLOW_SETTINGS)
def test_round_trip_is_exact(tmp_path, family):
    vae = saved(tmp_path / "new" / "folder", family).eval()
    loaded = flowvae.load(str(tmp_path / "new" / "folder"))
    weights = loaded.state_dict()
    assert list(weights) == list(vae.state_dict()) and not loaded.training
    assert all(torch.equal(value, weights[name]) for name, value in vae.state_dict().items())
    x, noise = random(0, 3, 1, 4, 4).sign().relu().float(), random(1, 3, 2).float()
    for found, expected in zip(loaded(x, noise), vae(x, noise), strict=True):
        assert torch.equal(found, expected)


def test_saving_again_replaces(tmp_path):
    saved(tmp_path, "planar")
    vae = saved(tmp_path, "real_nvp", std=0.1)
    assert torch.equal(load(tmp_path).state_dict()["decoder.head.0.weight"], vae.state_dict()["decoder.head.0.weight"])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([CONFIG, WEIGHTS])


def test_building_and_loading_leave_the_generators_of_every_device_alone(tmp_path, monkeypatch):
    """torch.manual_seed would seed those of GPUs, and a user's draws there would repeat after each model."""
    saved(tmp_path)
    seeded = []
    for backend in (torch.cuda, torch.mps, torch.xpu):
        for name in ("manual_seed", "manual_seed_all"):
            monkeypatch.setattr(backend, name, lambda seed, name=name: seeded.append(name), raising=False)
    before = torch.get_rng_state()
    build_vae(tiny_config("planar"), seed=3)
    load(tmp_path)
    assert torch.equal(torch.get_rng_state(), before) and not seeded
    torch.manual_seed(0)
    assert seeded, "the test sees what torch.manual_seed does"


def test_building_is_a_function_of_config_and_seed():
    torch.manual_seed(5)
    first = build_vae(tiny_config("planar"), seed=0).state_dict()
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), after)  # the global generator is left alone
    again = build_vae(tiny_config("planar"), seed=0).state_dict()
    other = build_vae(tiny_config("planar"), seed=1).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["decoder.head.0.weight"], other["decoder.head.0.weight"])


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_missing_file(tmp_path, name):
    saved(tmp_path)
    (tmp_path / name).unlink()
    refused(tmp_path, name, "cannot be read", "No such file")


def test_missing_folder(tmp_path):
    refused(tmp_path / "nowhere", CONFIG, "No such file")


@pytest.mark.parametrize("kept", [0, 4, 500, -1])
def test_truncated_weights(tmp_path, kept):
    saved(tmp_path)
    path = tmp_path / WEIGHTS
    path.write_bytes(path.read_bytes()[:kept])
    refused(tmp_path, WEIGHTS, "damaged")


@pytest.mark.parametrize("position", [0, 20, -5])
def test_flipped_byte(tmp_path, position):
    saved(tmp_path)
    path = tmp_path / WEIGHTS
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    refused(tmp_path, WEIGHTS, "damaged")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"vae": 3, "weights_sha256": ""}'])
def test_damaged_config(tmp_path, content):
    saved(tmp_path)
    (tmp_path / CONFIG).write_bytes(content)
    refused(tmp_path, CONFIG)


def edit_config(folder, edit):
    config = json.loads((folder / CONFIG).read_text())
    edit(config)
    (folder / CONFIG).write_text(json.dumps(config))


def test_unknown_key_in_the_config(tmp_path):
    saved(tmp_path)
    edit_config(tmp_path, lambda config: config["vae"]["encoder"].update(dropout=0.1))
    refused(tmp_path, CONFIG)


@pytest.mark.parametrize(
    "edit",
    [
        lambda config: config["vae"].update(latent_shape=[3]),
        lambda config: config["vae"].update(image_shape=[1, 8, 8]),
        lambda config: config["vae"]["posterior"].update(num_transforms=7),
        lambda config: config["vae"].update(posterior={"flow": "none"}),
    ],
)
def test_config_of_another_shape(tmp_path, edit):
    saved(tmp_path)
    edit_config(tmp_path, edit)
    refused(tmp_path, WEIGHTS, "does not fit")


def test_config_that_no_model_has(tmp_path):
    """Its settings are each allowed, but an image of 5 x 5 does not halve."""
    saved(tmp_path)
    edit_config(tmp_path, lambda config: config["vae"].update(image_shape=[1, 5, 5]))
    refused(tmp_path, CONFIG)


def test_weights_that_are_not_safetensors(tmp_path):
    """The checksum fits, the format does not: a pickle is refused, never opened."""
    saved(tmp_path)
    torch.save({"weight": torch.ones(2)}, tmp_path / WEIGHTS)
    digest = hashlib.sha256((tmp_path / WEIGHTS).read_bytes()).hexdigest()
    edit_config(tmp_path, lambda config: config.update(weights_sha256=digest))
    refused(tmp_path, WEIGHTS)


def fail_in_the_middle(file):
    file.write(b"half")
    raise RuntimeError("out of luck")


@pytest.mark.parametrize("before", [b"old", None])
def test_nothing_is_half_written(tmp_path, before):
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(RuntimeError, match="out of luck"):
        write_atomically(path, fail_in_the_middle)
    assert [child.name for child in tmp_path.iterdir()] == (["file"] if before is not None else [])
    assert before is None or path.read_bytes() == before


def test_the_old_file_is_whole_until_the_new_one_is(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    seen = []

    def write(file):
        file.write(b"new")
        file.flush()
        seen.append(path.read_bytes())

    write_atomically(path, write)
    assert seen == [b"old"] and path.read_bytes() == b"new"
    assert [child.name for child in tmp_path.iterdir()] == ["file"]
