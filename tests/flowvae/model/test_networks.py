"""Encoders, decoders and MLP: shapes, bounds, initial outputs, and the sub-pixel form of the last layer."""

from math import prod

import pytest
import torch
from examples import perturb, random, tiny_vae
from tolerances import assert_agrees, tolerance

from flowvae.data.images import ImageSet
from flowvae.model.networks import (
    MLP,
    NETWORKS,
    ConvDecoder,
    ConvEncoder,
    ResidualDecoder,
    ResidualEncoder,
    bottom_shape,
    build_decoder,
    build_encoder,
    context_terms,
)
from flowvae.model.networks.heads import MapToVector, VectorToMap
from flowvae.model.networks.residual import ResidualBlock, gain_for

SHAPES = [
    ((1, 28, 28), (4, 8)),
    ((3, 32, 32), (4, 8, 8)),
    ((3, 64, 32), (4, 4, 4, 4)),
    ((1, 6, 10), (5,)),
]
START = torch.tensor([0.5, -1.0, 2.0, 0.0])  # of a likelihood with four parameters per pixel
sizes = pytest.mark.parametrize(("image_shape", "channels"), SHAPES)


@sizes
@pytest.mark.parametrize("hidden_features", [(), (7,), (7, 6)])
@pytest.mark.parametrize("context_features", [0, 3])
def test_encoder_shapes(image_shape, channels, hidden_features, context_features):
    encoder = ConvEncoder(image_shape, (5,), context_features, channels=channels, hidden_features=hidden_features)
    loc, scale, context = encoder(torch.rand(2, *image_shape))
    assert loc.shape == scale.shape == (2, 5) and context.shape == (2, context_features)


@sizes
@pytest.mark.parametrize("hidden_features", [(), (7,), (7, 6)])
@pytest.mark.parametrize("sample_shape", [(), (3,), (2, 3)])
def test_decoder_shapes(image_shape, channels, hidden_features, sample_shape):
    decoder = ConvDecoder(image_shape, (5,), START, channels=channels[::-1], hidden_features=hidden_features)
    assert decoder(torch.randn(*sample_shape, 2, 5)).shape == (*sample_shape, 2, len(START), *image_shape[1:])


@sizes
def test_every_stage_halves_the_image(image_shape, channels):
    encoder = ConvEncoder(image_shape, (5,), 0, channels=channels, hidden_features=(7,))
    bottom = encoder.convolutions(torch.rand(1, *image_shape))
    factor = 2 ** len(channels)
    expected = (channels[-1], image_shape[1] // factor, image_shape[2] // factor)
    assert tuple(bottom.shape[1:]) == bottom_shape(image_shape, channels) == expected


BOTTOMS = [(3, 4, 5), (1, 2, 3), (4, 1, 1)]


def linear_twin(in_features, out_features, layer):
    """nn.Linear as it would be drawn in place of the layer, in float64; the layer is drawn and converted too."""
    torch.manual_seed(0)
    built = layer().double()
    torch.manual_seed(0)
    return torch.nn.Linear(in_features, out_features).double(), built


@pytest.mark.parametrize("bottom", BOTTOMS)
def test_map_to_vector_is_flatten_and_linear(bottom):
    linear, layer = linear_twin(prod(bottom), 6, lambda: MapToVector(bottom, 6))
    x = random(0, 2, *bottom)
    assert_agrees(layer(x), lambda: linear(x.flatten(1)), [x, *linear.parameters()])


@pytest.mark.parametrize("bottom", BOTTOMS)
def test_vector_to_map_is_linear_and_unflatten(bottom):
    linear, layer = linear_twin(6, prod(bottom), lambda: VectorToMap(6, bottom))
    z = random(0, 2, 6)
    assert_agrees(layer(z), lambda: linear(z).unflatten(1, bottom), [z, *linear.parameters()])


@pytest.mark.parametrize(("likelihood", "image_shape"), [("bernoulli", (1, 8, 8)), ("discretized_logistic", (3, 8, 8))])
def test_maps_and_their_gradients_are_channels_last(likelihood, image_shape):
    """If the layouts differ, elementwise functions take several times as long in the backward pass."""
    vae = tiny_vae(image_shape=image_shape, likelihood={"name": likelihood})
    seen = []

    def watch(module, inputs, output):
        if output.dim() == 4:
            seen.append(output)
            output.register_hook(seen.append)

    for layer in vae.modules():
        if layer is vae.decoder or isinstance(layer, torch.nn.SiLU):
            layer.register_forward_hook(watch)
    pixels = torch.ones(3, *image_shape, dtype=torch.uint8)
    images = ImageSet(pixels, "bits" if likelihood == "bernoulli" else "levels")
    x = images.read(pixels, len(pixels), torch.float64, torch.Generator(), slice(None))
    vae(x, random(0, len(pixels), vae.latent_dim)).log_likelihood.sum().backward()
    assert len(seen) >= 6
    assert all(values.is_contiguous(memory_format=torch.channels_last) for values in (x, *seen))


@pytest.mark.parametrize("image_shape", [(1, 28, 30), (1, 30, 28), (1, 27, 27)])
def test_images_that_do_not_halve(image_shape):
    message = f"divisible by 4 .*got {image_shape[1]} x {image_shape[2]}"
    with pytest.raises(ValueError, match=message):
        ConvEncoder(image_shape, (5,), 0, channels=(4, 8), hidden_features=(7,))
    with pytest.raises(ValueError, match=message):
        ConvDecoder(image_shape, (5,), START, channels=(8, 4), hidden_features=(7,))


@pytest.mark.parametrize("size", [0.0, 1.0, 1e4, 1e8])
@pytest.mark.parametrize("sign", [-1, 1])
def test_scale_is_positive_and_finite(size, sign):
    encoder = ConvEncoder((1, 8, 8), (5,), 2, channels=(4,), hidden_features=(7,))
    for output in encoder(sign * size * torch.rand(6, 1, 8, 8)):
        assert output.isfinite().all()
    scale = encoder(sign * size * torch.rand(6, 1, 8, 8))[1]
    assert (scale > 0).all() and scale.log().isfinite().all()


def test_scale_keeps_its_floor_when_the_head_is_driven_down():
    encoder = ConvEncoder((1, 8, 8), (5,), 0, channels=(4,), hidden_features=(7,))
    with torch.no_grad():
        encoder.head.layers[-1].bias[5:10] = -1e4
    scale = encoder(torch.rand(3, 1, 8, 8))[1]
    assert (scale > 0).all() and scale.log().isfinite().all()


def test_posterior_starts_near_the_prior():
    """Within 15 %: the head starts with small random weights."""
    torch.manual_seed(0)
    scale = ConvEncoder((1, 28, 28), (10,), 4, channels=(4, 8), hidden_features=(32,))(torch.rand(16, 1, 28, 28))[1]
    assert (scale - 1).abs().max() < 0.15


def as_transposed(weight, channels):
    """Arrange the weights of a 3 x 3 convolution before a pixel shuffle as those of a 6 x 6 kernel."""
    fan_in = weight.shape[1]
    kernel = torch.zeros(fan_in, channels, 6, 6, dtype=weight.dtype)
    for row, column in [(row, column) for row in range(2) for column in range(2)]:
        for dy, dx in [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]:
            phase = weight[2 * row + column :: 4, :, dy + 1, dx + 1]  # (channels, fan_in)
            kernel[:, :, row + 2 - 2 * dy, column + 2 - 2 * dx] = phase.T
    return kernel


@pytest.mark.parametrize("channels", [1, 3])
def test_last_layer_is_a_transposed_convolution_of_kernel_6(channels):
    decoder = ConvDecoder(
        (channels, 12, 8), (2,), torch.zeros(channels), channels=(5, 4), hidden_features=(7,)
    ).double()
    convolution, shuffle = decoder.convolutions[-2:]
    hidden = random(0, 2, 4, 6, 4)
    bias = random(1, channels)
    with torch.no_grad():
        convolution.bias.copy_(bias.repeat_interleave(4))
    expected = torch.nn.functional.conv_transpose2d(
        hidden, as_transposed(convolution.weight, channels), bias, stride=2, padding=2
    )
    assert_agrees(expected, lambda: shuffle(convolution(hidden)), [hidden, *convolution.parameters()])


def test_every_pixel_depends_on_every_latent_dimension():
    torch.manual_seed(0)
    decoder = ConvDecoder((1, 8, 8), (3,), START, channels=(4, 4), hidden_features=(16,)).double()
    slopes = torch.autograd.functional.jacobian(lambda z: decoder(z[None])[0], random(0, 3))
    assert (slopes != 0).all()


def test_mlp_context_enters_per_image():
    mlps = [MLP(3, (6, 5), 4, context_features=2).double() for _ in range(2)]
    z, context = random(0, 7, 2, 3), random(1, 2, 2)
    for mlp, term, moved in zip(mlps, context_terms(mlps, context), context_terms(mlps, context + 1), strict=True):
        inputs = [z, context, *mlp.parameters()]
        assert_agrees(term, lambda mlp=mlp: mlp.context(context), inputs)
        out = mlp(z, term)
        assert out.shape == (7, 2, 4)
        singles = [mlp(z[:, i : i + 1], term[i : i + 1]) for i in range(2)]
        assert_agrees(torch.cat(singles, dim=1), lambda mlp=mlp: mlp(z, mlp.context(context)), inputs)
        assert not torch.allclose(mlp(z, moved), out)


def test_mlp_without_context():
    mlp = MLP(3, (6,), 4)
    assert mlp.context is None and mlp(torch.rand(2, 3)).shape == (2, 4)
    assert context_terms([mlp, mlp], None) == (None, None)


def test_mlp_starts_at_zero_when_asked():
    mlp = MLP(3, (6,), 4, context_features=2).zero_last()
    assert not mlp(torch.rand(5, 3), torch.rand(5, 6)).any()
    assert MLP(3, (6,), 4)(torch.rand(5, 3)).any()


RESIDUAL = [
    ((1, 28, 28), (4, 8), (3, 7, 7)),
    ((1, 28, 20), (4, 8), (2, 7, 5)),
    ((3, 32, 32), (4, 4, 4), (5, 4, 4)),
    ((3, 8, 12), (6,), (1, 4, 6)),
]
residual_sizes = pytest.mark.parametrize(("image_shape", "channels", "map_shape"), RESIDUAL)
each_latents = pytest.mark.parametrize("vector", [True, False], ids=["vector", "map"])


@residual_sizes
@each_latents
@pytest.mark.parametrize("context_features", [0, 3])
@pytest.mark.parametrize("hidden_features", [(), (7, 6)])
def test_residual_encoder_shapes(image_shape, channels, map_shape, vector, context_features, hidden_features):
    latent_shape = (5,) if vector else map_shape
    encoder = ResidualEncoder(
        image_shape, latent_shape, context_features, channels=channels, num_blocks=2, hidden_features=hidden_features
    )
    loc, scale, context = encoder(torch.rand(2, *image_shape))
    assert loc.shape == scale.shape == (2, prod(latent_shape)) and context.shape == (2, context_features)
    assert (scale > 0).all()


@residual_sizes
@each_latents
@pytest.mark.parametrize("sample_shape", [(), (2, 3)])
def test_residual_decoder_shapes_and_start(image_shape, channels, map_shape, vector, sample_shape):
    """The mean output is within 0.5 of START, around which it is spread by random weights."""
    torch.manual_seed(0)
    latent_shape = (5,) if vector else map_shape
    decoder = ResidualDecoder(
        image_shape, latent_shape, START, channels=channels[::-1], num_blocks=2, hidden_features=(7,)
    )
    output = decoder(torch.randn(*sample_shape, 2, prod(latent_shape)))
    assert output.shape == (*sample_shape, 2, len(START), *image_shape[1:])
    assert (output.mean((0, -2, -1)) - START).abs().max() < 0.5


@pytest.mark.parametrize("image_shape", [(1, 28, 30), (3, 30, 28), (1, 27, 27)])
def test_images_that_do_not_halve_in_residual_networks(image_shape):
    message = f"divisible by 4 .*got {image_shape[1]} x {image_shape[2]}"
    for network, third in ((ResidualEncoder, 0), (ResidualDecoder, START)):
        with pytest.raises(ValueError, match=message):
            network(image_shape, (5,), third, channels=(4, 8), num_blocks=1, hidden_features=())


@pytest.mark.parametrize("map_shape", [(2, 8, 8), (2, 7, 8), (2, 14, 14)])
def test_a_map_of_another_size_than_the_lowest_stage(map_shape):
    message = f"expected a latent map of 7 x 7, .*got {map_shape[1]} x {map_shape[2]}"
    for network, third in ((ResidualEncoder, 0), (ResidualDecoder, START)):
        with pytest.raises(ValueError, match=message):
            network((1, 28, 28), map_shape, third, channels=(4, 4), num_blocks=1, hidden_features=())


@pytest.mark.parametrize("num_blocks", [1, 3])
def test_depth_and_width_come_from_the_settings(num_blocks):
    settings = {"channels": (4, 6), "num_blocks": num_blocks, "hidden_features": ()}
    for network in (
        ResidualEncoder((1, 8, 8), (5,), 0, **settings),
        ResidualDecoder((1, 8, 8), (5,), START, **settings),
    ):
        found = [module for module in network.modules() if isinstance(module, ResidualBlock)]
        assert [block.first.out_channels for block in found] == [4] * num_blocks + [6] * num_blocks


def test_a_stack_of_blocks_of_any_depth_starts_as_the_identity_and_learns():
    blocks = torch.nn.Sequential(*(ResidualBlock(3, gain_for(30)) for _ in range(30))).double()
    x = random(0, 2, 3, 5, 5)
    assert torch.equal(blocks(x), x)
    (blocks(x) - 1).square().sum().backward()
    assert all(block.last.weight.grad.abs().sum() > 0 for block in blocks)


def test_a_latent_map_keeps_positions():
    """Latents move with the image, and each latent changes only the pixels near its position."""
    settings = {"channels": (4,), "num_blocks": 1, "hidden_features": ()}
    encoder = perturb(ResidualEncoder((1, 48, 48), (2, 24, 24), 0, **settings).double(), 0.2)
    x = torch.zeros(1, 1, 48, 48).double()
    x[..., 20:24, 20:24] = random(1, 4, 4)
    moved = x.roll((4, 2), dims=(-2, -1))

    def loc(image):
        return encoder(image)[0].view(2, 24, 24)[:, 6:-6, 6:-6]

    def rolled_loc():
        return loc(x).roll((2, 1), dims=(-2, -1))[:, 2:, 1:]

    assert_agrees(loc(moved)[:, 2:, 1:], rolled_loc, list(encoder.parameters()))
    assert loc(x).std() > 0.01
    decoder = perturb(ResidualDecoder((1, 48, 48), (2, 24, 24), torch.zeros(1), **settings).double(), 0.2)
    z = torch.zeros(2, 2, 24, 24).double()
    z[1, 0, 10, 14] = 1
    blank, drawn = decoder(z.flatten(1))
    rows, columns = ((blank - drawn)[0].abs() > tolerance(1)).nonzero().unbind(1)
    reach = 2 * 4  # four convolutions of 3 x 3 at half the size
    assert (rows.min(), rows.max()) == (20 - reach, 21 + reach)
    assert (columns.min(), columns.max()) == (28 - reach, 29 + reach)


def test_encoders_and_decoders_of_different_networks_can_be_combined():
    sizes = ((1, 8, 8), (5,))
    encoder = NETWORKS["conv"].encoder_config(name="conv", channels=(4,), hidden_features=(), context_features=3)
    decoder = NETWORKS["residual"].decoder_config(name="residual", channels=(4,), num_blocks=1, hidden_features=())
    assert isinstance(build_encoder(encoder, *sizes, 2), ConvEncoder)
    assert isinstance(build_decoder(decoder, *sizes, START), ResidualDecoder)


def test_conv_networks_take_a_map_flat():
    encoder = ConvEncoder((1, 8, 8), (2, 3, 5), 0, channels=(4,), hidden_features=(7,))
    decoder = ConvDecoder((1, 8, 8), (2, 3, 5), START, channels=(4,), hidden_features=(7,))
    loc, _, _ = encoder(torch.rand(2, 1, 8, 8))
    assert loc.shape == (2, 30) and decoder(loc).shape == (2, len(START), 8, 8)
