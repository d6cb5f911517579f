"""Which pairs of images the stage `interpolate` joins."""

import json

import numpy as np
import pytest
import torch

from flowvae.files import sha256
from pipeline.stages.interpolate import pairs_to_join

LABELS = torch.tensor([0, 1, 2] * 20, dtype=torch.uint8)
NONE = torch.zeros(60, dtype=torch.uint8)


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def test_labels_of_a_pair_differ():
    pairs = pairs_to_join(LABELS, 10, draws())
    assert pairs.shape == (10, 2)
    assert (LABELS[pairs[:, 0]] != LABELS[pairs[:, 1]]).all()


@pytest.mark.parametrize("num_pairs", [1, 10, 30])
def test_without_labels_any_images_are_paired(num_pairs):
    pairs = pairs_to_join(NONE, num_pairs, draws())
    assert pairs.shape == (num_pairs, 2)
    assert len(set(pairs.flatten().tolist())) == 2 * num_pairs
    assert torch.equal(pairs, pairs_to_join(NONE, num_pairs, draws()))
    assert not torch.equal(pairs, pairs_to_join(NONE, num_pairs, draws(1)))


@pytest.mark.parametrize("labels", [[1], [], [2] * 9, [0] * 8 + [1]], ids=str)
def test_fewer_pairs_if_there_are_no_more(labels):
    """Labels that are all equal count as no labels."""
    assert pairs_to_join(torch.tensor(labels), 8, draws()).shape == (1 if len(set(labels)) > 1 else len(labels) // 2, 2)


def test_the_stage_joins_images_without_labels(files, run_stage):
    prepared = files / "data/prepared"
    np.save(prepared / "test_labels.npy", np.zeros_like(np.load(prepared / "test_labels.npy")))
    info = json.loads((prepared / "test_labels.json").read_text())
    info["sha256"] = sha256(prepared / "test_labels.npy")
    (prepared / "test_labels.json").write_text(json.dumps(info))
    figure = files / "reports/figures/interpolation.png"
    figure.unlink()
    assert run_stage(files, "interpolate").code == 0
    assert figure.read_bytes().startswith(b"\x89PNG")
