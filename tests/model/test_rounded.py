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


@pytest.mark.parametrize("name", ["tiny_preact", "tiny_resnet50"])
def test_other_networks_round_where_the_integers_do(normed, images, name):
    """A batch-norm behind the sum, and pooling behind the stem."""
    made = distill.distill_net(normed(name), name, images, images=48, seed=7, training={})
    net, scheme = made.integer(), Scheme.parse("structured:4:8")
    fake, floating = fake_quantised(net, 7), made.floating()
    wanted = net.run(images.images[:32], scheme)
    errors = []
    for each in (fake, floating):
        set_scheme(each, scheme)
        with torch.no_grad():
            errors.append(np.abs(each(real(images.images[:32])).numpy() - wanted).mean())
    assert errors[0] < errors[1] / 3


def real(images):
    return torch.from_numpy(images).float() / 255


def whole(values, scale):
    """Real values (B, C, H, W) as steps (B, P, C); they must be whole numbers of int16."""
    steps = values.double().flatten(2).transpose(1, 2).numpy() / scale
    np.testing.assert_allclose(steps, np.round(steps), atol=2e-3)
    assert np.abs(steps + 0.5).max() <= 32768
    return np.round(steps).astype(int)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_value_is_the_integer_network_s_up_to_the_rounding_of_sums(pair, images, scheme):
    net, fake = pair
    seen = {}
    set_scheme(fake, scheme)

    def keep(layer, exact, noise, mixed):
        seen[layer.name] = exact, noise, mixed

    with observed(fake, keep), torch.no_grad():
        logits = fake(real(images.images[:8])).numpy()

    masks, compared = [], []

    def compare(index, run):
        spec = net.layers[index]
        exact, noise, mixed = (whole(each, spec.scale) for each in seen[spec.layer.name])
        for found, wanted in ((exact, run.exact), (noise, run.noise)):
            if wanted is not None:
                compared.append(np.abs(found - wanted).ravel())
        mask = exact == mixed
        masks.append((mask == run.mask) | (exact == noise))

    wanted = net.run(images.images[:8], Scheme.parse(scheme), observe=compare)
    away = np.concatenate(compared)
    assert (away == 0).mean() > 0.99
    assert (away <= 1).mean() > 0.999
    assert np.concatenate([mask.ravel() for mask in masks]).mean() > 0.999
    np.testing.assert_allclose(logits, wanted, atol=0.02 * np.abs(wanted).max())


def test_the_plain_floating_network_is_further_away(pair, checkpoint, images):
    """Else the comparison above would show nothing of the roundings."""
    net, fake = pair
    floating = checkpoint.floating(net.layers[0].layer.projection)
    x = images.images[:32]
    wanted = net.run(x, Scheme.parse("structured:6:8"))
    errors = []
    for made in (fake, floating):
        set_scheme(made, "structured:6:8")
        with torch.no_grad():
            errors.append(np.abs(made(real(x)).numpy() - wanted).mean())
    assert errors[0] < errors[1] / 3


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
    """Weights a thousand times too large: z, sum and y stop at the ends of int16."""
    net, _ = pair
    fake = fake_quantised(net, 7)
    links = {link.name: link.module for link in chain(fake)}
    with torch.no_grad():
        links["blocks.0.conv2"].bias.fill_(1e6)
        links["blocks.0.conv1"].bias.fill_(-1e6)
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
    np.testing.assert_allclose(found, logits, atol=0.02 * np.abs(logits).max())
    assert static_thresholds(fake, "unstructured:1", real(x[:2])) == (1 << 15,) * len(thetas)
    with pytest.raises(InputError, match="a static threshold needs an unstructured scheme"):
        static_thresholds(fake, "structured:6:8", real(x[:2]))


def test_gradients_pass_through_the_roundings(pair, images):
    _, fake = pair
    set_scheme(fake, "structured:6:8")
    x = real(images.images[:2]).requires_grad_()
    fake(x).sum().backward()
    assert x.grad.abs().sum() > 0
    assert {layer.scheme for layer in layers_of(fake)} == {Scheme.parse("structured:6:8")}
