"""Small models, flows and images that several tests use."""

from math import prod

import numpy as np
import torch

from flowvae.data.images import ImageSet
from flowvae.datasets.config import DataConfig
from flowvae.model.batch_norm import PopulationStatistics
from flowvae.model.flows import FLOWS, build_flow
from flowvae.model.loading import build_vae
from flowvae.model.objectives import elbo
from flowvae.model.settings import VAEConfig
from flowvae.training.config import TrainingConfig
from flowvae.training.loop import fit

CONTEXT_FEATURES = 3
PLAIN = {"normalization": "none", "weight_norm": False, "net_batch_norm": False}
NVP = {"num_transforms": 2, "hidden_features": (6,), "context": False, "log_scale_bound": 2.0}
CONV = {
    "num_transforms": 2,
    "map_shape": None,  # see `settings_for`
    "hidden_channels": 4,
    "num_blocks": 1,
    "max_side": None,
    "context": True,
    "log_scale_bound": 2.0,
}
# Settings of every family. A family that is added to FLOWS must be added here; the contract tests then apply to it.
FLOW_SETTINGS = {
    "none": ({"num_transforms": 0},),
    "planar": (
        {"num_transforms": 1, "amortised": True},
        {"num_transforms": 4, "amortised": True},
        {"num_transforms": 3, "amortised": False},
    ),
    "radial": (
        {"num_transforms": 1, "amortised": True},
        {"num_transforms": 4, "amortised": False},
        {"num_transforms": 3, "amortised": True},
    ),
    "householder": (
        {"num_transforms": 1, "amortised": False},
        {"num_transforms": 3, "amortised": True},
    ),
    "sylvester": (
        {"num_transforms": 1, "orthogonalization": {"name": "orthogonal", "num_ortho": 2}, "amortised": True},
        {"num_transforms": 3, "orthogonalization": {"name": "orthogonal", "num_ortho": 1}, "amortised": False},
        {"num_transforms": 3, "orthogonalization": {"name": "householder", "num_householder": 3}, "amortised": True},
        {"num_transforms": 2, "orthogonalization": {"name": "triangular"}, "amortised": False},
        {"num_transforms": 3, "orthogonalization": {"name": "triangular"}, "amortised": True},
    ),
    "real_nvp": (
        {"num_transforms": 1, "hidden_features": (6,), "context": True, "log_scale_bound": 2.0} | PLAIN,
        {"num_transforms": 3, "hidden_features": (5, 4), "context": True, "log_scale_bound": 1.0} | PLAIN,
        NVP | PLAIN | {"normalization": "batch_norm"},
        NVP | PLAIN | {"normalization": "act_norm", "weight_norm": True},
        NVP | PLAIN | {"context": True, "hidden_features": (5, 4), "net_batch_norm": True},
        NVP | PLAIN,
    ),
    "conv_real_nvp": (
        CONV | PLAIN,
        CONV | {"normalization": "batch_norm", "weight_norm": True, "net_batch_norm": True},
        CONV | PLAIN | {"num_transforms": 1, "num_blocks": 0, "context": False, "normalization": "act_norm"},
    ),
}
FLOW_SETTINGS |= {
    "autoregressive": (
        {"num_transforms": 1, "hidden_features": (7,), "context": True, "log_scale_bound": 2.0, "gate": "affine"},
        {"num_transforms": 3, "hidden_features": (9, 8), "context": False, "log_scale_bound": 1.0, "gate": "affine"},
        {"num_transforms": 1, "hidden_features": (9, 2), "context": False, "log_scale_bound": 3.0, "gate": "stable"},
        {"num_transforms": 3, "hidden_features": (5,), "context": True, "log_scale_bound": 2.0, "gate": "stable"},
        {"num_transforms": 2, "hidden_features": (3,), "context": True, "log_scale_bound": 2.0, "gate": "affine"},
    ),
    "spline_coupling": (
        {"num_transforms": 1, "hidden_features": (6,), "context": False, "num_bins": 3, "bound": 3.0},
        {"num_transforms": 2, "hidden_features": (5, 4), "context": True, "num_bins": 4, "bound": 4.0},
    ),
    "spline_autoregressive": (
        {"num_transforms": 1, "hidden_features": (7,), "context": True, "num_bins": 3, "bound": 3.0},
        {"num_transforms": 2, "hidden_features": (4,), "context": False, "num_bins": 2, "bound": 4.0},
    ),
}
MAPS = {2: (2, 1, 1), 4: (1, 2, 2), 5: (5, 1, 1), 8: (2, 2, 2), 16: (1, 4, 4)}  # that vectors are reshaped to
GOLDEN_CASES = {  # by the names of their losses
    **{family: (family, examples[-1]) for family, examples in FLOW_SETTINGS.items()},
    "real_nvp with batch norm": ("real_nvp", FLOW_SETTINGS["real_nvp"][2]),
    "real_nvp with act norm and weight norm": ("real_nvp", FLOW_SETTINGS["real_nvp"][3]),
    "real_nvp with batch norm in its nets": ("real_nvp", FLOW_SETTINGS["real_nvp"][4]),
    "conv_real_nvp with batch and weight norm": ("conv_real_nvp", FLOW_SETTINGS["conv_real_nvp"][1]),
}
MODEL = {
    "latent_shape": [2],
    "likelihood": {"name": "bernoulli"},
    "encoder": {"name": "conv", "channels": [3], "hidden_features": [8], "context_features": 4},
    "decoder": {"name": "conv", "channels": [3], "hidden_features": [8]},
}
DATA = {
    "binarization": "none",
    "seed": 0,
    "valid_fraction": 0.1,
    "max_corrupt": 0.0,
    "fallback": False,
    "emnist": {"split": "balanced"},
    "svhn": {"extra": False},
    "celeba": {"size": 64},
    "imagenet": {"size": 32},
    "folder": {"path": "images", "size": [8, 8], "color": True, "test_fraction": 0.2},
    "arrays": {"path": "arrays", "shape": [1, 28, 28], "test_fraction": 0.2},
    "shards": {
        **{"uri": "shards", "image": ["image", "jpg", "png"], "label": ["label", "cls"]},
        **{"size": [8, 8], "color": True, "test_fraction": 0.2},
    },
}
TRAINING = {
    "epochs": 4,
    "min_steps": 0,
    "patience": 0,
    "batch_size": 8,
    "accumulation_steps": 1,
    "objective": "elbo",
    "num_samples": 1,
    "free_nats": 0.0,
    "kl_warmup": {"length": 0.3, "unit": "run"},
    "learning_rate": 0.02,
    "final_learning_rate": 0.001,
    "schedule": {"name": "cosine", "warmup_steps": 3, "decay_start": 0.5},
    "weight_decay": 0.01,
    "max_grad_norm": 10.0,
    "average_decay": 0.0,
    "max_halvings": 0,
    "precision": "float32",
    "compile": False,
}

EVALUATION = {
    "num_elbo_samples": 4,
    "num_importance_samples": 30,
    "num_nll_images": 20,
    "chunk_size": 1000,
    "num_figure_images": 1,
    "temperatures": (1.0,),
    "seed": 0,
}


def random(seed, *shape):
    """Standard-normal float64 numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def perturb(module, std=0.4):
    """Add noise to every parameter and every population mean and variance, the same noise at each call."""
    noise = torch.Generator().manual_seed(1)
    draw = lambda like: std * torch.randn(like.shape, generator=noise, dtype=torch.float64).to(like)  # noqa: E731
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += draw(parameter)
        for child in module.modules():
            if isinstance(child, PopulationStatistics):
                child.mean += draw(child.mean)
                child.variance *= draw(child.variance).exp()
    return module


def settings_for(settings, latent_shape):
    """The settings, with a map shape for a latent vector if the family needs one."""
    if "map_shape" not in settings or len(latent_shape) == 3:
        return settings
    return settings | {"map_shape": MAPS[prod(latent_shape)]}


def make_flow(family, settings, latent_shape):
    """A fresh flow in float64."""
    config = FLOWS[family].config(flow=family, **settings_for(settings, latent_shape))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_flow(config, latent_shape, CONTEXT_FEATURES).double()


def tiny_config(family="none", settings=None, image_shape=(1, 4, 4), prior=None, **model):
    model = MODEL | model
    settings = settings_for(FLOW_SETTINGS[family][0] if settings is None else settings, tuple(model["latent_shape"]))
    prior = {"flow": "none"} if prior is None else prior
    return VAEConfig(image_shape=image_shape, posterior={"flow": family, **settings}, prior=prior, **model)


def tiny_vae(family="none", *, std=0.4, seed=0, **config):
    """A VAE of 4 x 4 images in float64, with perturbed parameters unless std is 0."""
    return perturb(build_vae(tiny_config(family, **config), seed=seed).double(), std)


def random_bits(num_images, seed=0):
    """Images of 4 x 4 random bits."""
    bits = np.random.default_rng(seed).integers(0, 2, (num_images, 1, 4, 4), dtype=np.uint8)
    return ImageSet(torch.from_numpy(bits), "bits")


def ramp(num_images):
    """Images of which each contains every grey value once."""
    return torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(num_images, 1, 1, 1)


def uniform_grey(num_images, value=128):
    """4 x 4 images of one grey value, to be binarized dynamically."""
    return ImageSet(torch.full((num_images, 1, 4, 4), value, dtype=torch.uint8), "dynamic")


def training_config(**changes):
    return TrainingConfig(**TRAINING | changes)


def cosine(warmup_steps=3, decay_start=0.5):
    return {"name": "cosine", "warmup_steps": warmup_steps, "decay_start": decay_start}


def record_inputs(vae, training=True):
    """A list to which the images and the noise of every forward pass in one of the two modes are appended."""
    seen = []
    vae.register_forward_pre_hook(
        lambda module, inputs: (
            seen.append(tuple(value.clone() for value in inputs)) if module.training == training else None
        )
    )
    return seen


def outputs_of(vae, training):
    """A list to which the log densities of every forward pass in one of the two modes are appended."""
    seen = []

    def record(module, inputs, densities):
        if module.training == training:
            seen.append(densities)

    vae.register_forward_hook(record)
    return seen


def twenty_losses(family, settings):
    """-ELBO in nats of 20 steps in float64: 4 epochs of 38 random images in batches of 8, the last of 6."""
    vae = tiny_vae(family, std=0, settings=settings)
    steps = outputs_of(vae, training=True)
    fit(vae, random_bits(38), random_bits(10, seed=1), training_config(), seed=3)
    return [-elbo(densities).mean().item() for densities in steps]


def data_config(name, **changes):
    """Settings of the data; changes of the settings of one data set are given as a mapping."""
    settings = {key: value | changes.pop(key, {}) if isinstance(value, dict) else value for key, value in DATA.items()}
    return DataConfig(**settings | {"name": name} | changes)
