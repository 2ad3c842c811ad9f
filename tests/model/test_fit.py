"""The closed form against brute force and against weights that are known."""

import itertools

import numpy as np

from sinai.model.fit import Moments, _descend, _round_compensated, fit, multipliers


def moments(p, z, parts=3):
    made = Moments()
    for some in np.array_split(np.arange(len(p)), parts):
        made.add(p[some].astype(np.float32), z[some].astype(np.float32))
    return made


def test_finds_int4_weights_that_made_the_data():
    rng = np.random.default_rng(1)
    weight = rng.integers(-7, 8, (6, 10))
    weight[:, 0] = 7
    p = rng.integers(-8, 8, (4000, 10))
    step, bias = rng.uniform(0.01, 0.05, 6), rng.normal(0, 3, 6)
    z = p @ (weight * step[:, None]).T + bias
    found = fit(moments(p, z), unit=1e-3)
    assert np.array_equal(found.weight, weight)
    assert np.allclose(found.step, step, rtol=1e-3)
    assert np.allclose(found.bias, bias, atol=1e-2)
    assert (found.error < 1e-4 * found.variance).all()


def test_error_is_the_mean_square_over_the_samples():
    rng = np.random.default_rng(2)
    p = rng.integers(-8, 8, (500, 8)) + rng.integers(-3, 4, (1, 8))
    z = rng.normal(1, 1, (500, 3)) + p[:, :3]
    found = fit(moments(p, z), unit=1e-3)
    rest = z - (p @ (found.weight * found.step[:, None]).T + found.bias)
    assert np.allclose(found.error, np.square(rest).mean(0), rtol=1e-4)
    assert np.allclose(rest.mean(0), 0, atol=1e-4)  # the bias takes the mean
    assert np.allclose(found.variance, z.var(0), rtol=1e-4)


def test_no_other_rounding_of_three_weights_is_better():
    """All 15**3 weights at the step that was chosen; correlated inputs, so that rounding each
    weight by itself is not the best."""
    rng = np.random.default_rng(3)
    common = rng.normal(0, 3, (2000, 1))
    p = np.clip(np.round(common + rng.normal(0, 1.0, (2000, 3))), -8, 7)
    z = p @ np.array([[0.31], [-0.77], [0.52]]) + rng.normal(0, 0.1, (2000, 1))
    found = fit(moments(p, z), unit=1e-3)
    centred = p - p.mean(0)
    errors = [
        np.square(z[:, 0] - z.mean() - centred @ np.array(w) * found.step[0]).mean()
        for w in itertools.product(range(-7, 8), repeat=3)
    ]
    assert found.error[0] <= min(errors) * 1.01


def test_dead_inputs_and_outputs_are_no_trouble():
    p = np.zeros((100, 4))
    p[:, 0] = np.arange(100) % 5
    z = np.stack([np.full(100, 2.5), p[:, 0] * 0.5], axis=1)
    found = fit(moments(p, z), unit=1e-2)
    assert np.isfinite(found.step).all()
    assert np.allclose(found.bias[0], 2.5, atol=1e-3)
    assert found.error[1] < 1e-4


def test_multipliers_by_hand():
    """32767 / 0.5 lies between 2**15 and 2**16, so the shift is 15; 1e-9 is kept at 1."""
    found, shift = multipliers(np.array([0.5, 0.25, 1e-9]))
    assert shift == 15
    assert found.tolist() == [16384, 8192, 1]
    assert found.dtype == np.int16


def correlated(rng, k=12):
    mixing = rng.normal(0, 1, (k, k)) + 2
    return mixing @ mixing.T / k


def loss(weight, target, matrix, step):
    difference = weight * step[:, None] - target
    return np.einsum("ck,kl,cl->c", difference, matrix, difference)


def test_columns_to_come_take_up_the_error():
    """Against rounding each weight by itself, over forty channels."""
    rng = np.random.default_rng(4)
    matrix, target = correlated(rng), rng.normal(0, 1, (40, 12))
    step = np.full(40, 0.4)
    factor = np.linalg.cholesky(np.linalg.inv(matrix)).T
    compensated = _round_compensated(target, factor, step)
    plain = np.clip(np.floor(target / 0.4 + 0.5), -7, 7)
    better = loss(compensated, target, matrix, step) < loss(plain, target, matrix, step)
    assert better.mean() > 0.8


def test_descent_leaves_no_single_change_that_helps_much():
    rng = np.random.default_rng(5)
    matrix, target = correlated(rng), rng.normal(0, 1, (40, 12))
    step = np.full(40, 0.4)
    start = np.clip(np.floor(target / 0.4 + 0.5), -7, 7)
    found = start
    for _ in range(5):
        found = _descend(found, target, matrix, step)
    least = loss(found, target, matrix, step)
    assert (least <= loss(start, target, matrix, step)).all()
    for j in range(12):
        for change in (-1, 1):
            other = found.copy()
            other[:, j] = np.clip(other[:, j] + change, -7, 7)
            assert (loss(other, target, matrix, step) >= least - 1e-9).all()
