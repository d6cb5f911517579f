"""Images of users: every form of the same image is the same bytes, and what does not fit is refused in one line."""

import pytest
import torch

from flowvae.model.likelihoods import as_bytes

BITS = torch.tensor([[0, 1], [1, 0]], dtype=torch.uint8)
LEVELS = torch.arange(256, dtype=torch.uint8).view(2, 2, 64)
INTEGERS = (torch.uint8, torch.int16, torch.uint16, torch.int64)
FLOATS = (torch.float16, torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", [torch.bool, *INTEGERS, *FLOATS, torch.bfloat16])
def test_bits_of_every_type(dtype):
    found = as_bytes(BITS.to(dtype), of_bits=True)
    assert found.dtype == torch.uint8 and torch.equal(found, BITS)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_of_every_type(dtype):
    assert torch.equal(as_bytes(LEVELS.to(dtype), of_bits=False), LEVELS)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("computed_in", [torch.float32, torch.float64])
def test_all_256_levels_as_floats(dtype, computed_in):
    """Also if k / 255 was computed in one precision, and is passed in a lower one."""
    floats = (LEVELS.to(computed_in) / 255).to(dtype)
    assert torch.equal(as_bytes(floats, of_bits=False), LEVELS)


@pytest.mark.parametrize("of_bits", [True, False])
def test_no_image_at_all(of_bits):
    assert as_bytes(torch.empty(0, 1, 4, 4), of_bits=of_bits).shape == (0, 1, 4, 4)


@pytest.mark.parametrize(
    ("x", "of_bits", "expected"),
    [
        (LEVELS, True, "bits .*got uint8 from 0 to 255"),
        (LEVELS / 255, True, "bits .*x > 0.5; got float32 from 0 to 1"),
        (2 * BITS.int() - 1, True, "bits .*got int32 from -1 to 1"),
        (2 * BITS.to(torch.uint16), True, "bits .*got uint16 from 0 to 2"),
        (LEVELS.float(), False, "8-bit values.*got float32 from 0 to 255"),
        (LEVELS.double() / 127.5 - 1, False, "8-bit values.*got float64 from -1 to 1"),
        (LEVELS.double() / 255 + 0.5 / 255, False, "8-bit values.*got float64"),
        ((LEVELS / 255).bfloat16(), False, "8-bit values.*got bfloat16"),  # it has 8 bits of precision, too few
        (LEVELS.int() + 1, False, "8-bit values.*got int32 from 1 to 256"),
        (LEVELS.int() - 1, False, "8-bit values.*got int32 from -1 to 254"),
        (BITS.bool(), False, "8-bit values.*got bool from 0 to 1"),
        (torch.tensor([0.0, torch.nan]), True, "bits .*got float32"),
        (torch.tensor([0.0, torch.nan]), False, "8-bit values.*got float32"),
        (torch.tensor([0.0, torch.inf]), False, "8-bit values.*got float32 from 0 to inf"),
    ],
)
def test_other_values_are_refused(x, of_bits, expected):
    with pytest.raises(ValueError, match=f"^expected images of {expected}") as caught:
        as_bytes(x, of_bits=of_bits)
    assert "\n" not in str(caught.value)
