"""Every switch of a layer changes what it should, against explicit arithmetic."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sinai.common.errors import InputError
from sinai.common.scheme import Scheme
from sinai.model.sinai import SinaiConv2d, convert, layers_of, set_scheme
from sinai.model.steps import observed, set_steps, set_thresholds, under_scheme
from sinai.model.switches import Switches


def made(scheme="unstructured:0.5", **changes):
    torch.manual_seed(1)
    conv = nn.Conv2d(6, 9, 3, padding=1)
    return SinaiConv2d(
        conv, "one", (0, 3), scheme=Scheme.parse(scheme), switches=Switches(**changes)
    )


X = torch.rand(3, 6, 5, 4, generator=torch.Generator().manual_seed(8)) - 0.2


@pytest.mark.parametrize(
    ("rule", "k"),
    [
        ("jll:0.5", min(54, int(4 * math.log(9) / (0.125 - 0.125 / 3)))),
        ("jll:0.9", int(4 * math.log(9) / (0.405 - 0.243))),
        ("fraction:0.25:4", 14),
        ("fraction:0.25:40", 40),
        ("fraction:0.5:99", 54),
        ("full", 54),
    ],
)
def test_k(rule, k):
    assert made(k=rule).k == k
    taps = made(k=rule, projection="tap")
    assert taps.k == 9 * 4 * math.ceil(k / 36)
    assert taps.matrix.shape == (taps.k // 9, 6)


def test_identity_where_k_is_the_depth():
    layer = made(k="full", identity=True, input_bits=32, bits=32)
    assert torch.equal(layer.matrix, torch.eye(54))
    assert torch.allclose(layer.approximate(X), layer.exact(X), atol=1e-5)
    assert not torch.equal(made(k="full").matrix, layer.matrix)
    half = "fraction:0.5:1"  # k < d stays random
    assert torch.equal(made(k=half, identity=True).matrix, made(k=half).matrix)


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_bits_of_weights_and_inputs(bits):
    """Levels are whole, within the range of that many bits, and reach its end."""
    layer = made(bits=bits, input_bits=bits)
    top = 2 ** (bits - 1) - 1
    weight, _ = layer.noise(torch.tensor(1.0))
    whole = (weight / layer.noise_scale[:, None]).detach()
    assert torch.allclose(whole, whole.round(), atol=top * 1e-5)
    assert whole.abs().amax(1).round().tolist() == [top] * 9
    p, _ = layer.project(X)
    assert torch.equal(p, p.round())
    assert -top - 1 <= p.min() < p.max() <= top
    positive, _ = layer.project(X.abs())
    assert positive.abs().max() <= top + 1


def test_more_bits_come_nearer_to_the_unrounded_value():
    exact = made(bits=32, input_bits=32).approximate(X)
    errors = [
        (made(bits=b, input_bits=b).approximate(X) - exact).square().mean() for b in (2, 4, 8, 16)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-6 < errors[0]


def test_requantising():
    """Without it p is the whole sum, times the same step."""
    layer, sums = made(), made(requantise=False)
    p, step = sums.project(X)
    q, coarse = layer.project(X)
    assert p.abs().max() > 7 >= q.abs().max()
    shift = coarse / step
    assert torch.log2(shift) % 1 == 0
    assert torch.equal(q, torch.clamp(torch.floor(p / shift + 0.5), -8, 7))


def test_one_step_of_weights_for_the_tensor():
    scales = made(weight_scale="tensor").noise_scale
    assert len(scales.unique()) == 1
    assert scales[0] == made().noise_scale.max()
    assert len(made().noise_scale.unique()) == 9


def test_biases_of_four_bits_with_a_shift_a_channel():
    layer = made(bias="int4")
    layer.noise_bias.data = torch.tensor([0.0, 0.9, -3, 7, -8, 100, 0.4, 15, -1000])
    layer.noise_scale.fill_(0.5)
    _, bias = layer.noise(torch.tensor(2.0))  # the unit is 1
    # shifts 0, 0, 0, 0, 1, 4, 0, 2, 8: the least that brings |b| within 7 units
    assert bias.tolist() == [0, 1, -3, 7, -8, 96, 0, 16, -1024]
    assert made().noise(torch.tensor(2.0))[1].equal(made().noise_bias)


def test_steps_calibrated_or_dynamic():
    fixed, moving = made(), made(steps="dynamic")
    for layer in (fixed, moving):
        layer.x_step.fill_(0.01)
    assert fixed.calibrated
    assert not moving.calibrated
    assert torch.equal(moving.approximate(X), made().approximate(X))
    assert not torch.equal(fixed.approximate(X), made().approximate(X))


def test_relu_inside_the_layer():
    plain = made()
    exact, noise = plain.exact(X), plain.approximate(X)
    mask = plain.mask(noise)
    relu = torch.relu
    assert torch.equal(made(activation="both")(X), torch.where(mask, relu(exact), relu(noise)))
    assert torch.equal(made(activation="essential")(X), torch.where(mask, relu(exact), noise))
    assert torch.equal(made("dense", activation="both")(X), exact)
    assert torch.equal(made("unstructured:1", activation="both")(X), relu(noise))
    assert torch.equal(made("unstructured:1", activation="essential")(X), noise)


def test_scores():
    noise = made().approximate(X).detach()
    for score, wanted in (("value", noise), ("abs", noise.abs()), ("inverse", -noise)):
        mask = made(score=score).mask(noise)
        least = wanted.flatten(1).topk(90).values[:, -1]  # half of 180
        assert torch.equal(mask, wanted >= least.view(3, 1, 1, 1))
    layer = made(score="random")
    first, second = layer.mask(noise), layer.mask(noise)
    assert not torch.equal(first, second)
    assert first.flatten(1).sum(1).tolist() == [90, 90, 90]


def test_top_k_of_each_position():
    noise = made().approximate(X).detach()
    mask = made("unstructured:0.7", threshold="position").mask(noise)
    assert (mask.sum(1) == 3).all()  # round(0.3 * 9)
    assert torch.equal(mask, noise >= noise.topk(3, dim=1).values[:, -1:])


def test_static_thresholds():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1))
    net = convert(net, "unstructured:0.75", threshold="static")
    x = torch.rand(4, 3, 6, 6)
    with pytest.raises(InputError, match=r"layer 0: threshold static has no theta .*set_thresh"):
        net(x)
    set_thresholds(set_steps(net, x), x)
    masks = {}
    with observed(net, lambda k, z, noise, out: masks.update({k.name: k.mask(noise)})):
        net(x)
    for mask in masks.values():
        assert mask.float().mean() == pytest.approx(0.25, abs=0.005)  # over all images together
    counts = masks["0"].flatten(1).sum(1)
    assert len(counts.unique()) > 1  # but not of each
    bright = net[0].mask(net[0].approximate(x) + 1)
    assert bright.sum() > masks["0"].sum()  # theta stays
    with under_scheme(net, "dense"):
        net(x)
    net(x)  # thresholds are back
    with pytest.raises(InputError, match="has no theta"):
        set_scheme(net, "unstructured:0.5")(x)
    with pytest.raises(InputError, match="needs an unstructured scheme, not structured:1:8"):
        set_thresholds(set_scheme(net, "structured:1:8"), x)
    net(x)  # structured schemes need no theta


def test_groups_along_positions():
    noise = made().approximate(X).detach()
    mask = made("structured:3:4", axis="position").mask(noise).flatten(2)
    assert (mask.view(3, 9, 5, 4).sum(-1) == 1).all()
    best = noise.flatten(2).view(3, 9, 5, 4).argmax(-1)
    assert torch.equal(mask.view(3, 9, 5, 4).int().argmax(-1), best)
    assert not torch.equal(mask, made("structured:3:4").mask(noise).flatten(2))


def gradients(layer, x):
    x = x.clone().requires_grad_()
    layer(x).sum().backward()
    return x.grad, layer.noise_weight.grad, layer.noise_bias.grad


@pytest.mark.parametrize("scheme", ["unstructured:0.5", "unstructured:1"])
def test_gradients_of_the_noise(scheme):
    """straight through: as without rounding; zero: only b~ learns; detach: nothing does."""
    through = gradients(made(scheme), X)
    assert all(g.abs().sum() > 0 for g in through)
    layer = made(scheme, gradient="zero")
    x, weight, bias = gradients(layer, X)
    noisy = ~layer.mask(layer.approximate(X))
    assert weight is None or weight.abs().sum() == 0
    assert torch.allclose(bias, noisy.sum((0, 2, 3)).float())
    # what is left for x comes through the essential neurons alone
    essential = X.clone().requires_grad_()
    layer.exact(essential)[~noisy].sum().backward()
    assert torch.allclose(x, essential.grad, atol=1e-6)
    if scheme != "unstructured:1":
        x, weight, bias = gradients(made(scheme, gradient="detach"), X)
        assert (weight, bias) == (None, None)
        assert torch.allclose(x, essential.grad, atol=1e-6)
    else:
        assert not made(scheme, gradient="detach")(X.clone().requires_grad_()).requires_grad


def test_zero_is_the_true_gradient():
    """Finite differences far below the steps see a constant: the roundings are flat there."""
    layer = made("unstructured:1", gradient="zero")
    layer.x_step.fill_(0.1)
    with torch.no_grad():
        assert torch.equal(layer(X), layer(X + 1e-7))


def test_selection_before_or_after_batch_norm():
    """A batch-norm that turns the sign over makes the other neurons essential."""
    masks = {}
    for how in ("keep", "fold"):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)).eval()
        net[1].weight.data.fill_(-1)
        net = convert(net, "structured:7:8", batch_norm=how)
        assert isinstance(net[1], nn.BatchNorm2d if how == "keep" else nn.Identity)
        x = torch.rand(2, 3, 4, 4)
        masks[how] = net[0].approximate(x).argmax(1), net[0].approximate(x).argmin(1)
    assert torch.equal(masks["keep"][1], masks["fold"][0])


def test_seed_decides_p():
    nets = [convert(nn.Conv2d(8, 8, 3), seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(nets[0].matrix, nets[1].matrix)
    assert not torch.equal(nets[0].matrix, nets[2].matrix)


@pytest.mark.parametrize("projection", ["patch", "tap"])
def test_calibrated_steps_are_near_the_best(projection):
    """No worse than twice the least squared error over a fine grid of steps."""
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3))
    net = convert(net, projection=projection)
    x = torch.randn(4, 3, 8, 8)
    assert set_steps(net, x) is net
    assert [bool(layer.x_unsigned) for layer in layers_of(net)] == [False, True]
    values = x.numpy().astype(float)

    def error(step):
        return np.square(np.clip(np.floor(values / step + 0.5), -8, 7) * step - values).mean()

    best = min(error(step) for step in np.linspace(0.02, 1, 400))
    assert error(float(net[0].x_step)) <= 1.1 * best
    for layer in layers_of(net):
        p, _ = layer.project(x if layer.c_in == 3 else torch.relu(net[0](x)))
        assert 4 <= p.abs().max() <= 8


@pytest.mark.parametrize("field", [f.name for f in fields(Switches)])
def test_refusals(field):
    with pytest.raises(InputError, match=rf"{field} must be .*, not 'x'"):
        Switches(**{field: "x"})


@given(st.sampled_from(["jll:", "jll:0", "jll:1", "fraction:0:1", "fraction:2:1", "jll:0.1.2"]))
def test_bad_rules_of_k(rule):
    with pytest.raises(InputError, match="k must be jll:EPS"):
        replace(Switches(), k=rule)
