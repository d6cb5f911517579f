"""The library as researchers use it: images of any form, parts of their own, files, torch.distributions, examples."""

import copy
import doctest
import os
import random as python_random
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from documents import read
from examples import perturb, random, random_bits, tiny_vae, training_config
from PIL import Image
from tolerances import assert_agrees, assert_close, assert_round_trip
from torch import nn
from torch.distributions import (
    AffineTransform,
    ComposeTransform,
    Distribution,
    Independent,
    Normal,
    TransformedDistribution,
    kl_divergence,
)
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import flowvae
from flowvae.data.images import ImageSet
from flowvae.datasets.raw import RawArrays, RawDataset
from flowvae.datasets.writing import Preparation, write_arrays
from flowvae.errors import InputError
from flowvae.evaluation import log_importance_weights
from flowvae.model import vae as vae_module
from flowvae.model.flows import FLOWS
from flowvae.model.objectives import elbo, log_mean_exp
from flowvae.model.settings import VAEConfig
from flowvae.training import loop

ROOT = Path(__file__).parents[2]
SHAPE, D = (1, 4, 4), 2
ENCODER = flowvae.ConvEncoder(channels=(3,), hidden_features=(8,), context_features=4)
DECODER = flowvae.ConvDecoder(channels=(3,), hidden_features=(8,))
BITS = random_bits(30).pixels
LEVELS = torch.randint(0, 256, (30, *SHAPE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
BATCH_NORM = {"num_transforms": 2, "hidden_features": (6,), "normalization": "batch_norm", "net_batch_norm": True}
LIKELIHOODS = {"bits": flowvae.Bernoulli(), "levels": flowvae.DiscretizedLogistic()}


def small(latent_shape=(D,), **parts):
    return flowvae.VAE(SHAPE, latent_shape, **{"encoder": ENCODER, "decoder": DECODER} | parts)


class OwnEncoder(nn.Module):
    """Of bits; two layers share their weights."""

    context_features = 3

    def __init__(self, hidden=5):
        super().__init__()
        self.first = nn.Linear(16, hidden)
        self.last = nn.Linear(hidden, 2 * D + 3)
        self.tied = self.last

    def forward(self, x):
        loc, log_scale, context = self.tied(self.first(x.flatten(1)).tanh()).split((D, D, 3), -1)
        return loc, log_scale.exp(), context


class OwnDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(D, 16), nn.Dropout(0.2))

    def forward(self, z):
        return self.layers(z).unflatten(-1, SHAPE)


class DoubleDecoder(OwnDecoder):
    """In another precision than the other parts."""

    def __init__(self):
        super().__init__()
        self.double()

    def forward(self, z):
        return super().forward(z.double())


class OwnFlow(flowvae.Flow):
    """z exp(s) + t, by an elementwise transform of torch; s and t are functions of the context, or the same for all."""

    def __init__(self, latent_shape=(D,), context_features=0, *, num_transforms=1):
        super().__init__()
        self.context_features = context_features
        self.layer = nn.Linear(context_features, 2 * latent_shape[0]) if context_features else None
        self.bias = nn.Parameter(torch.full((2 * latent_shape[0],), 0.3))

    def forward(self, context):
        log_scale, shift = (self.bias if self.layer is None else self.layer(context) + self.bias).chunk(2, -1)
        return flowvae.TorchTransform(AffineTransform(shift, log_scale.exp()))


class OwnConfig(flowvae.FlowConfig):
    flow: Literal["own"] = "own"
    num_transforms: int = 1


def own_modules():
    return {
        "encoder": OwnEncoder(),
        "decoder": OwnDecoder(),
        "posterior": OwnFlow(context_features=3),
        "prior": OwnFlow(),
    }


@pytest.fixture
def own_family():
    flowvae.register_flow(OwnConfig, OwnFlow)
    yield
    FLOWS.pop("own", None)


def log_probs(vae, x=BITS[:6], num_samples=5, seed=1):
    torch.manual_seed(seed)
    return vae.log_prob(x, num_samples=num_samples)


def one_line(error, function, *words):
    """Calling the function fails with one line that has the words."""
    with pytest.raises(error) as caught:
        function()
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


# Images


class Listed(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[range(len(self.items))[i]]


class Streamed(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


def folder_of(pixels, folder, reading):
    """A folder as the stage `prepare` writes it, with the same images in each split."""
    binarization = {"bits": "static", "levels": "none"}[reading]
    images = dict.fromkeys(("train", "valid", "test"), RawArrays.of(pixels.numpy()))
    text = {"dataset": "own", "origin": "here", "split": "all", "processing": "none"}
    dataset = RawDataset(images, np.zeros(len(pixels), np.uint8), **text)
    preparation = Preparation({"source": "a test"}, binarization, 0, dict.fromkeys(images, 0), None)
    write_arrays(folder, dataset, lambda chunks, split: chunks, preparation)
    return folder


def forms_of(pixels, tmp_path, reading):
    """The same images in every form that `fit` takes."""
    unit = pixels if reading == "bits" else pixels.double() / 255
    labels = range(len(pixels))
    forms = {
        "uint8 array": pixels.numpy(),
        "int64": pixels.long(),
        "float32": unit.float(),
        "float64 array": unit.double().numpy(),
        "without channels": pixels[:, 0],
        "TensorDataset": TensorDataset(unit.float(), torch.zeros(len(pixels))),
        "images and labels": Listed(list(zip(unit.double().numpy(), labels))),
        "images only": Listed(list(pixels)),
        "Pillow": Listed([(Image.fromarray(image[0].numpy()), label) for image, label in zip(pixels, labels)]),
        "stream": Streamed(list(zip(pixels, labels))),
        "ImageSet": ImageSet(pixels, reading),
        "folder": folder_of(pixels, tmp_path / "prepared", reading),
        "name of a folder": str(tmp_path / "prepared"),
    }
    return forms | ({"bool": pixels.bool(), "bool array": pixels.bool().numpy()} if reading == "bits" else {})


@pytest.mark.parametrize(("reading", "pixels"), [("bits", BITS), ("levels", LEVELS)])
def test_the_same_images_in_any_form_give_the_same_model(reading, pixels, tmp_path):
    results = {}
    for name, images in forms_of(pixels, tmp_path, reading).items():
        vae = small(posterior=flowvae.Planar(num_transforms=1), likelihood=LIKELIHOODS[reading])
        seen = []
        records = flowvae.fit(vae, images, images, epochs=1, batch_size=12, seed=4, on_epoch=seen.append)
        results[name] = (records, [*vae.state_dict().values()])
        assert seen == records and len(records) == 1 and not vae.training
    (expected_records, expected_weights), *others = results.values()
    assert all(records == expected_records for records, _ in others), results
    assert all(torch.equal(*pair) for _, weights in others for pair in zip(weights, expected_weights, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("reading", "pixels"), [("bits", BITS), ("levels", LEVELS)])
def test_the_model_sees_in_scoring_what_it_sees_in_training(dtype, reading, pixels):
    vae = small(likelihood=LIKELIHOODS[reading]).to(dtype)
    expected = ImageSet(pixels, reading).batch(torch.arange(30), dtype, torch.Generator())
    unit = pixels if reading == "bits" else pixels.double() / 255
    for form in (pixels, pixels.numpy(), pixels[:, 0], unit.float(), unit.double(), unit.half()):
        assert torch.equal(vae.images(form), expected)


WRONG = [
    ("bits", LEVELS, ["bits (0 and 1)", "uint8"]),
    ("bits", LEVELS / 255, ["bits (0 and 1)", "x > 0.5", "float32"]),
    ("levels", LEVELS.float(), ["8-bit values", "float32 from 0 to 255"]),
    ("levels", LEVELS.float() / 127.5 - 1, ["8-bit values", "from -1"]),
    ("bits", BITS.float() * torch.nan, ["bits"]),
    ("bits", BITS[:, :, :3], ["(N, 1, 4, 4)", "(30, 1, 3, 4)"]),
    ("bits", BITS.expand(30, 3, 4, 4), ["(N, 1, 4, 4)", "(30, 3, 4, 4)"]),
    ("bits", BITS[0, 0], ["(N, 1, 4, 4)", "(4, 4)"]),
]


@pytest.mark.parametrize(("reading", "images", "words"), WRONG)
def test_images_that_do_not_fit_are_refused(reading, images, words):
    vae = small(likelihood=LIKELIHOODS[reading])
    good = {"bits": BITS, "levels": LEVELS}[reading]
    for use in (vae.log_prob, vae.encode, vae.reconstruct):
        one_line(ValueError, lambda use=use: use(images), *words)
    for pair in ((images, good), (good, images)):
        one_line(ValueError, lambda pair=pair: flowvae.fit(vae, *pair, epochs=1), *words)


@pytest.mark.parametrize(
    ("reading", "images", "words"),
    [
        ("bits", BITS[:0], ["train images", "got 0"]),
        ("bits", np.zeros((0, 4, 4), bool), ["train images", "got 0"]),
        ("bits", Listed([]), ["(N, 1, 4, 4)"]),
        ("bits", Listed([BITS[0], BITS[0, :, :3]]), ["one shape"]),
        ("bits", Listed([{"image": BITS[0]}]), ["got dict"]),
        ("bits", ImageSet(LEVELS, "levels"), ["train images of bits", "got 8-bit values"]),
        ("levels", ImageSet(BITS, "bits"), ["train images of 8-bit values", "got bits"]),
        ("levels", ImageSet(LEVELS, "dynamic"), ["train images of 8-bit values", "got bits"]),
        ("bits", ImageSet(BITS[:, :, :3], "bits"), ["(1, 4, 4)", "(1, 3, 4)"]),
    ],
)
def test_sets_that_do_not_fit_are_refused(reading, images, words):
    vae = small(likelihood=LIKELIHOODS[reading])
    one_line(ValueError, lambda: flowvae.fit(vae, images, images, epochs=1), *words)


def test_a_missing_folder(tmp_path):
    one_line(InputError, lambda: flowvae.fit(small(), tmp_path / "no", tmp_path / "no", epochs=1), "no/train.json")


# Scores and images of a model


@pytest.mark.parametrize(("max_latents", "num_samples"), [(2000, 7), (20, 7), (3, 7)])
def test_log_prob_is_the_bound_of_the_evaluation(max_latents, num_samples, monkeypatch):
    """With the same noise, also if images, or the draws of an image, do not fit into one pass."""
    monkeypatch.setattr(vae_module, "MAX_LATENTS", max_latents)
    vae = tiny_vae("planar", prior={"flow": "real_nvp", "num_transforms": 2, "context": False}, std=0.2)
    found = log_probs(vae, num_samples=num_samples)
    torch.manual_seed(1)
    rows = []
    for indices in torch.arange(6).split(max(1, max_latents // num_samples)):
        sizes = [min(max_latents, num_samples - start) for start in range(0, num_samples, max_latents)]
        noise = torch.cat([torch.randn(size, len(indices), D, dtype=torch.float64) for size in sizes])
        draws = lambda _, numbers, dtype, noise=noise: noise[numbers.start : numbers.stop]  # noqa: E731
        images = ImageSet(BITS, "bits")
        with torch.no_grad():
            rows.append(log_mean_exp(log_importance_weights(vae.eval(), images, indices, num_samples, 30, draws)))
    assert_close(found, torch.cat(rows), size=torch.cat(rows).abs() + 100)


def test_more_draws_tighten_the_bound():
    vae = tiny_vae("none", std=0.5)
    torch.manual_seed(0)
    few, many = (torch.stack([vae.log_prob(BITS[:3], n) for _ in range(60)]).mean(0) for n in (1, 50))
    assert (many > few).all()


def normalised_vae():
    prior = flowvae.RealNVP(**BATCH_NORM | {"normalization": "act_norm"})
    vae = small(posterior=flowvae.RealNVP(**BATCH_NORM), prior=prior, decoder=OwnDecoder()).double()
    flowvae.fit(vae, BITS, BITS, epochs=2, batch_size=10)
    return vae


def test_neither_mode_nor_batch_changes_a_score():
    """Also with batch norm, which in training depends on both, and dropout. The mode is left as it was."""
    vae = normalised_vae()
    expected = {name: use(vae) for name, use in USES.items()}
    vae.train()
    for name, use in USES.items():
        assert torch.equal(use(vae), expected[name]) and vae.training, name
    first, second = (log_probs(vae, BITS[[0, other]]) for other in (1, 2))  # the noise of image 0 is the same
    assert_close(first[0], second[0], size=100.0)
    assert abs(first[1] - second[1]) > 1e-3
    for use in (vae.encode, vae.reconstruct):
        assert_close(torch.cat([use(BITS[i : i + 1]) for i in range(6)]), use(BITS[:6]), size=100.0)


def drawn(vae, **how):
    torch.manual_seed(2)
    return vae.sample(4, **how)


USES = {
    "log_prob": log_probs,
    "sample": drawn,
    "mean": lambda vae: drawn(vae, mean=True),
    "encode": lambda vae: vae.encode(BITS[:6]),
    "reconstruct": lambda vae: vae.reconstruct(BITS[:6]),
}


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_values_and_determinism(likelihood, dtype):
    vae = perturb(small(prior=flowvae.Radial(num_transforms=2), likelihood=LIKELIHOODS[likelihood]), 0.3).to(dtype)
    shapes = {
        "log_prob": (6,),
        "sample": (4, *SHAPE),
        "mean": (4, *SHAPE),
        "encode": (6, D),
        "reconstruct": (6, *SHAPE),
    }
    for name, use in USES.items():
        found = use(vae)
        assert (
            found.shape == shapes[name] and found.dtype == dtype and found.isfinite().all() and not found.requires_grad
        )
        assert torch.equal(found, use(vae)), name
    sample, mean = drawn(vae), drawn(vae, mean=True)
    assert_close(vae.images(sample), sample)  # it is what the likelihood describes
    assert not torch.equal(sample, mean)
    assert ((mean >= 0) & (mean <= 1)).all()
    assert not torch.equal(drawn(vae), vae.sample(4))
    assert torch.equal(vae.encode(BITS.numpy()), vae.encode(BITS))
    torch.testing.assert_close(*drawn(vae, mean=True, temperature=0.0)[:2])  # without noise, all samples are the same
    assert not torch.equal(drawn(vae, mean=True, temperature=0.8), mean)
    assert torch.equal(drawn(vae, mean=True, temperature=1.0), mean)
    assert vae.sample(0).shape == (0, *SHAPE) and vae.log_prob(BITS[:0]).shape == (0,)


def test_encode_maps_the_mean_of_the_base_and_reconstruct_decodes_it():
    vae = tiny_vae("planar").eval()
    posterior = vae.posterior(vae.images(BITS))
    z = posterior.transform(posterior.base.mean)
    assert torch.equal(vae.encode(BITS), z) and torch.equal(vae.reconstruct(BITS), vae.likelihood(z).mean)


def test_fit_is_the_training_loop():
    vae, other = small().double(), small().double()
    records = flowvae.fit(vae, BITS, BITS[:9], seed=5, **training_config().model_dump())
    assert records == loop.fit(other, ImageSet(BITS, "bits"), ImageSet(BITS[:9], "bits"), training_config(), seed=5)
    assert all(torch.equal(*pair) for pair in zip(vae.state_dict().values(), other.state_dict().values(), strict=True))
    with pytest.raises(ValueError, match="learning_rat"):
        flowvae.fit(vae, BITS, BITS, epochs=1, learning_rat=0.1)


# Files


MODELS = {
    "own decoder in float64": lambda: small(decoder=DoubleDecoder()),
    "float32": lambda: small(posterior=flowvae.Planar(num_transforms=2)),
    "float64": lambda: small(prior=flowvae.SplineCoupling(num_transforms=2)).double(),
    "map": lambda: small(
        (2, 2, 2), posterior=flowvae.ConvRealNVP(num_transforms=1), prior=flowvae.ConvRealNVP(num_transforms=1)
    ),
    "all parts own": lambda: small(**own_modules()),
    "all parts own, float64": lambda: small(**own_modules()).double(),
    "own flow, encoder of flowvae": lambda: small(posterior=OwnFlow(context_features=4)),
    "own encoder, flow of flowvae": lambda: small(encoder=OwnEncoder(), posterior=flowvae.Sylvester(num_transforms=1)),
}
OWN = {
    "own decoder in float64": lambda: {"decoder": DoubleDecoder()},
    "all parts own": own_modules,
    "all parts own, float64": own_modules,
    "own flow, encoder of flowvae": lambda: {"posterior": OwnFlow(context_features=4)},
    "own encoder, flow of flowvae": lambda: {"encoder": OwnEncoder()},
}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_saved_is_what_is_loaded(name, tmp_path):
    vae, own = MODELS[name](), OWN.get(name, dict)
    flowvae.fit(vae, BITS, BITS, epochs=1)
    vae.save(tmp_path / "new" / "folder")
    modules = own()
    loaded = flowvae.load(str(tmp_path / "new" / "folder"), **modules)
    assert loaded.config == vae.config and not loaded.training
    assert all(getattr(loaded.config, part) is None for part in modules)
    for pair in zip(vae.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert pair[0][0] == pair[1][0] and pair[0][1].dtype == pair[1][1].dtype and torch.equal(pair[0][1], pair[1][1])
    for use in USES.values():
        assert torch.equal(use(loaded), use(vae))


def test_missing_superfluous_and_other_modules(tmp_path):
    small(encoder=OwnEncoder(), posterior=OwnFlow(context_features=3)).save(tmp_path)
    good = {"encoder": OwnEncoder(), "posterior": OwnFlow(context_features=3)}
    assert flowvae.load(tmp_path, **good).config.prior == flowvae.NoFlow()
    for modules, got in [
        ({}, "got no module"),
        ({"encoder": OwnEncoder()}, "got encoder"),
        (good | {"prior": OwnFlow()}, "got encoder, posterior, prior"),
        (good | {"encodr": OwnEncoder()}, "got encoder, encodr, posterior"),
    ]:
        expected = "arguments of load (encoder, posterior)"
        one_line(InputError, lambda modules=modules: flowvae.load(tmp_path, **modules), "config.json", expected, got)
    other = good | {"encoder": OwnEncoder(hidden=6)}
    one_line(InputError, lambda: flowvae.load(tmp_path, **other), "model.safetensors", "does not fit")
    small().save(tmp_path)
    one_line(InputError, lambda: flowvae.load(tmp_path, **good), "(no module)", "got encoder, posterior")


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (lambda: flowvae.Planar(num_transforms=0), ["Planar: num_transforms: expected greater than 0, got 0"]),
        (lambda: flowvae.Planar(deep=3), ["Planar: ", "num_transforms: missing", "deep: unknown"]),
        (lambda: small(latent_shape=(2, 2)), ["VAE: latent_shape: expected [size]", "got (2, 2)"]),
        (lambda: small(posterior="planar"), ["posterior: expected settings", "got 'planar'"]),
        (lambda: small(posterior=flowvae.Planar), ["posterior: expected settings", "PlanarConfig"]),
        (lambda: small(encoder=DECODER), ["encoder: ", "got ConvDecoder("]),
        (lambda: small(prior={"flow": "sylvester", "num_transforms": 1}), ["inverse", "sylvester has none"]),
        (lambda: small(prior=OwnFlow(context_features=3)), ["without a context", "OwnFlow uses 3"]),
        (lambda: small(encoder=OwnEncoder(), posterior=OwnFlow(context_features=7)), ["a context of 7", "got 3"]),
        (lambda: flowvae.fit(small(), BITS, BITS), ["Training: epochs: missing"]),
        (lambda: flowvae.fit(small(), BITS, BITS, epochs=1, sped=3), ["Training: sped: unknown"]),
        (
            lambda: flowvae.fit(small(), BITS, BITS, epochs="3", kl_warmup={"length": -1, "unit": "run"}),
            ["epochs: expected a valid integer, got '3'; kl_warmup.length: expected greater than or equal to 0"],
        ),
        (lambda: small().log_prob(BITS, num_samples=0), ["num_samples of at least 1, got 0"]),
        (lambda: small().sample(-1), ["num_images of at least 0, got -1"]),
        (lambda: small().sample(1, temperature=-0.5), ["a temperature of at least 0, got -0.5"]),
    ],
)
def test_mistakes_are_one_line(mistake, words):
    one_line(ValueError, mistake, *words)


def test_settings_as_mappings():
    vae = small(posterior={"flow": "planar", "num_transforms": 2}, prior={"flow": "real_nvp", "num_transforms": 1})
    assert vae.config.posterior == flowvae.Planar(num_transforms=2)
    assert vae.config.prior == flowvae.RealNVP(num_transforms=1, context=False)


def test_an_encoder_without_context_and_a_flow_that_needs_one():
    encoder = OwnEncoder()
    encoder.context_features = 0
    for posterior, field in [
        (flowvae.Planar(num_transforms=1), "amortised"),
        (flowvae.RealNVP(num_transforms=1), "context"),
    ]:
        one_line(
            ValueError, lambda p=posterior: small(encoder=encoder, posterior=p), "context_features", f"{field}=False"
        )
        used = type(posterior)(num_transforms=1, **{field: False})
        assert small(encoder=encoder, posterior=used).log_prob(BITS, 2).isfinite().all()


@pytest.mark.usefixtures("own_family")
def test_a_registered_family_is_like_the_others(tmp_path):
    vae = small(posterior=OwnConfig(), prior=OwnConfig())
    assert vae.posterior_flow.context_features == 4 and vae.prior_flow.context_features == 0
    flowvae.fit(vae, BITS, BITS, epochs=1)
    vae.save(tmp_path)
    loaded = flowvae.load(tmp_path)
    assert loaded.config == vae.config and torch.equal(log_probs(loaded), log_probs(vae))
    settings = {name: value.model_dump() for name, value in vae.config if isinstance(value, flowvae.FlowConfig)}
    assert VAEConfig(**vae.config.model_dump() | settings) == vae.config
    FLOWS.pop("own")
    one_line(InputError, lambda: flowvae.load(tmp_path), "config.json", "own", "register")


@pytest.mark.usefixtures("own_family")
def test_names_of_families():
    class Taken(flowvae.FlowConfig):
        flow: Literal["planar"] = "planar"

    class Nameless(flowvae.FlowConfig):
        flow: str

    class Unregistered(OwnConfig):
        flow: Literal["unregistered"] = "unregistered"

    class Other(flowvae.FlowConfig):
        flow: Literal["own"] = "own"
        num_transforms: int = 1

    before = dict(FLOWS)
    flowvae.register_flow(OwnConfig, OwnFlow)  # again, as in a notebook whose cell is run twice
    one_line(ValueError, lambda: flowvae.register_flow(Taken, OwnFlow), "'planar' is taken by PlanarFlow")
    one_line(ValueError, lambda: flowvae.register_flow(Nameless, OwnFlow), "name in Nameless")
    one_line(ValueError, lambda: small(prior=Unregistered()), "Unregistered", "register")
    one_line(ValueError, lambda: small(prior=Other()), "Other", "register")
    assert before == FLOWS


def test_generators_of_the_caller_are_left_alone(tmp_path):
    small(**own_modules()).save(tmp_path)
    modules = own_modules()
    before = torch.get_rng_state(), copy.deepcopy(np.random.get_state()), python_random.getstate()
    vae = small(posterior=flowvae.RealNVP(num_transforms=1), prior=flowvae.RealNVP(num_transforms=1))
    flowvae.load(tmp_path, **modules)
    flowvae.fit(vae, BITS, BITS, epochs=1)
    vae.save(tmp_path)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == str(before[1]) and python_random.getstate() == before[2]
    other = small(posterior=flowvae.RealNVP(num_transforms=1), seed=1)
    assert not torch.equal(other.encoder.head.layers[-1].weight, vae.encoder.head.layers[-1].weight)


# torch.distributions


PRIOR = {"flow": "real_nvp", "num_transforms": 2, "context": False}
INVERTIBLE = ("none", "radial", "real_nvp", "autoregressive", "spline_coupling")


def posterior_of(family):
    vae = tiny_vae(family, prior=PRIOR, std=0.3).eval()
    return vae, vae.posterior(vae.images(BITS[:3]))


@pytest.mark.parametrize("family", [*INVERTIBLE, "planar"])
def test_posterior_and_prior_are_distributions(family):
    vae, posterior = posterior_of(family)
    for distribution, shape in [(posterior, (3,)), (vae.prior, ())]:
        assert isinstance(distribution, Distribution) and distribution.has_rsample
        assert (distribution.batch_shape, distribution.event_shape) == (shape, (D,))
        draws = distribution.rsample((4, 5))
        assert draws.shape == (4, 5, *shape, D) and draws.requires_grad and draws.dtype == torch.float64
        assert distribution.rsample().shape == (*shape, D) and not distribution.sample((2,)).requires_grad
        assert distribution.support.check(draws).all() and repr(distribution)
    assert vae.prior.log_prob(draws).shape == (4, 5)


@pytest.mark.parametrize("family", [*INVERTIBLE, "planar"])
def test_draws_and_densities_of_a_posterior_belong_together(family):
    vae, posterior = posterior_of(family)
    torch.manual_seed(0)
    noise = torch.randn(5, 3, D, dtype=torch.float64)
    z, log_prob = posterior.rsample_and_log_prob(noise)
    torch.manual_seed(0)
    assert torch.equal(posterior.rsample((5,)), z)
    if family == "planar":
        one_line(NotImplementedError, lambda: posterior.log_prob(z), "rsample_and_log_prob")
        one_line(NotImplementedError, lambda: posterior.transform.inv(z), "no closed-form inverse")
    else:
        assert_agrees(log_prob, lambda: posterior.log_prob(z.detach()), [noise, *vae.parameters()], num_operations=1000)


@pytest.mark.parametrize("family", INVERTIBLE)
def test_transforms_work_in_the_distributions_of_torch(family):
    posterior = posterior_of(family)[1]
    transform, base = posterior.transform, Independent(Normal(posterior.base.loc, posterior.base.scale), 1)
    for oracle in (
        TransformedDistribution(base, [transform]),
        TransformedDistribution(posterior.base, transform),
        TransformedDistribution(base, ComposeTransform([transform, transform.inv, transform])),
    ):
        assert (oracle.batch_shape, oracle.event_shape) == ((3,), (D,))
        torch.manual_seed(0)
        draws = oracle.rsample((5,)).detach()
        torch.manual_seed(0)
        assert_close(posterior.rsample((5,)), draws, size=100.0)
        assert_close(posterior.log_prob(draws), oracle.log_prob(draws), size=1000.0)
    z = random(0, 5, 3, D)
    assert transform.inv.inv is transform and transform.domain.event_dim == 1
    assert_round_trip(transform, z)
    out, ladj = transform.call_and_ladj(z)
    assert torch.equal(transform(z), out) and torch.equal(transform.log_abs_det_jacobian(z, out), ladj)
    assert_close(transform.inv.log_abs_det_jacobian(out, z), -ladj)


def test_prior_is_the_distribution_of_torch_with_the_inverse():
    vae, _ = posterior_of("none")
    prior, noise = vae.prior, Independent(Normal(torch.zeros(D).double(), torch.ones(D).double()), 1)
    oracle = TransformedDistribution(noise, prior.transform.inv)
    torch.manual_seed(0)
    draws = oracle.sample((50,))
    torch.manual_seed(0)
    assert_close(prior.sample((50,)), draws, size=100.0)
    assert_close(prior.log_prob(draws), oracle.log_prob(draws), size=1000.0)


def test_kl_by_draws_is_that_of_torch():
    """Of the plain VAE, for which it has a closed form."""
    vae = tiny_vae().eval()
    posterior = vae.posterior(vae.images(BITS[:3]))
    normal = Normal(posterior.base.loc, posterior.base.scale)
    torch.manual_seed(0)
    z = posterior.sample((20_000,))
    differences = posterior.log_prob(z) - vae.prior.log_prob(z)
    exact = kl_divergence(normal, Normal(0.0, 1.0)).sum(-1)
    assert ((differences.mean(0) - exact).abs() < 5 * differences.std(0) / len(z) ** 0.5).all()
    assert (exact > 0.05).all()


def test_bound_is_made_of_the_distributions():
    vae, posterior = posterior_of("real_nvp")
    x, noise = vae.images(BITS[:3]), random(0, 4, 3, D)
    z, log_posterior = posterior.rsample_and_log_prob(noise)
    expected = vae.likelihood(z).log_prob(x) + vae.prior.log_prob(z) - log_posterior
    assert_agrees(expected, lambda: elbo(vae(x, noise)), [noise, *vae.parameters()])


def test_elementwise_transform_of_torch():
    transform = flowvae.TorchTransform(AffineTransform(torch.zeros(3), torch.tensor([1.0, 2.0, 4.0])))
    z, ladj = transform.call_and_ladj(torch.ones(5, 2, 3))
    assert ladj.shape == (5, 2) and torch.equal(z[0, 0], torch.tensor([1.0, 2.0, 4.0]))
    assert_close(ladj, torch.full((5, 2), 8.0).log())
    assert_close(transform.inv_and_ladj(z), (torch.ones(5, 2, 3), -ladj))


# Examples


SCRIPT = """
import sys
from typing import Literal
import torch
from torch import nn
import flowvae, flowvae.errors

class Encoder(nn.Module):
    context_features = 2
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 6)
    def forward(self, x):
        loc, log_scale, context = self.layer(x.flatten(1)).split(2, -1)
        return loc, log_scale.exp(), context

class ShiftTransform(flowvae.Transform):
    has_inverse = True
    def __init__(self, shift):
        self.shift = shift
    def _call_and_ladj(self, z):
        return z + self.shift, z.new_zeros(z.shape[:-1])
    def _inv_and_ladj(self, z):
        return z - self.shift, z.new_zeros(z.shape[:-1])

class Shift(flowvae.Flow):
    def __init__(self, latent_shape, context_features, *, num_transforms):
        super().__init__()
        self.context_features = context_features
        self.layer = nn.Linear(context_features, latent_shape[0])
    def forward(self, context):
        return ShiftTransform(self.layer(context))

class ShiftConfig(flowvae.FlowConfig):
    flow: Literal["shift"] = "shift"
    num_transforms: int = 1

images = torch.arange(320).view(20, 1, 4, 4) % 3 == 0
decoder = flowvae.ConvDecoder(channels=(3,), hidden_features=(8,))
if sys.argv[1] == "load":
    try:
        flowvae.load("model", encoder=Encoder())
    except flowvae.errors.InputError as error:
        print(error)
flowvae.register_flow(ShiftConfig, Shift)
if sys.argv[1] == "save":
    prior = flowvae.RealNVP(num_transforms=1)
    vae = flowvae.VAE((1, 4, 4), (2,), encoder=Encoder(), posterior=ShiftConfig(), prior=prior, decoder=decoder)
    flowvae.fit(vae, images, images, epochs=2)
    vae.save("model")
else:
    vae = flowvae.load("model", encoder=Encoder())
torch.manual_seed(0)
print(vae.log_prob(images, num_samples=5).tolist())
"""


def start(code, *arguments, folder):
    """Start a script in a folder outside the project, with warnings as errors."""
    environment = {"OMP_NUM_THREADS": "1"} | os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def outcome(process):
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


@pytest.mark.long
def test_a_script_saves_and_another_loads(tmp_path):
    """The other refuses a family that it has not registered, and has the same scores afterwards."""
    code, scores, errors = outcome(start(SCRIPT, "save", folder=tmp_path))
    assert code == 0, errors
    code, output, errors = outcome(start(SCRIPT, "load", folder=tmp_path))
    assert code == 0, errors
    refusal, *rest = output.splitlines(keepends=True)
    assert refusal.startswith("model/config.json: unknown families of flows: shift; register") and rest == [scores]


def code_of(page):
    """All code of a page, as one script."""
    return "".join(f"{line[4:] if line.startswith('    ') else ''}\n" for line in page.splitlines())


@pytest.mark.long
def test_code_of_the_page_runs(tmp_path):
    """In a process of its own, because zuko patches torch."""
    text = code_of(read(ROOT / "docs/library.md")) + "\nprint(log_likelihood.shape, z.shape, kl.shape)"
    code, output, errors = outcome(start(text, folder=tmp_path))
    assert code == 0, errors
    assert output == "torch.Size([100]) torch.Size([100, 5, 20]) torch.Size([5])\n"
    assert {path.name for path in tmp_path.iterdir()} == {"my-model", "own-encoder"}


def test_doctest():
    results = doctest.testmod(flowvae)
    assert results.attempted >= 5 and results.failed == 0


def test_public_names_exist():
    assert set(flowvae.PUBLIC) | {"__version__"} == set(flowvae.__all__) == set(dir(flowvae))
    assert all(getattr(flowvae, name) for name in flowvae.__all__)
    with pytest.raises(AttributeError, match="no attribute 'RealNvp'"):
        flowvae.RealNvp  # noqa: B018
