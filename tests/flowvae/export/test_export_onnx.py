"""ONNX graphs compute what torch does, for every family of flows, network and likelihood."""

from typing import Literal

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from examples import FLOW_SETTINGS, build_vae, perturb, settings_for, tiny_config

from flowvae.errors import InputError
from flowvae.export import onnx as exporting
from flowvae.export.onnx import difference, write_graphs
from flowvae.model.flows import FLOWS, FlowConfig, register_flow
from flowvae.model.flows.none import NoFlow
from flowvae.model.networks import NETWORKS
from flowvae.model.settings import VAEConfig
from flowvae.model.transforms import Transform

PRIORS = ("none", "radial", "householder", "real_nvp", "conv_real_nvp", "autoregressive")
PRIORS += ("spline_coupling", "spline_autoregressive")
RESIDUAL = {
    "encoder": {"name": "residual", "channels": [3, 4], "num_blocks": 1, "hidden_features": [8], "context_features": 4},
    "decoder": {"name": "residual", "channels": [4, 3], "num_blocks": 1, "hidden_features": [8]},
}
LADDER = {
    "latent_shape": [[2, 1, 1], [1, 2, 2]],
    "encoder": {"name": "ladder", "channels": [4, 5], "num_blocks": 1, "context_features": 2},
    "decoder": {"name": "ladder", "channels": [5, 4]},
}
RGB = {"image_shape": (3, 4, 4)}
LOGISTIC, MIXTURE = {"name": "discretized_logistic"}, {"name": "logistic_mixture", "num_mixtures": 2}


def example(family, index=0):
    """Settings of a flow for two latents, without those of the context."""
    settings = settings_for(FLOW_SETTINGS[family][index], (2,))
    return {key: value for key, value in settings.items() if key != FLOWS[family].config.context_field}


def model(posterior="none", prior="none", index=0, **config):
    """A small model in float32."""
    config = tiny_config(posterior, FLOW_SETTINGS[posterior][index], prior={"flow": prior, **example(prior)}, **config)
    return perturb(build_vae(config, seed=0), 0.3).eval()


def hierarchy(posterior, prior, **config):
    """A small model with two levels of latent maps."""
    flows = {
        name: {"flow": family, **(example(family) | ({"map_shape": None} if family.startswith("conv") else {}))}
        for name, family in (("posterior", posterior), ("prior", prior))
    }
    settings = {"image_shape": (1, 4, 4), "likelihood": {"name": "bernoulli"}, **flows, **LADDER, **config}
    return perturb(build_vae(VAEConfig(**settings), seed=0), 0.1).eval()


def check_against_torch(vae, folder):
    """Every output for one image and for several is that of the library to within 1e-4."""
    assert set(write_graphs(vae, folder, {})) == {"encoder", "decoder", "sampler"}
    run = {path.stem: onnxruntime.InferenceSession(path).run for path in folder.glob("*.onnx")}
    for count in (1, 4):
        random = np.random.default_rng(count)
        noise = random.standard_normal((count, vae.latent_dim), np.float32)
        pixels = torch.from_numpy(random.integers(0, 2 if vae.of_bits else 256, (count, *vae.config.image_shape)))
        images, given = vae.images(pixels), torch.from_numpy(noise)
        with torch.no_grad():
            likelihood, z = vae.likelihood(given), vae.prior.from_noise(given)
            expected = {
                "encoder": (vae.encode(pixels), vae.posterior(images).rsample_and_log_prob(given)[0]),
                "decoder": (likelihood.mean, vae.decoder(given)),
                "sampler": (vae.likelihood(z).mean, z),
            }
        inputs = {"encoder": {"images": images.numpy(), "noise": noise}, "decoder": {"z": noise}}
        for name, wanted in expected.items():
            for got, want in zip(run[name](None, inputs.get(name, {"noise": noise})), wanted, strict=True):
                assert got.dtype == np.float32
                np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.long
@pytest.mark.parametrize("family", FLOWS)
def test_each_family_in_posterior_and_prior(family, tmp_path):
    assert (family in PRIORS) == is_prior(family)
    check_against_torch(model(family, family if family in PRIORS else "none"), tmp_path)


def is_prior(family):
    """Whether a family can be a prior."""
    try:
        model(prior=family)
    except ValueError:
        return False
    return True


@pytest.mark.long
@pytest.mark.parametrize(
    ("family", "index"), [("sylvester", 2), ("sylvester", 4), ("planar", 2), ("real_nvp", 3), ("real_nvp", 4)]
)
def test_forms_of_a_family(family, index, tmp_path):
    """Reflections, triangles, global parameters, weight norm with act norm, and batch norm."""
    check_against_torch(model(family, index=index), tmp_path)


@pytest.mark.long
@pytest.mark.parametrize(
    "config",
    [
        RESIDUAL,
        RESIDUAL | RGB | {"latent_shape": [2, 1, 1], "likelihood": LOGISTIC},
        RGB | {"likelihood": MIXTURE},
    ],
    ids=["residual", "map and logistic", "mixture"],
)
def test_networks_and_likelihoods(config, tmp_path):
    check_against_torch(model(**config), tmp_path)


@pytest.mark.long
@pytest.mark.parametrize(
    "flows",
    [
        ("none", "none"),
        ("planar", "real_nvp"),
        pytest.param(("conv_real_nvp", "conv_real_nvp"), marks=pytest.mark.slow),  # a minute
    ],
)
def test_hierarchies(flows, tmp_path):
    assert NETWORKS["ladder"].of_levels
    check_against_torch(hierarchy(*flows, **RGB, likelihood=MIXTURE), tmp_path)


def test_files_say_what_they_are_and_draw_nothing(tmp_path):
    vae = model("planar")
    write_graphs(vae, tmp_path, {"flowvae_version": "1"})
    shapes = {}
    for path in tmp_path.glob("*.onnx"):
        read = onnx.load(path)
        onnx.checker.check_model(read, full_check=True)
        assert {entry.key: entry.value for entry in read.metadata_props} == {"graph": path.stem, "flowvae_version": "1"}
        assert not [node.op_type for node in read.graph.node if "Random" in node.op_type or node.op_type == "Bernoulli"]
        assert b"/flowvae/" not in path.read_bytes()  # paths of this machine
        for value in (*read.graph.input, *read.graph.output):
            sizes = [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
            shapes[f"{path.stem}.{value.name}"] = tuple(sizes)
    assert shapes == {
        "encoder.images": ("N", 1, 4, 4),
        **dict.fromkeys(("encoder.noise", "encoder.center", "encoder.z"), ("N", 2)),
        "decoder.z": ("N", 2),
        **dict.fromkeys(("decoder.mean", "decoder.parameters"), ("N", 1, 4, 4)),
        **{"sampler.noise": ("N", 2), "sampler.mean": ("N", 1, 4, 4), "sampler.z": ("N", 2)},
    }


class UnusualConfig(FlowConfig):
    flow: Literal["unusual"] = "unusual"
    num_transforms: int = 1


class UnusualTransform(Transform):
    has_inverse = True

    def _call_and_ladj(self, z):
        return z + torch.special.i0e(z).detach() * 0, z.new_zeros(z.shape[:-1])

    def _inv_and_ladj(self, z):
        return self._call_and_ladj(z)


class Unusual(NoFlow):
    def forward(self, context):
        return UnusualTransform()


@pytest.fixture
def unusual():
    register_flow(UnusualConfig, Unusual)
    yield UnusualConfig()
    del FLOWS["unusual"]


def test_what_cannot_be_exported_is_one_line(unusual, tmp_path):
    vae = build_vae(tiny_config().model_copy(update={"posterior": unusual}), seed=0)
    with pytest.raises(InputError, match=r"^encoder.onnx: cannot be exported \(.*bessel_i0e.*export without --onnx$"):
        write_graphs(vae, tmp_path, {})
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "MAX_DIFFERENCE", 0.0)
    with pytest.raises(InputError, match=r"^encoder.onnx: differs from torch by \de-\d+, more than 0"):
        write_graphs(model(), tmp_path, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("got", "want", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.2),
        ([0.1, 0.3], [0.1, 0.1], 0.2),
        ([float("nan")], [float("nan")], 0.0),
        ([float("inf")], [float("inf")], 0.0),
        ([float("inf")], [0.0], float("inf")),
        ([0.0], [float("nan")], float("inf")),
        ([0.0], [0.0, 0.0], float("inf")),
    ],
)
def test_differences_are_relative_above_one(got, want, expected):
    assert difference(torch.tensor(got), torch.tensor(want)) == pytest.approx(expected, rel=1e-5)


def test_missing_packages_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(InputError, match=r"^onnxscript: not installed; pip install 'flowvae\[onnx\]'"):
        write_graphs(model(), tmp_path, {})
