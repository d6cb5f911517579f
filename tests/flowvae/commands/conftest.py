"""Model folders, and the command as users call it."""

import numpy as np
import pytest
from examples import build_vae, perturb, tiny_config, tiny_vae
from PIL import Image
from typer.testing import CliRunner

from flowvae.commands.app import app
from flowvae.model.settings import VAEConfig

LADDER = {
    "image_shape": (3, 8, 8),
    "latent_shape": [[2, 2, 2], [1, 4, 4]],
    "posterior": {"flow": "none"},
    "prior": {"flow": "none"},
    "likelihood": {"name": "logistic_mixture", "num_mixtures": 2},
    "encoder": {"name": "ladder", "channels": [4, 5], "num_blocks": 1, "context_features": 2},
    "decoder": {"name": "ladder", "channels": [5, 4]},
}
RGB = {"image_shape": (3, 4, 4), "likelihood": {"name": "discretized_logistic"}}


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Models of bits, of colours, and of colours with a hierarchy of latents."""
    folder = tmp_path_factory.mktemp("models")
    tiny_vae("planar").float().save(folder / "bits")
    perturb(build_vae(tiny_config("planar", **RGB), seed=0), 0.3).save(folder / "rgb")
    perturb(build_vae(VAEConfig(**LADDER), seed=0), 0.1).save(folder / "ladder")
    return folder


@pytest.fixture
def pictures(tmp_path):
    """A folder with 4 coloured pictures, 12 x 9, one of them in a folder, and a file that is no picture."""
    folder, random = tmp_path / "pictures", np.random.default_rng(0)
    (folder / "more").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "c.png", "more/d.png"):
        Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def bits(tmp_path):
    """A file of 6 images of bits."""
    path = tmp_path / "bits.npy"
    np.save(path, np.random.default_rng(1).integers(0, 2, (6, 1, 4, 4), dtype=np.uint8))
    return path


@pytest.fixture
def call(monkeypatch):
    """Call a command that must succeed. Returns: the lines that it printed."""
    monkeypatch.setenv("FLOWVAE_DEVICE", "cpu")

    def run(*arguments):
        ran = CliRunner().invoke(app, list(map(str, arguments)))
        assert (ran.exit_code, ran.stderr) == (0, ""), (ran.stderr, ran.exception)
        return ran.stdout.splitlines()

    return run


@pytest.fixture
def complaint(monkeypatch, tmp_path):
    """Call a command that must fail. Returns: its line on standard error, without the name of the program."""
    monkeypatch.setenv("FLOWVAE_DEVICE", "cpu")

    def run(*arguments):
        before = sorted(tmp_path.rglob("*"))
        ran = CliRunner().invoke(app, list(map(str, arguments)))
        assert (ran.exit_code, ran.stdout) == (1, ""), (ran.output, ran.exception)
        assert sorted(tmp_path.rglob("*")) == before
        (line,) = ran.stderr.splitlines()
        assert line.startswith("flowvae: ")
        return line.removeprefix("flowvae: ")

    return run
