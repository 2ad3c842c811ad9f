"""The converted layer against explicit matrices, and conversion of whole networks."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sinai.common import arithmetic
from sinai.common.errors import InputError
from sinai.common.projection import ternary
from sinai.common.scheme import Scheme
from sinai.model.sinai import (
    SinaiConv2d,
    convert,
    fold_batch_norm,
    layers_of,
    ranks,
    select,
    set_scheme,
)
from sinai.model.switches import Switches

DENSE = Scheme.parse("dense")


def layer(projection="patch", stride=1, kernel=3, c_in=5, c_out=9, x_step=0.1, p_shift=2):
    torch.manual_seed(1)
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2)
    made = SinaiConv2d(conv, "one", (0, 3), scheme=DENSE, switches=Switches(projection=projection))
    made.x_step.fill_(x_step)
    made.x_unsigned.fill_(True)
    made.p_shift.fill_(p_shift)
    return made


def windows(x, made):
    """The d inputs of every output pixel, tap by tap, channel by channel: explicit loops."""
    pad = made.padding
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    rows = []
    for image in x:
        for top in range(0, x.shape[2] - made.kernel + 1, made.stride):
            for left in range(0, x.shape[3] - made.kernel + 1, made.stride):
                rows.append(
                    [
                        image[c, top + i, left + j]
                        for i in range(made.kernel)
                        for j in range(made.kernel)
                        for c in range(made.c_in)
                    ]
                )
    return np.array(rows)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("projection", ["patch", "tap"])
def test_approximate_is_the_two_matrix_products(projection, kernel, stride):
    made = layer(projection, stride, kernel)
    x = np.random.default_rng(2).random((2, 5, 7, 6), dtype=np.float32) * 2 - 0.2
    rows = np.clip(np.floor(windows(x, made) / np.float32(0.1) + 0.5), 0, 15)
    matrix = made.matrix.numpy()
    if projection == "tap":  # the same small matrix for every tap
        matrix = np.kron(np.eye(kernel**2), matrix)
    p = np.clip(np.floor(rows @ matrix.T / 4 + 0.5), -8, 7)
    weight, step = made.noise_levels()
    expected = p @ (weight * step[:, None]).T + made.noise_bias.detach().numpy()
    found = made.approximate(torch.from_numpy(x)).detach().permute(0, 2, 3, 1).reshape(-1, 9)
    assert np.allclose(found.numpy(), expected, atol=1e-4)


def test_noise_weights_start_as_w_times_p():
    made = layer()
    flat = made.weight.detach().permute(0, 2, 3, 1).reshape(9, 45)
    p = torch.from_numpy(ternary(made.k, 45, (0, 3))).float() * (3 / made.k) ** 0.5
    assert torch.allclose(made.noise_weight, flat @ p.T, atol=1e-5)


def test_projected_noise_is_unbiased_over_seeds():
    """E[P^T P] is the identity: the mean over many P of W P^T P x comes near W x."""
    w, x = np.ones(30), np.linspace(0, 1, 30)
    k = 20
    values = []
    for seed in range(4000):
        p = ternary(k, 30, (seed, 0)) * (3 / k) ** 0.5
        values.append((p @ w) @ (p @ x))
    spread = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values) - w @ x) < 4 * spread


def test_mixing_follows_the_mask():
    made = layer()
    made.scheme = Scheme.parse("structured:6:8")
    x = torch.rand(2, 5, 6, 6)
    exact, noise = made.exact(x), made.approximate(x)
    mask = select(noise, made.scheme)
    assert mask.float().mean() == pytest.approx(3 / 9)  # two of eight, and the ninth alone
    assert torch.equal(made(x), torch.where(mask, exact, noise))
    made.scheme = Scheme.parse("unstructured:1")
    assert torch.equal(made(x), noise)


def test_top_k_is_taken_over_the_layer_of_each_image():
    z = torch.arange(24.0).view(2, 3, 2, 2)
    z[0] = -z[0]
    mask = select(z, Scheme.parse("unstructured:0.75"))
    assert mask.flatten(1).sum(1).tolist() == [3, 3]
    assert mask[0].flatten().nonzero().flatten().tolist() == [0, 1, 2]
    assert mask[1].flatten().nonzero().flatten().tolist() == [9, 10, 11]
    assert not select(z, Scheme.parse("unstructured:1")).any()
    assert select(z, Scheme.parse("unstructured:0")).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 19), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_ranks_agree_with_the_integer_arithmetic(channels, essential, seed):
    """Few distinct values, so that ties are common."""
    z = np.random.default_rng(seed).integers(-2, 3, (2, channels, 2, 3))
    found = ranks(torch.from_numpy(z).float(), 8) < essential
    expected = arithmetic.select_rank(z.transpose(0, 2, 3, 1), essential)
    assert np.array_equal(found.numpy(), expected.transpose(0, 3, 1, 2))


def test_gradients_reach_both_paths():
    made = layer()
    made.scheme = Scheme.parse("unstructured:0.5")
    made(torch.rand(1, 5, 6, 6)).square().sum().backward()
    for parameter in (made.weight, made.bias, made.noise_weight, made.noise_bias):
        assert parameter.grad.abs().sum() > 0


def test_folding_keeps_the_outputs(trained, images):
    x = torch.from_numpy(images.images[:4]).float() / 255
    with torch.no_grad():
        before = trained(x)
        after = fold_batch_norm(trained)(x)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in trained.modules())
    assert torch.allclose(before, after, atol=1e-5)


def test_folding_keeps_a_bias_and_norms_without_gain():
    torch.manual_seed(2)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1))
    net.append(nn.BatchNorm2d(5, affine=False))
    x = torch.rand(6, 3, 8, 8)
    for _ in range(20):
        net.train()(x)
    expected = net.eval()(x)
    assert torch.allclose(fold_batch_norm(net)(x), expected, atol=1e-5)


def test_a_batch_norm_without_its_own_convolution_is_refused():
    with pytest.raises(InputError, match="batch-norm 0 does not follow a convolution"):
        fold_batch_norm(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)))


@pytest.mark.parametrize("projection", ["patch", "tap"])
def test_dense_gives_the_original_outputs(trained, images, projection):
    x = torch.from_numpy(images.images[:4]).float() / 255
    made = convert(copy.deepcopy(trained), projection=projection)
    with torch.no_grad():
        assert torch.allclose(made(x), trained(x), atol=1e-5)
        before = made(x)
        noisy = set_scheme(made, "structured:7:8")(x)
        assert not torch.allclose(noisy, before, atol=1e-2)
        assert torch.equal(set_scheme(made, "dense")(x), before)
    assert len(list(layers_of(made))) == 6
    assert isinstance(made.classifier, nn.Linear)


def test_the_package_offers_conversion_by_name():
    import sinai.model

    assert sinai.model.convert is convert
    assert sinai.model.set_scheme is set_scheme
    with pytest.raises(AttributeError, match="has no attribute 'other'"):
        sinai.model.other  # noqa: B018


def test_any_module_converts():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    x = torch.rand(2, 3, 5, 5)
    expected = net(x)
    made = convert(net, "unstructured:0.5", seed=4)
    assert made(x).shape == expected.shape
    assert torch.allclose(set_scheme(made, "dense")(x), expected)


@pytest.mark.parametrize(
    ("conv", "message"),
    [
        (nn.Conv2d(4, 4, 3, groups=2), "one group"),
        (nn.Conv2d(4, 4, (3, 1)), "square"),
        (nn.Conv2d(4, 4, 4, padding="same"), "square"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "padding must be zeros"),
    ],
)
def test_other_convolutions_are_refused(conv, message):
    with pytest.raises(InputError, match=message):
        convert(nn.Sequential(conv))
