"""Batches gathered ahead are those gathered when they are wanted, and so are runs on them."""

import gc
import threading
import time
from itertools import islice

import numpy as np
import pytest
import torch
from examples import outputs_of, tiny_vae, training_config

from flowvae.checkpoint import CheckpointFolder, Interval
from flowvae.data import batches
from flowvae.data.arrays import mapped
from flowvae.data.batches import AHEAD, ahead, gathered
from flowvae.data.images import ImageSet
from flowvae.objectives import elbo
from flowvae.training import NonFiniteLossError, fit


@pytest.fixture
def on_disk(tmp_path):
    """A set on disk."""
    pixels = np.random.default_rng(0).integers(0, 256, (100, 1, 4, 4), dtype=np.uint8)
    np.save(tmp_path / "train.npy", pixels)
    return ImageSet(mapped(tmp_path / "train.npy"), "levels")


@pytest.fixture
def many(monkeypatch):
    """Every set counts as one that does not stay in memory."""
    monkeypatch.setattr(batches, "SMALL", 0)


def gatherers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("gather")]


def everything(num_images):
    return slice(0, num_images)


def some(num_images):
    return slice(num_images // 3, num_images // 2)


@pytest.mark.parametrize("share", [everything, some])
def test_batches_come_in_order_and_whole(on_disk, many, share):
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    found = list(gathered(on_disk, order.split(7), share))
    assert len(found) == 15
    for expected, (indices, pixels) in zip(order.split(7), found, strict=True):
        assert torch.equal(indices, expected)
        assert torch.equal(pixels, on_disk.pixels[expected[share(len(expected))]])
    assert not gatherers()


def test_a_small_set_starts_no_thread(on_disk):
    iterator = gathered(on_disk, torch.arange(100).split(7), everything)
    assert torch.equal(next(iterator)[1], on_disk.pixels[:7]) and not gatherers()


def test_no_more_is_gathered_than_is_soon_wanted():
    started = []

    def call(x):
        started.append(x)
        return x

    iterator = ahead(call, range(1000))
    assert list(islice(iterator, 5)) == [0, 1, 2, 3, 4]
    time.sleep(0.05)
    assert len(started) == AHEAD + 5
    iterator.close()
    assert not gatherers()


def test_an_error_comes_where_its_batch_would():
    iterator = ahead(lambda x: 1 // x, [1, 1, 0, 1])
    assert list(islice(iterator, 2)) == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(iterator)
    assert not gatherers()


def losses(images, **config):
    vae = tiny_vae(std=0)
    seen = outputs_of(vae, training=True)
    fit(vae, images, ImageSet(images.pixels[:10].clone(), images.reading), training_config(**config), seed=3)
    return torch.cat([elbo(densities) for densities in seen])


@pytest.mark.parametrize("reading", ["dynamic", "levels"])
def test_training_is_the_same_to_the_bit(on_disk, monkeypatch, reading):
    images = ImageSet(on_disk.pixels, reading)
    expected = losses(ImageSet(on_disk.pixels.clone(), reading))
    assert torch.equal(losses(images), expected)
    monkeypatch.setattr(batches, "SMALL", 0)
    assert torch.equal(losses(images), expected)
    assert not gatherers()


class Killed(Exception):
    """Stands where a process would end."""


def test_a_run_that_was_killed_goes_on_to_the_same_bits(on_disk, many, tmp_path):
    def run(checkpoints, on_step=lambda step, num_steps: None):
        vae = tiny_vae(std=0)
        valid = ImageSet(on_disk.pixels[:10].clone(), "levels")
        fit(vae, on_disk, valid, training_config(), seed=3, checkpoints=checkpoints, on_step=on_step)
        return vae.state_dict()

    def kill(step, num_steps):
        if step == 31:
            raise Killed

    expected = run(CheckpointFolder(tmp_path / "a", Interval(5, "steps"), print))
    with pytest.raises(Killed):
        run(CheckpointFolder(tmp_path / "b", Interval(5, "steps"), print), kill)
    found = run(CheckpointFolder(tmp_path / "b", Interval(5, "steps"), print))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    gc.collect()
    assert not gatherers()


def test_a_run_that_diverges_leaves_no_thread(on_disk, many):
    with pytest.raises(NonFiniteLossError):
        losses(on_disk, learning_rate=1e300, max_grad_norm=1e300, schedule=ALWAYS_FULL)
    gc.collect()
    assert not gatherers()


ALWAYS_FULL = {"name": "cosine", "warmup_steps": 0, "decay_start": 1.0}


def test_what_is_on_another_device_is_gathered_ahead(on_disk):
    """A device without memory stands for it here: where batches go, and in which shape."""
    images = ImageSet(on_disk.pixels, "levels", torch.device("meta"))
    iterator = gathered(images, torch.arange(100).split(7), some)
    indices, pixels = next(iterator)
    assert gatherers() and indices.tolist() == list(range(7))
    assert pixels.device.type == "meta" and pixels.shape == (1, 1, 4, 4) and pixels.dtype == torch.uint8
    iterator.close()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("reading", ["bits", "dynamic", "levels"])
def test_batches_for_a_gpu_come_from_either_memory(on_disk, reading):
    device = torch.device("cuda")
    there, here = ImageSet(on_disk.pixels.to(device), reading), ImageSet(on_disk.pixels, reading, device)
    order = torch.randperm(100).split(7)
    for a, b in zip(gathered(there, [x.to(device) for x in order], everything), gathered(here, order, everything)):
        assert b[1].device.type == "cuda" and torch.equal(a[1], b[1])
    frozen = (images.freeze(torch.Generator(device).manual_seed(0)) for images in (there, here))
    batch = [images.batch(order[0], torch.float32, torch.Generator(device)) for images in frozen]
    assert torch.equal(*batch)
