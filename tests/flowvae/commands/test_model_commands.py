"""Commands on model folders: what they write is what the library computes, and is the same each time."""

import csv
import json
import math
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from documents import code_spans, commands, read, section
from examples import EVALUATION
from PIL import Image

import flowvae
from flowvae.data.images import ImageSet
from flowvae.evaluation import EvaluationConfig, evaluate
from flowvae.imputation import impute
from flowvae.pictures import GAP
from flowvae.randomness import generator

ROOT = Path(__file__).parents[3]
COMMANDS = ("info", "sample", "reconstruct", "interpolate", "encode", "score", "impute")
EVERY = ("bits", "rgb", "ladder")
ZOOM = 14  # of images of 4 x 4 pixels


def arrays(path):
    with np.load(path, allow_pickle=False) as opened:
        return dict(opened)


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def size(path):
    """Width and height of a picture."""
    with Image.open(path) as image:
        return image.size


def tile(path, row, column, side=4):
    """An image in a grid, as 8-bit values."""
    with Image.open(path) as image:
        grid, step = np.asarray(image), side * ZOOM + GAP
    top, left = (GAP + i * step for i in (row, column))
    return grid[top : top + side * ZOOM : ZOOM, left : left + side * ZOOM : ZOOM]


def test_info(models, call, tmp_path):
    def lines(name):
        return dict(line.split(maxsplit=1) for line in call("info", models / name))

    assert lines("bits") == {
        "model": "VAE",
        "images": "1 x 4 x 4, bits",
        "latents": "2",
        "posterior": "planar, num_transforms 1, amortised true",
        "prior": "none",
        "likelihood": "bernoulli",
        "encoder": "conv, channels [3], hidden_features [8], context_features 4",
        "decoder": "conv, channels [3], hidden_features [8]",
        "parameters": f"{sum(each.numel() for each in flowvae.load(models / 'bits').parameters()):,}",
    }
    assert lines("rgb")["images"] == "3 x 4 x 4, 8-bit values"
    ladder = lines("ladder")
    assert (ladder["model"], ladder["latents"]) == ("HierarchicalVAE", "24 (2 x 2 x 2, 1 x 4 x 4)")
    trained = shutil.copytree(models / "bits", tmp_path / "trained")
    content = {"variant": "planar-1", "seed": 3, "epochs": 5, "metrics": {"nll_nats": 9.5}, "model": {}}
    (trained / "training.json").write_text(json.dumps(content))
    assert {"variant": "planar-1", "seed": "3", "epochs": "5", "nll_nats": "9.5"}.items() <= lines(trained).items()


@pytest.mark.parametrize("name", EVERY)
def test_samples(models, call, tmp_path, name):
    shape = flowvae.load(models / name).config.image_shape
    (line,) = call("sample", models / name, "-o", tmp_path / "a.npz", "-n", 5)
    assert line == f"{tmp_path / 'a.npz'}: 5 images"
    images = arrays(tmp_path / "a.npz")["images"]
    assert images.dtype == np.uint8 and images.shape == (5, *shape)
    assert images.max() == 1 if name == "bits" else images.max() > 1
    call("sample", models / name, "-o", tmp_path / "mean.npz", "-n", 5, "--mean")
    means = arrays(tmp_path / "mean.npz")["images"]
    assert means.dtype == np.float32 and 0 <= means.min() < means.max() <= 1
    call("score", models / name, tmp_path / "a.npz", "--samples", 2)  # what one command writes, another reads


def test_samples_follow_from_the_seed(models, call, tmp_path):
    for out, *options in (
        ("a.png",),
        ("b.png",),
        ("other.png", "--seed", "1"),
        ("cold.png", "--temperature", "0", "--mean"),
        ("a.npz",),
        ("b.npz",),
    ):
        call("sample", models / "bits", "-o", tmp_path / out, "-n", "40", *options)
    content = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert content["a.png"] == content["b.png"] and content["a.npz"] == content["b.npz"]
    assert content["a.png"] != content["other.png"]
    images = arrays(tmp_path / "a.npz")["images"]
    assert size(tmp_path / "a.png") == (16 * (4 * ZOOM + GAP) + GAP, 3 * (4 * ZOOM + GAP) + GAP)
    for i in (0, 17, 39):  # ones are white, as in pictures that are read
        assert np.array_equal(tile(tmp_path / "a.png", *divmod(i, 16)), 255 * images[i, 0])
    assert np.array_equal(tile(tmp_path / "cold.png", 0, 0), tile(tmp_path / "cold.png", 1, 7))


@pytest.mark.parametrize("name", EVERY)
def test_reconstructions(models, call, pictures, tmp_path, name):
    (line,) = call("reconstruct", models / name, pictures, "-o", tmp_path / "r.npz")
    assert line.startswith(f"{tmp_path / 'r.npz'}: 4 images and their reconstructions")
    assert ("; grey values became bits by threshold" in line) == (name == "bits")
    made, vae = arrays(tmp_path / "r.npz"), flowvae.load(models / name)
    assert [name.removeprefix(f"{pictures}/") for name in made["names"]] == ["a.png", "b.jpg", "c.png", "more/d.png"]
    expected = vae.reconstruct(torch.from_numpy(made["images"]))
    assert np.allclose(made["reconstructions"], expected.numpy(), atol=1e-5)
    call("reconstruct", models / name, pictures, "-o", tmp_path / "r.png")
    if name == "rgb":
        assert np.array_equal(tile(tmp_path / "r.png", 0, 2), made["images"][2].transpose(1, 2, 0))
        shown = 255 * expected[2].permute(1, 2, 0).numpy()
        assert np.abs(tile(tmp_path / "r.png", 1, 2) - shown).max() < 1


@pytest.mark.parametrize("options", [(), ("--path", "linear"), ("--space", "base", "--steps", "3")])
def test_interpolations(models, call, bits, tmp_path, options):
    (line,) = call("interpolate", models / "bits", bits, "-o", tmp_path / "i.npz", *options)
    assert "paths between 6 images, in pairs" in line
    made, vae = arrays(tmp_path / "i.npz"), flowvae.load(models / "bits")
    steps = 3 if "--steps" in options else 8
    assert made["images"].shape == (3, steps, 1, 4, 4)
    given = torch.from_numpy(np.load(bits))
    ends = vae.reconstruct(given).numpy()
    assert np.array_equal(made["start"], given[::2]) and np.array_equal(made["end"], given[1::2])
    assert np.allclose(made["images"][:, 0], ends[::2], atol=1e-5)
    assert np.allclose(made["images"][:, -1], ends[1::2], atol=1e-5)
    call("interpolate", models / "bits", bits, "-o", tmp_path / "i.png", *options)
    step = 4 * ZOOM + GAP
    assert size(tmp_path / "i.png") == ((steps + 2) * step + GAP, 3 * step + GAP)


@pytest.mark.parametrize("name", EVERY)
def test_latents(models, call, pictures, tmp_path, name):
    vae = flowvae.load(models / name)
    call("reconstruct", models / name, pictures, "-o", tmp_path / "r.npz")
    expected = vae.encode(torch.from_numpy(arrays(tmp_path / "r.npz")["images"])).numpy()
    for out in ("z.csv", "z.npz"):
        call("encode", models / name, pictures, "-o", tmp_path / out)
    made, rows = arrays(tmp_path / "z.npz"), table(tmp_path / "z.csv")
    assert np.allclose(made["latents"], expected, atol=1e-5)
    assert [row.pop("image") for row in rows] == list(made["names"])
    assert list(rows[0]) == [f"z{i}" for i in range(vae.latent_dim)]
    read = np.array([[float(value) for value in row.values()] for row in rows], np.float32)
    assert np.array_equal(read, made["latents"])


def numbers(line):
    """The four numbers of a line of scores."""
    words = line.split()
    return [float(words[i]) for i in (1, 3, 7, 9)]


@pytest.mark.parametrize("name", ["bits", "rgb"])
def test_scores_are_those_of_the_evaluation(models, call, bits, tmp_path, name):
    vae = flowvae.load(models / name)
    path = bits
    if name == "rgb":
        np.save(path := tmp_path / "rgb.npy", np.random.default_rng(0).integers(0, 256, (6, 3, 4, 4), np.uint8))
    first, bound, nll, effective = call("score", models / name, path, "--samples", 30, "-o", tmp_path / "s.csv")
    assert first == f"{tmp_path / 's.csv'}: 6 images, 30 draws each, seed 0"
    pixels = torch.from_numpy(np.load(path))
    images = ImageSet(pixels, "bits" if vae.of_bits else "levels")
    config = EVALUATION | {"num_nll_images": 6, "num_importance_samples": 30}
    expected = evaluate(vae, images, EvaluationConfig(**config))
    scale = math.prod(vae.config.image_shape) * math.log(2)
    nats, stderr, bits_per_dim, bits_stderr = numbers(nll)
    assert nats == pytest.approx(expected.images.nll.mean(), abs=0.006)
    assert stderr == pytest.approx(expected.images.nll.std(ddof=1) / 6**0.5, abs=0.006)
    assert (bits_per_dim, bits_stderr) == pytest.approx((nats / scale, stderr / scale), abs=0.001)
    assert numbers(bound)[0] == pytest.approx(expected.images.subset_negative_elbo.mean(), abs=0.006)
    assert effective.startswith(f"effective draws: {expected.median_effective_samples:.0f} of 30 (median over images)")
    assert ("raise --samples" in effective) == (name == "rgb")
    rows = table(tmp_path / "s.csv")
    assert [row["image"] for row in rows] == [f"{path}[{i}]" for i in range(6)]
    assert [float(row["nll_nats"]) for row in rows] == pytest.approx(expected.images.nll.tolist(), rel=1e-4)
    assert float(rows[0]["nll_bits_per_dim"]) == pytest.approx(float(rows[0]["nll_nats"]) / scale)


def test_a_single_image_has_no_standard_error(models, call, pictures):
    _, bound, nll, _ = call("score", models / "bits", pictures / "a.png", "--samples", 5)
    assert "±" not in bound + nll


@pytest.mark.parametrize("name", EVERY)
def test_imputations(models, call, pictures, tmp_path, name):
    vae = flowvae.load(models / name)
    options = ("--mask", "lower-half", "--steps", "3", "--seed", "4")
    (line,) = call("impute", models / name, pictures, "-o", tmp_path / "f.npz", *options)
    assert f"{tmp_path / 'f.npz'}: 50% of the pixels of 4 images filled in, 3 steps, seed 4" in line
    made = arrays(tmp_path / "f.npz")
    half = vae.config.image_shape[1] // 2
    assert made["missing"][:, :, half:].all() and not made["missing"][:, :, :half].any()
    assert np.array_equal(made["images"][:, :, :half], made["given"][:, :, :half])
    x, missing = vae.images(made["given"]), torch.from_numpy(made["missing"])
    expected = impute(vae, x, missing, 3, generator("cpu", 4, "pixels"))
    assert np.array_equal(made["images"], (expected.draws * (1 if vae.of_bits else 255)).round().byte().numpy())
    call("impute", models / name, pictures, "-o", tmp_path / "m.npz", *options, "--mean")
    assert np.allclose(arrays(tmp_path / "m.npz")["images"], expected.means.numpy(), atol=1e-5)
    call("impute", models / name, pictures, "-o", tmp_path / "f.png", *options)
    if name == "rgb":
        for row, image in enumerate((made["given"], np.where(made["missing"], 128, made["given"]), made["images"])):
            assert np.abs(tile(tmp_path / "f.png", row, 3).astype(int) - image[3].transpose(1, 2, 0)).max() <= 1


def test_results_hold_no_times(models, call, bits, tmp_path):
    call("encode", models / "bits", bits, "-o", tmp_path / "z.npz")
    with zipfile.ZipFile(tmp_path / "z.npz") as file:
        assert {entry.date_time[0] for entry in file.infolist()} == {1980}


def test_mistakes(models, complaint, bits, pictures, tmp_path):
    model, out = models / "bits", tmp_path / "out.png"
    assert complaint("sample", model, "-o", "x.gif") == "--out: x.gif: expected a file that ends with .png or .npz"
    assert "ends with .csv" in complaint("score", model, bits, "-o", "scores.png")
    assert complaint("interpolate", model, pictures / "a.png", "-o", out) == (
        "interpolate: expected images in pairs, got 1"
    )
    assert "'nothing' is no device of this machine" in complaint("sample", model, "-o", out, "--device", "nothing")
    assert "config.json: cannot be read" in complaint("info", pictures)
    assert "/proc/" in complaint("sample", model, "-o", "/proc/none/out.png")
    broken = shutil.copytree(model, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"x")
    assert "its checksum differs" in complaint("sample", broken, "-o", out)
    (broken / "training.json").write_text("[")
    shutil.copy(model / "model.safetensors", broken)
    assert "training.json: damaged, not JSON" in complaint("info", broken)


def test_pictures_have_one_channel_or_three(models, complaint, call, tmp_path):
    flowvae.VAE((2, 4, 4), (2,)).save(tmp_path / "two")
    assert complaint("sample", tmp_path / "two", "-o", tmp_path / "a.png").endswith("these images have 2; use .npz")
    call("sample", tmp_path / "two", "-o", tmp_path / "a.npz", "-n", 2)
    call("reconstruct", tmp_path / "two", tmp_path / "a.npz", "-o", tmp_path / "b.npz")


def test_commands_of_the_page_run(models, call, pictures, tmp_path, monkeypatch):
    page = section(read(ROOT / "docs/commands.md"), "On a model and images")
    shutil.copytree(models / "bits", tmp_path / "models/real-nvp-5-0")
    pictures.rename(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    shutil.copy("photos/a.png", "photos/b.png")
    lines = [words for words in commands(page) if words[0] == "flowvae" and len(words) > 2]
    assert [words[1] for words in lines] == [name for name in code_spans(page) if name in COMMANDS][: len(lines)]
    for _, *words in lines:
        call(*words)
        if "-o" in words:
            assert (tmp_path / words[words.index("-o") + 1]).stat().st_size
