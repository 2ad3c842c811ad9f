"""The fake-quantised network against the integer network, value by value."""

import numpy as np
import pytest
import torch

from sinai.common import arithmetic
from sinai.common.errors import InputError
from sinai.common.scheme import Scheme
from sinai.model import checkpoint as store
from sinai.model import distill
from sinai.model.chain import chain
from sinai.model.rounded import fake_quantised, static_thresholds
from sinai.model.sinai import layers_of, set_scheme
from sinai.model.steps import observed

SCHEMES = ("dense", "unstructured:0.7", "structured:6:8")


@pytest.fixture(scope="module", params=store.FORMS)
def pair(request, checkpoint):
    """The integer network and the fake-quantised one, with one form of P."""
    net = checkpoint.integer(request.param)
    return net, fake_quantised(net, checkpoint.manifest.seed)


def real(images):
    return torch.from_numpy(images).double() / 255


def whole(values, scale):
    """Real values (B, C, H, W) as steps (B, P, C)."""
    steps = values.double().flatten(2).transpose(1, 2).numpy() / scale
    np.testing.assert_allclose(steps, np.round(steps), atol=4e-3)
    return np.round(steps).astype(int)


def assert_equal(net, fake, images, scheme):
    """z, z~ and mask of every layer, and the logits, are the integer network's."""
    seen = {}
    set_scheme(fake, scheme)

    def keep(layer, exact, noise, mixed):
        seen[layer.name] = exact, noise, mixed

    def compare(index, run):
        spec = net.layers[index]
        exact, noise, mixed = (whole(each, spec.scale) for each in seen.pop(spec.layer.name))
        if run.exact is not None:
            np.testing.assert_array_equal(exact, run.exact)
        if run.noise is not None:
            np.testing.assert_array_equal(noise, run.noise)
            np.testing.assert_array_equal(mixed, np.where(run.mask, run.exact, run.noise))

    with observed(fake, keep), torch.no_grad():
        logits = fake(real(images)).numpy()
    wanted = net.run(images, Scheme.parse(scheme), observe=compare)
    assert not seen
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_value_is_the_integer_network_s(pair, images, scheme):
    assert_equal(*pair, images.images[:16], scheme)


@pytest.mark.parametrize("name", ["tiny_preact", "tiny_resnet50"])
def test_other_networks_round_where_the_integers_do(normed, images, name):
    """A batch-norm behind the sum, and blocks of three convolutions."""
    made = distill.distill_net(normed(name), name, images, images=32, seed=7, training={})
    net = made.integer()
    assert_equal(net, fake_quantised(net, 7), images.images[:8], "structured:4:8")


def test_a_last_bit_matters(pair, checkpoint, images):
    """The plain floating-point network, whose 16-bit values are not rounded, is elsewhere."""
    net, _ = pair
    floating = checkpoint.floating(net.layers[0].layer.projection)
    set_scheme(floating, "structured:6:8")
    x = images.images[:16]
    with torch.no_grad():
        logits = floating(real(x).float()).numpy()
    wanted = net.run(x, Scheme.parse("structured:6:8"))
    assert np.abs(logits - wanted).max() > 1e-3 * np.abs(wanted).max()


def test_ties_of_the_4_bit_levels_go_up_as_in_the_integers(pair):
    """Every 16-bit x through a layer's quantiser, halfway values among them, a last bit too low."""
    net, fake = pair
    layer = next(link.module for link in chain(fake) if link.name == "blocks.0.conv1")
    spec = net.layers[1]
    y = np.arange(0, 1 << 15)
    wanted = arithmetic.clamp(arithmetic.round_shift(y, net.layers[0].quantise_shift), 0, 15)
    x = torch.from_numpy(y).double().mul(layer.x_scale).float()
    x = torch.nextafter(x, torch.tensor(-torch.inf)).clamp(min=0)
    caught = []
    layer.project_levels, before = (lambda q: caught.append(q) or before(q)), layer.project_levels
    try:
        with torch.no_grad():
            layer.approximate(x.view(1, 1, 128, 256).expand(1, spec.layer.c_in, -1, -1))
    finally:
        del layer.project_levels
    np.testing.assert_array_equal(caught[0][0, 0].flatten().numpy(), wanted)


def test_values_saturate_as_int16(pair):
    """Biases far too large: z and the sum stop at the ends of int16."""
    net, _ = pair
    fake = fake_quantised(net, 7)
    links = {link.name: link.module for link in chain(fake)}
    with torch.no_grad():
        links["blocks.0.conv2"].whole_bias.fill_(2.0**40)
        links["blocks.0.conv1"].whole_bias.fill_(-(2.0**40))
    seen = {}
    with observed(fake, lambda layer, z, noise, mixed: seen.update({layer.name: z})):
        out = []
        handle = fake.blocks[0].register_forward_hook(lambda m, args, y: out.append(y))
        with torch.no_grad():
            fake(torch.rand(1, 3, 32, 32))
        handle.remove()
    scales = {spec.layer.name: spec.scale for spec in net.layers}
    top = scales["blocks.0.conv2"] * 32767
    assert seen["blocks.0.conv2"].max() == pytest.approx(top)
    assert out[0].max() == pytest.approx(top), "the sum is limited, too"
    assert seen["blocks.0.conv1"].min() == pytest.approx(-32768 * scales["blocks.0.conv1"])


def test_static_thresholds_are_the_integer_network_s(pair, images):
    """Over the calibration images the ratio is met layer by layer, in integers as well."""
    net, _ = pair
    fake = fake_quantised(net, 7)
    x = images.images[:32]
    thetas = static_thresholds(fake, "unstructured:0.8", real(x))
    assert len(thetas) == len(net.layers)
    shares = []
    run = dict(thetas=thetas, observe=lambda index, done: shares.append(done.mask.mean()))
    logits = net.run(x, Scheme.parse("unstructured:0.8"), **run)
    np.testing.assert_allclose(shares, 0.2, atol=0.002)
    with torch.no_grad():
        found = fake(real(x)).numpy()
    np.testing.assert_allclose(found, logits, atol=1e-4 * np.abs(logits).max())
    assert static_thresholds(fake, "unstructured:1", real(x[:2])) == (1 << 15,) * len(thetas)
    with pytest.raises(InputError, match="a static threshold needs an unstructured scheme"):
        static_thresholds(fake, "structured:6:8", real(x[:2]))


def test_gradients_pass_through_the_roundings(pair, images):
    _, fake = pair
    set_scheme(fake, "structured:6:8")
    x = real(images.images[:2]).float().requires_grad_()
    fake(x).sum().backward()
    assert x.grad.abs().sum() > 0
    assert {layer.scheme for layer in layers_of(fake)} == {Scheme.parse("structured:6:8")}
