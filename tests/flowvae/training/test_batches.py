"""Batches that are gathered in the background are the same as all others, and so are the runs that use them."""

import gc
import threading
import time
from itertools import islice

import numpy as np
import pytest
import torch
from examples import outputs_of, tiny_vae, training_config

from flowvae.data.arrays import memory_map
from flowvae.data.images import ImageSet
from flowvae.model.objectives import elbo
from flowvae.training import batches
from flowvae.training.batches import BATCHES_AHEAD, gather_batches, run_ahead
from flowvae.training.checkpoint import CheckpointFolder, Interval
from flowvae.training.loop import NonFiniteLossError, fit


@pytest.fixture
def on_disk(tmp_path):
    """A memory-mapped set."""
    pixels = np.random.default_rng(0).integers(0, 256, (100, 1, 4, 4), dtype=np.uint8)
    np.save(tmp_path / "train.npy", pixels)
    return ImageSet(memory_map(tmp_path / "train.npy"), "levels")


@pytest.fixture
def nothing_cached(monkeypatch):
    """Every memory-mapped set is treated as too large for the page cache."""
    monkeypatch.setattr(batches, "CACHED_BYTES", 0)


def gathering_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("gather")]


def whole_batch(num_images):
    return slice(0, num_images)


def part_of_batch(num_images):
    return slice(num_images // 3, num_images // 2)


@pytest.mark.parametrize("share", [whole_batch, part_of_batch])
def test_batches_are_complete_and_in_order(on_disk, nothing_cached, share):
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    gathered = list(gather_batches(on_disk, order.split(7), share))
    assert len(gathered) == 15
    for expected, (indices, pixels) in zip(order.split(7), gathered, strict=True):
        assert torch.equal(indices, expected)
        assert torch.equal(pixels, on_disk.pixels[expected[share(len(expected))]])
    assert not gathering_threads()


def test_a_small_set_starts_no_thread(on_disk):
    iterator = gather_batches(on_disk, torch.arange(100).split(7), whole_batch)
    assert torch.equal(next(iterator)[1], on_disk.pixels[:7]) and not gathering_threads()


def test_only_a_few_batches_are_gathered_ahead():
    started = []

    def call(x):
        started.append(x)
        return x

    iterator = run_ahead(call, range(1000))
    assert list(islice(iterator, 5)) == [0, 1, 2, 3, 4]
    time.sleep(0.05)
    assert len(started) == BATCHES_AHEAD + 5
    iterator.close()
    assert not gathering_threads()


def test_an_error_is_raised_in_place_of_its_batch():
    iterator = run_ahead(lambda x: 1 // x, [1, 1, 0, 1])
    assert list(islice(iterator, 2)) == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(iterator)
    assert not gathering_threads()


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
    monkeypatch.setattr(batches, "CACHED_BYTES", 0)
    assert torch.equal(losses(images), expected)
    assert not gathering_threads()


class KilledError(Exception):
    """Raised where a process would be killed."""


def test_a_killed_run_resumes_with_the_same_bits(on_disk, nothing_cached, tmp_path):
    def run(checkpoints, on_step=lambda step, num_steps: None):
        vae = tiny_vae(std=0)
        valid = ImageSet(on_disk.pixels[:10].clone(), "levels")
        fit(vae, on_disk, valid, training_config(), seed=3, checkpoints=checkpoints, on_step=on_step)
        return vae.state_dict()

    def kill(step, num_steps):
        if step == 31:
            raise KilledError

    expected = run(CheckpointFolder(tmp_path / "a", Interval(5, "steps"), print))
    with pytest.raises(KilledError):
        run(CheckpointFolder(tmp_path / "b", Interval(5, "steps"), print), kill)
    resumed = run(CheckpointFolder(tmp_path / "b", Interval(5, "steps"), print))
    assert all(torch.equal(resumed[name], value) for name, value in expected.items())
    gc.collect()
    assert not gathering_threads()


def test_a_run_that_diverges_leaves_no_thread(on_disk, nothing_cached):
    with pytest.raises(NonFiniteLossError):
        losses(on_disk, learning_rate=1e300, max_grad_norm=1e300, schedule=ALWAYS_FULL)
    gc.collect()
    assert not gathering_threads()


ALWAYS_FULL = {"name": "cosine", "warmup_steps": 0, "decay_start": 1.0}


def test_batches_for_another_device_are_gathered_ahead(on_disk):
    """The meta device stands for it: it shows the device and the shape of the batches."""
    images = ImageSet(on_disk.pixels, "levels", torch.device("meta"))
    iterator = gather_batches(images, torch.arange(100).split(7), part_of_batch)
    indices, pixels = next(iterator)
    assert gathering_threads() and indices.tolist() == list(range(7))
    assert pixels.device.type == "meta" and pixels.shape == (1, 1, 4, 4) and pixels.dtype == torch.uint8
    iterator.close()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("reading", ["bits", "dynamic", "levels"])
def test_batches_for_a_gpu_are_the_same_from_either_memory(on_disk, reading):
    device = torch.device("cuda")
    on_gpu, mapped = ImageSet(on_disk.pixels.to(device), reading), ImageSet(on_disk.pixels, reading, device)
    order = torch.randperm(100).split(7)
    for a, b in zip(
        gather_batches(on_gpu, [x.to(device) for x in order], whole_batch), gather_batches(mapped, order, whole_batch)
    ):
        assert b[1].device.type == "cuda" and torch.equal(a[1], b[1])
    frozen = (images.freeze(torch.Generator(device).manual_seed(0)) for images in (on_gpu, mapped))
    batch = [images.batch(order[0], torch.float32, torch.Generator(device)) for images in frozen]
    assert torch.equal(*batch)
