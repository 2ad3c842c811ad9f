"""The paper's theory, exactly where P can be enumerated, by seeded draws where it cannot.

Tolerances of drawn quantities are five standard errors, computed from the draws or from the theory:
under a true statement one such test in two million fails by chance, and the seeds are fixed.
"""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sinai.common.projection import k_jll, ternary
from sinai.common.scheme import Scheme
from sinai.model import theory
from sinai.model.checkpoint import bundled, load
from sinai.model.data import load as load_images
from sinai.model.sinai import layers_of, select, set_scheme
from sinai.model.theory_nets import (
    attack,
    dense_copy,
    layer_noise,
    projected,
    theorem_2,
    windows,
)

#: An entry of P without its factor, and its probability (paper, section 3.3, s = 3).
LAW = ((-1, Fraction(1, 6)), (0, Fraction(2, 3)), (1, Fraction(1, 6)))

small = st.integers(-4, 4)


def moments_over_all_p(x, w, rows, taps):
    """Mean and variance of <P x, P w> over every P, with fractions. x, w: lists of d integers."""
    channels = len(x) // taps
    mean = square = Fraction(0)
    for entries in itertools.product(LAW, repeat=rows * channels):
        p = np.array([value for value, _ in entries], object).reshape(rows, channels)
        px, pw = (p @ np.array(each, object).reshape(taps, channels).T for each in (x, w))
        value = Fraction(3, rows) * int((px * pw).sum())
        chance = math.prod(probability for _, probability in entries)
        mean += chance * value
        square += chance * value**2
    return mean, square - mean**2


# Theorem 1 and Eq. 5: moments


@given(st.lists(small, min_size=3, max_size=3), st.lists(small, min_size=3, max_size=3))
def test_moments_of_the_inner_product_are_exact(x, w):
    """One row of three entries: all 27 matrices P."""
    mean, variance = moments_over_all_p(x, w, rows=1, taps=1)
    assert mean == np.dot(x, w)
    assert variance == np.dot(x, x) * np.dot(w, w) + np.dot(x, w) ** 2
    assert theory.inner_product_variance(x, w, 1) == pytest.approx(float(variance))


@given(st.lists(small, min_size=6, max_size=6), st.lists(small, min_size=6, max_size=6))
def test_moments_with_rows_shared_by_taps_are_exact(x, w):
    """Three taps of two channels, one row: all 9 matrices P."""
    mean, variance = moments_over_all_p(x, w, rows=1, taps=3)
    assert mean == np.dot(x, w)
    assert theory.inner_product_variance(x, w, 1, taps=3) == pytest.approx(float(variance))


def test_variance_falls_with_rows():
    x, w = [1, -2], [3, 1]
    _, variance = moments_over_all_p(x, w, rows=2, taps=1)
    assert variance == Fraction(5 * 10 + 1, 2)
    assert theory.inner_product_variance(x, w, 2) == float(variance)


def test_another_sparsity_has_another_variance():
    """With s = 1, signs alone, <P x, P w> of one-hot x = w is always 1; with s = 3 it varies."""
    assert theory.inner_product_variance([1, 0], [1, 0], 1, s=1) == 0
    assert theory.inner_product_variance([1, 0], [1, 0], 1) == 2


@given(
    hnp.arrays(float, (6,), elements=st.integers(-9, 9)),
    hnp.arrays(float, (6,), elements=st.integers(-9, 9)),
)
def test_sharing_rows_costs_variance_up_to_a_factor_of_the_taps(x, w):
    """k rows as k / taps for each tap: never less certain than one tap of k / taps rows, and equal
    to it where all taps hold the same direction."""
    shared = theory.norm_variance(x, 4, taps=3)
    assert shared <= 2 * (x @ x) ** 2 / 4 + 1e-9
    assert shared >= 2 * (x @ x) ** 2 / 12 - 1e-9
    parallel = np.concatenate([w[:2], 2 * w[:2], -w[:2]])
    assert theory.norm_variance(parallel, 4, taps=3) == pytest.approx(
        2 * (parallel @ parallel) ** 2 / 4
    )


def test_variance_takes_many_pairs_at_once():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(5, 1, 6)), rng.normal(size=(1, 4, 6))
    found = theory.inner_product_variance(x, w, 3, taps=2)
    assert found.shape == (5, 4)
    assert found[2, 3] == pytest.approx(theory.inner_product_variance(x[2, 0], w[0, 3], 3, taps=2))


def test_entries_of_p_follow_their_law():
    """300,000 entries: the counts of -1 and 1 within five deviations of a sixth."""
    entries = ternary(300, 1000, (11, 0))
    deviation = math.sqrt(entries.size * 5 / 36)
    for value in (-1, 1):
        assert abs((entries == value).sum() - entries.size / 6) < 5 * deviation
    assert set(np.unique(entries)) == {-1, 0, 1}


def drawn(x, w, rows, taps, draws):
    """<P x, P w> for `draws` matrices of the package, (draws,)."""
    p = ternary(draws * rows, len(x) // taps, (5, 0)).reshape(draws, rows, -1) * (3 / rows) ** 0.5
    px, pw = (np.einsum("drc,tc->drt", p, each.reshape(taps, -1)) for each in (x, w))
    return (px * pw).sum((1, 2))


def off_in_errors(sample, mean, variance):
    """How many standard errors the sample's mean and variance are off."""
    centred = sample - mean
    of_variance = math.sqrt(((centred**4).mean() - variance**2) / len(sample))
    return (
        abs(centred.mean()) / math.sqrt(variance / len(sample)),
        abs((centred**2).mean() - variance) / of_variance,
    )


@pytest.mark.parametrize(("rows", "taps"), [(12, 1), (4, 9)], ids=["patch", "tap"])
def test_projection_of_the_package_has_these_moments(rows, taps):
    rng = np.random.default_rng(1)
    x = np.maximum(rng.normal(size=36), 0)
    w = 0.5 * x + rng.normal(size=36)
    sample = drawn(x, w, rows, taps, 20_000)
    variance = theory.inner_product_variance(x, w, rows, taps=taps)
    assert max(off_in_errors(sample, x @ w, variance)) < 5


@pytest.mark.parametrize("fault", ["signs alone", "shared rows taken for own", "no second term"])
def test_wrong_moments_would_be_seen(fault):
    """The tolerance is narrow enough for each of these to be more than five errors off."""
    x = np.concatenate([np.ones(4), np.zeros(5), np.full(9, 0.3)])
    sample = drawn(x, x, 4, 2, 20_000)
    wrong = {
        "signs alone": theory.inner_product_variance(x, x, 4, taps=2, s=1),
        "shared rows taken for own": theory.inner_product_variance(x, x, 8),
        "no second term": theory.inner_product_variance(x, x, 4, taps=2) / 2,
    }[fault]
    assert off_in_errors(sample, x @ x, wrong)[1] > 5
    right = theory.inner_product_variance(x, x, 4, taps=2)
    assert off_in_errors(sample, x @ x, right)[1] < 5


# Theorem 1 and Eq. 5: tails


def off_by(sample, mean, scale, eps):
    return (np.abs(sample - mean) > eps * scale).mean()


@pytest.mark.parametrize("eps", [0.2, 0.4, 0.6])
def test_norms_are_kept_as_often_as_promised(eps):
    """Eq. 5: the share beyond eps is below the bound, and near 2 Q(eps sqrt(rows / 2)) of a normal
    distribution, to which it tends. 5 sqrt(p / n) is its sampling error, 0.03 that of the limit."""
    x = np.random.default_rng(2).normal(size=50)
    rows, draws = 64, 10_000
    share = off_by(drawn(x, x, rows, 1, draws), x @ x, x @ x, eps)
    assert share <= theory.norm_tail(rows, eps) + 5 * math.sqrt(share / draws)
    normal = math.erfc(eps * math.sqrt(rows / 2) / math.sqrt(2))
    assert abs(share - normal) < 0.03 + 5 * math.sqrt(normal / draws)


@pytest.mark.parametrize("cosine", [-0.9, 0.0, 0.9])
def test_inner_products_are_kept_as_often_as_promised(cosine):
    """Theorem 1 with vectors of length 1 and at any angle."""
    x, w = np.zeros(30), np.zeros(30)
    x[0], w[:2] = 1, (cosine, math.sqrt(1 - cosine**2))
    for rows, eps in ((64, 0.4), (199, 0.3)):
        share = off_by(drawn(x, w, rows, 1, 4000), cosine, 1, eps)
        assert share <= theory.inner_product_tail(rows, eps) < 1


@given(
    hnp.arrays(float, (2, 3), elements=st.integers(-2, 2)),
    hnp.arrays(float, (2, 3), elements=st.integers(-9, 9)),
)
def test_the_proof_of_theorem_1_holds_for_every_p(p, vectors):
    """Appendix A, Eq. 10 to 13: whatever P is, the error is at most the two norms' errors / 4."""
    x, w = vectors
    error = abs((p @ x) @ (p @ w) - x @ w)
    kept = [abs(np.sum((p @ v) ** 2) - v @ v) for v in (x + w, x - w)]
    assert error <= sum(kept) / 4 + 1e-9


@pytest.mark.parametrize("n", [8, 64, 512])
def test_depth_of_the_models_makes_a_failure_rarer_than_two_in_n_squared(n):
    """k_jll is the depth at which Pr[norm off by eps = 0.5] <= 2 / n^2, up to its rounding down."""
    k = k_jll(n)
    assert theory.norm_tail(k + 1, 0.5) <= 2 / n**2 <= theory.norm_tail(k, 0.5)


def test_the_paper_s_order_of_epsilon_is_not_that_of_a_fixed_depth():
    """Eq. 5 and 6 promise 1 - O(eps^2): nearly certain for small eps. At a fixed k the opposite
    holds, since the bound narrows; with k = O(log N / eps^2) the chance depends on N alone."""
    x = np.random.default_rng(3).normal(size=40)
    sample = drawn(x, x, 199, 1, 4000)
    kept = [1 - off_by(sample, x @ x, x @ x, eps) for eps in (0.3, 0.1, 0.03, 0.01)]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > 0.99
    assert kept[-1] < 0.2
    tails = [theory.norm_tail(k_jll(64, eps), eps) for eps in (0.3, 0.1, 0.03)]
    assert tails == pytest.approx([2 / 64**2] * 3, rel=0.02)


def test_eq_6_needs_lengths():
    """Eq. 6 has an absolute eps, Eq. 15, which is what is proven, eps / 2 (|x|^2 + |w|^2): ten
    times longer vectors have a hundred times the error."""
    x = np.random.default_rng(4).normal(size=20)
    error = drawn(x, x, 8, 1, 50) - x @ x
    longer = drawn(10 * x, 10 * x, 8, 1, 50) - 100 * x @ x
    np.testing.assert_allclose(longer, 100 * error, rtol=1e-9)


def test_tails_are_bounds_of_chances():
    assert theory.norm_tail(1, 0.1) == theory.inner_product_tail(1, 0.1) == 1
    assert theory.norm_tail(266, 0.5) == pytest.approx(2 * math.exp(-133 / 12))
    assert theory.inner_product_tail(266, 0.5) == pytest.approx(4 * math.exp(-133 / 12))
    assert theory.norm_tail(266, 0.5, taps=9) == pytest.approx(18 * math.exp(-133 / 12))
    with pytest.raises(ValueError, match="between 0 and 1, not 1"):
        theory.norm_tail(4, 1)


# Eq. 2


def test_eq_2_mixes_by_the_mask(checkpoint, images):
    """z' = m z + (1 - m) z~ of every layer, so |z' - z| <= |z~ - z|, less the fewer are noisy."""
    x = torch.from_numpy(images.images[:4]).float() / 255
    net = set_scheme(checkpoint.floating(), "dense")
    inputs = {}
    for layer in layers_of(net):
        layer.register_forward_hook(lambda layer, args, _: inputs.update({layer: args[0]}))
    with torch.no_grad():
        net(x)
        assert len(inputs) == 6
        for layer, given_x in inputs.items():
            z, noisy = layer.exact(given_x), layer.approximate(given_x)
            errors = []
            for text in ("dense", "unstructured:0.5", "structured:4:8", "structured:7:8"):
                layer.scheme = scheme = Scheme.parse(text)
                m = select(noisy, scheme).float()
                mixed = layer(given_x)
                torch.testing.assert_close(mixed, m * z + (1 - m) * noisy, rtol=0, atol=1e-6)
                assert float(m.mean()) == pytest.approx(float(1 - scheme.ratio), abs=0.01)
                errors.append(float((mixed - z).square().sum()))
            assert errors[0] == 0
            assert errors[2] <= errors[3]  # the mask of 7:8 lies in that of 4:8
            layer.scheme = Scheme.parse("structured:8:8")
            torch.testing.assert_close(layer(given_x), noisy, rtol=0, atol=0)
            assert errors[3] <= float((noisy - z).square().sum()) * (1 + 1e-6)


# Theorem 2

weights = hnp.arrays(float, (2, 3, 5), elements=st.integers(0, 20)).filter(
    lambda each: (each.sum(-1) > 0).all()
)


@given(weights, st.integers(0, 4))
def test_theorem_2_follows_from_collisions(each, label):
    """Gap of risks <= mean gap of draws <= bound with each image's theta <= bound with one."""
    p, q = each / each.sum(-1, keepdims=True)
    theta = theory.divergence(p, q)
    risks = abs(np.mean(p[:, label] - q[:, label]))
    gap = theory.collision_gap(p, q).mean()
    own, one = theory.risk_bound(p, theta), theory.risk_bound(p, theta.max())
    assert risks <= gap + 1e-12
    assert gap <= own + 1e-12
    assert own <= one + 1e-12


def test_a_smaller_theta_would_break_theorem_2():
    """Half of the divergence is not enough: the bound is near its limit here."""
    p, q = np.array([[0.5, 0.5]]), np.array([[0.52, 0.48]])
    theta = theory.divergence(p, q)
    assert theory.risk_bound(p, theta) >= theory.collision_gap(p, q).mean()
    assert theory.risk_bound(p, theta - 0.01) < theory.collision_gap(p, q).mean()


def test_limits_of_theorem_2():
    """No noise: 0 if the class stays, 1 if it changes. Uniform: 1 - 1/K, though nothing changes."""
    sure = np.eye(4)
    assert theory.risk_bound(sure, theory.divergence(sure, sure)) == 0
    moved = np.roll(sure, 1, axis=1)
    assert theory.divergence(sure, moved).tolist() == [math.inf] * 4
    assert theory.risk_bound(sure, math.inf) == 1
    uniform = np.full((1, 4), 0.25)
    assert theory.entropy(uniform)[0] == pytest.approx(math.log(4))
    assert theory.risk_bound(uniform, 0.0) == pytest.approx(3 / 4)


def test_divergence_by_hand():
    assert theory.divergence([0.5, 0.5], [0.25, 0.75]) == pytest.approx(
        0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    )
    assert theory.divergence([1.0, 0.0], [0.5, 0.5]) == pytest.approx(math.log(2))


# How normal a sample is


def test_shape_of_a_normal_sample():
    """Deviations of moments of n independent values: sqrt(6 / n), sqrt(24 / n); the distance is
    below 1.95 / sqrt(n) in 999 of 1000 samples."""
    n = 20_000
    found = theory.shape_of(np.random.default_rng(5).normal(3, 2, (100, n // 100)))
    assert found.count == n
    assert found.mean == pytest.approx(3, abs=5 * 2 / math.sqrt(n))
    assert found.std == pytest.approx(2, abs=5 * 2 / math.sqrt(2 * n))
    assert abs(found.skewness) < 5 * math.sqrt(6 / n)
    assert abs(found.kurtosis) < 5 * math.sqrt(24 / n)
    assert found.distance < 1.95 / math.sqrt(n)


def test_shape_of_a_uniform_grid():
    """Skewness 0 and excess kurtosis -6/5; distance from the normal one by a fine grid."""
    n = 10_001
    found = theory.shape_of(np.linspace(-1, 1, n))
    assert found.skewness == pytest.approx(0, abs=1e-9)
    assert found.kurtosis == pytest.approx(-6 / 5, abs=1e-3)
    grid = np.linspace(-1, 1, 2001)
    normal = [0.5 * math.erfc(-v * math.sqrt(3) / math.sqrt(2)) for v in grid]
    assert found.distance == pytest.approx(np.abs((1 + grid) / 2 - normal).max(), abs=3e-4)


def test_shape_of_two_values():
    """Half of a sample at each of -1 and 1: the normal one has 0.1587 below -1, the sample half."""
    found = theory.shape_of([-1, 1, 1, -1])
    assert found.kurtosis == pytest.approx(-2)
    assert found.distance == pytest.approx(0.5 - 0.5 * math.erfc(1 / math.sqrt(2)))
    with pytest.raises(ValueError, match="not all be equal"):
        theory.shape_of([2.0, 2.0])


# On the bundled tiny network


@pytest.fixture(scope="module")
def tiny():
    """Both forms of P, and the bundled test images (8, 3, 32, 32) with their labels."""
    checkpoint = load("tiny")
    data = load_images(f"npz:{bundled()['tiny'] / 'images.npz'}", "test")
    x = torch.from_numpy(data.images).float() / 255
    return {form: checkpoint.floating(form) for form in ("patch", "tap")}, x, data.labels


@pytest.mark.parametrize("form", ["patch", "tap"])
def test_theorem_1_in_the_layers_of_tiny(tiny, form):
    """Mean squares over draws of P are as predicted to five standard errors of the draws."""
    nets, x, _ = tiny
    for layer in projected(nets[form], x, count=64, draws=40):
        ratios = np.array(layer.ratios)
        error = ratios.std(ddof=1) / math.sqrt(len(ratios))
        assert abs(ratios.mean() - 1) < 5 * error, layer.layer
        assert layer.measured == pytest.approx(layer.predicted * ratios.mean() ** 0.5)
        assert layer.beyond <= layer.bound
        assert layer.taps == (9 if form == "tap" and "shortcut" not in layer.layer else 1)


def test_windows_are_those_of_the_convolution(tiny):
    """Windows times flat weights are the convolution's outputs, in some order."""
    nets, x, _ = tiny
    layer = nets["patch"].stem
    images = x[:1] - 0.5
    rows = windows(layer, images, 10_000)
    flat = layer.weight.permute(0, 2, 3, 1).flatten(1)
    with torch.no_grad():
        products = (rows @ flat.T)[:, 0] + layer.bias[0]
        expected = layer.exact(images)[0, 0].flatten()
    assert len(rows) == len(expected)
    torch.testing.assert_close(products.sort()[0], expected.sort()[0], rtol=1e-4, atol=1e-4)


def test_noise_of_the_layers_of_tiny(tiny):
    """Recomputed here for the stem; standardised by channel it is near a normal distribution."""
    nets, x, _ = tiny
    net = set_scheme(nets["patch"], "dense")
    found = {each.layer: each for each in layer_noise(net, x)}
    assert len(found) == 6
    with torch.no_grad():
        image = net.normalize(x)
        z, noisy = net.stem.exact(image).double(), net.stem.approximate(image).double()
    stem = found["stem"]
    centred = z - z.mean((0, 2, 3), keepdim=True)
    expected = ((noisy - z) ** 2).sum() / (centred**2).sum()
    assert stem.unexplained == pytest.approx(float(expected), rel=1e-4)
    assert stem.pooled.mean == pytest.approx(float((noisy - z).mean()), abs=1e-6)
    assert stem.injected.count == pytest.approx(0.9 * z.numel(), rel=1e-3)
    for each in found.values():
        assert each.standardised.distance < 0.03
        assert abs(each.standardised.mean) < 1e-6
        assert each.standardised.distance < each.pooled.distance  # channels differ in scale


def test_theorem_2_on_tiny(tiny):
    """Every reading keeps the chain of bounds; what runs has no entropy, so its bound is 1."""
    nets, x, labels = tiny
    labels = torch.from_numpy(labels)
    found = theorem_2(nets["patch"], x, labels, steps=2, draws=2, eps=8 / 255)
    for each in found:
        assert abs(each.attacked_risk - each.risk) <= each.gap + 1e-12
        assert each.gap <= each.own_bound + 1e-12
        assert each.own_bound <= each.bound + 1e-12
        assert 1 / 10 <= each.certainty <= 1
    dense, one, soft, pool = found
    assert one.certainty == 1
    assert (one.theta, one.bound) == (math.inf, 1)
    assert one.gap == one.own_bound
    assert dense.certainty > soft.certainty > pool.certainty
    assert dense.attacked_risk > dense.risk


def test_attack_stays_in_its_ball_and_raises_the_loss(tiny):
    nets, x, labels = tiny
    labels = torch.from_numpy(labels)
    net = dense_copy(nets["patch"])
    moved = attack([net], x, labels, eps=4 / 255, steps=3)
    assert float((moved - x).abs().max()) <= 4 / 255 + 1e-6
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1
    loss = torch.nn.functional.cross_entropy
    with torch.no_grad():
        assert loss(net(moved), labels) > loss(net(x), labels) + 0.1


def test_dense_copy_computes_the_same(tiny):
    nets, x, _ = tiny
    with torch.no_grad():
        expected = set_scheme(nets["patch"], "dense")(x)
        torch.testing.assert_close(dense_copy(nets["patch"])(x), expected, rtol=1e-4, atol=1e-4)
