"""Partitions of maps: masks, squeeze, and joining, which only move numbers and so are exact."""

import pytest
import torch
from examples import random
from torch.nn.functional import pixel_unshuffle

from flowvae.model.flows.partitions import ChannelSplit, Checkerboard, checkerboard, squeeze, unsqueeze

MAPS = [(1, 4, 4), (2, 2, 4), (3, 3, 2), (2, 1, 1), (1, 1, 2), (1, 3, 3), (5, 1, 1)]


@pytest.mark.parametrize("map_shape", MAPS)
def test_joining_undoes_splitting(map_shape):
    z = random(0, 2, 3, map_shape[0] * map_shape[1] * map_shape[2])
    board = checkerboard(*map_shape[1:]).double()
    for partition in (Checkerboard(map_shape, board), ChannelSplit(map_shape)):
        assert torch.equal(partition.join(partition.split(z)), z)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_squeeze_is_torchs(factor):
    x = random(1, 2, 3, 5, 6, 12)
    squeezed = squeeze(x, factor)
    assert torch.equal(squeezed, pixel_unshuffle(x, factor))
    assert torch.equal(unsqueeze(squeezed, factor), x)


def test_a_squeeze_takes_squares_of_2_x_2_to_channels():
    z = torch.arange(16.0)
    first, second = ChannelSplit((1, 4, 4)).split(z[None])
    assert first[0, :, 0, 0].tolist() == [0, 1] and second[0, :, 0, 0].tolist() == [4, 5]
    assert first[0, :, 1, 1].tolist() == [10, 11] and second[0, :, 1, 1].tolist() == [14, 15]
