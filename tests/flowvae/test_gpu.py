"""What only a GPU can show: TF32, generators of a device, training, scores and compilation there."""

import copy
import math

import pytest
import torch
from examples import EVALUATION, FLOW_SETTINGS, make_flow, perturb, random, random_bits, tiny_vae, training_config
from tolerances import NUM_OPERATIONS, assert_agrees, assert_close
from torch._dynamo.utils import counters

from flowvae.data.images import ImageSet
from flowvae.evaluation import EvaluationConfig, evaluate
from flowvae.model.loading import build_vae, load
from flowvae.model.transforms import full_precision, without_tf32
from flowvae.training.loop import fit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

CASES = [(family, settings) for family, examples in FLOW_SETTINGS.items() for settings in examples]
DEVICE = "cuda"


@pytest.fixture
def tf32():
    """TF32 is allowed wherever torch can use it, and still is after the test."""
    kinds = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = [kind.fp32_precision for kind in kinds]
    for kind in kinds:
        kind.fp32_precision = "tf32"
    yield
    after = [kind.fp32_precision for kind in kinds]
    for kind, precision in zip(kinds, before, strict=True):
        kind.fp32_precision = precision
    assert after == ["tf32", "tf32"]


def on_gpu(images):
    return ImageSet(images.pixels.to(DEVICE), images.reading)


def example(family, settings, latent_shape):
    """Return a flow on the CPU in float64, a context and points."""
    flow = perturb(make_flow(family, settings, latent_shape)).eval()
    return flow, random(7, 3, flow.context_features), random(0, 5, 3, math.prod(latent_shape))


def assert_is_exact(found, flow, context, z):
    """Assert that results are those of the CPU in float64, up to the rounding of float32."""
    found = [value.detach().cpu() for value in found]
    inputs = [z, context, *flow.parameters()]
    compute, many = lambda: flow(context).call_and_ladj(z), 10 * NUM_OPERATIONS  # of sums over 64 numbers
    assert_agrees(found, compute, inputs, num_operations=many, dtype=torch.float32)


def test_this_gpu_has_tf32(tf32):
    """Otherwise the next test could not fail."""
    a = random(0, 256, 256).float().to(DEVICE)
    exact = a.double() @ a.double()
    assert (a @ a - exact).abs().max() > 1e-3


@pytest.mark.parametrize(("family", "settings"), CASES)
def test_flows_compute_in_float32(tf32, family, settings):
    """Created as in a VAE, although TF32 is allowed, and autocast is on where a transform runs."""
    flow, context, z = example(family, settings, (4, 4, 4))
    single = copy.deepcopy(flow).float().to(DEVICE)
    with full_precision(torch.device(DEVICE)):
        transform = single(context.float().to(DEVICE))
    with torch.autocast(DEVICE, torch.bfloat16):
        found = transform.call_and_ladj(z.float().to(DEVICE))
    assert_is_exact(found, flow, context, z)


def test_building_and_loading_leave_the_generator_alone(tmp_path):
    vae = tiny_vae("planar")
    vae.save(tmp_path)
    torch.cuda.manual_seed(5)
    before = torch.cuda.get_rng_state()
    build_vae(vae.config, seed=3)
    load(tmp_path).to(DEVICE)
    assert torch.equal(torch.cuda.get_rng_state(), before)


@pytest.mark.parametrize("family", ["none", "planar", "real_nvp"])
def test_scores_are_those_of_the_cpu_at_any_chunk_size(family):
    """The noise is a function of seed, image and draw, on every device."""
    vae, images = tiny_vae(family), random_bits(30)
    expected = evaluate(vae, images, EvaluationConfig(**EVALUATION))
    moved = copy.deepcopy(vae).to(DEVICE)
    for chunk_size in (7, 1000):
        found = evaluate(moved, on_gpu(images), EvaluationConfig(**EVALUATION | {"chunk_size": chunk_size}))
        for name in ("reconstruction", "kl", "negative_elbo", "nll"):
            pair = getattr(found, name), getattr(expected, name)
            assert_close(*((estimate.value, estimate.stderr) for estimate in pair), size=(100.0, 100.0))


def trained(**changes):
    vae = tiny_vae("real_nvp", std=0.1).float().to(DEVICE)
    records = fit(vae, on_gpu(random_bits(40)), on_gpu(random_bits(20)), training_config(**changes), seed=0)
    return vae, records


def test_training_is_repeatable():
    first, again = trained(epochs=2)[0], trained(epochs=2)[0]
    for name, value in first.named_parameters():
        assert_close(again.get_parameter(name), value, num_operations=1000)


def test_bfloat16_learns_as_float32():
    exact, found = trained(epochs=2)[1], trained(epochs=2, precision="bfloat16")[1]
    assert found[-1].valid_negative_elbo == pytest.approx(exact[-1].valid_negative_elbo, rel=0.01)


@pytest.mark.filterwarnings("ignore")  # raised in the compiler
def test_a_compiled_model_trains_as_one_graph(tf32):
    torch._dynamo.reset()
    counters.clear()
    compiled, plain = trained(epochs=2, compile=True)[1], trained(epochs=2)[1]
    assert not counters["graph_break"] and counters["stats"]["unique_graphs"] == 1
    assert compiled[-1].valid_negative_elbo == pytest.approx(plain[-1].valid_negative_elbo, rel=1e-3)


@pytest.mark.filterwarnings("ignore")  # raised in the compiler
@pytest.mark.parametrize("family", ["real_nvp", "conv_real_nvp"])
def test_a_compiled_model_is_one_graph_and_computes_in_float32(tf32, family):
    torch._dynamo.reset()
    counters.clear()
    flow, context, z = example(family, FLOW_SETTINGS[family][0], (4, 4, 4))
    single = copy.deepcopy(flow).float().to(DEVICE)

    @torch.compile
    def compiled(context, z):
        with full_precision(z.device):
            return single(context).call_and_ladj(z)

    with without_tf32(torch.device(DEVICE)):
        found = compiled(context.float().to(DEVICE), z.float().to(DEVICE))
    assert_is_exact(found, flow, context, z)
    assert not counters["graph_break"] and counters["stats"]["unique_graphs"] == 1
