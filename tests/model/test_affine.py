"""Batch-norms behind a sum as gain, offset and shift."""

import numpy as np
import pytest
import torch

from sinai.common import arithmetic
from sinai.model.affine import affine, set_affine


def norm_of(gamma, beta, mean, var):
    norm = torch.nn.BatchNorm2d(len(gamma)).eval()
    for target, values in (
        (norm.weight.data, gamma),
        (norm.bias.data, beta),
        (norm.running_mean, mean),
        (norm.running_var, var),
    ):
        target.copy_(torch.tensor(values))
    norm.eps = 0.0
    return norm


def test_by_hand():
    """y = 3 (s - 1) / 2 + 4, s in steps of 1/8 and y in steps of 1/4: y = 3/4 s + 10."""
    gain, offset, shift = affine(norm_of([3.0], [4.0], [1.0], [4.0]), 1 / 8, 1 / 4)
    assert gain[0] == 24576  # the largest power of two times 3/4 in 15 bits
    assert shift == 15
    assert offset[0] == 10


def test_a_negative_gain():
    gain, offset, shift = affine(norm_of([-1.0, 1.0], [0.0, 0.0], [0.0, 0.0], [1.0, 1.0]), 1.0, 1.0)
    assert (gain / 2.0**shift).tolist() == [-1.0, 1.0]
    assert offset.tolist() == [0.0, 0.0]


def test_a_dead_channel_costs_the_others_no_precision():
    """The gain of a channel that does not vary is cut, and at its mean it is right all the same."""
    norm = norm_of([1.0, 1.0], [0.5, -0.25], [0.3, 0.125], [1.7, 1e-12])
    norm.eps = 1e-5  # so the gains are 0.77 and 316
    gain, offset, shift = affine(norm, 1e-4, 1e-4)
    assert gain[1] == 32767
    assert gain[0] / 2.0**shift == pytest.approx(1.7**-0.5, rel=1e-4)
    s = np.array([[1234, round(0.125 / 1e-4)]], np.int16)
    _, y, _ = arithmetic.write_back(s, None, gain, offset, shift, False, 0, False)
    assert y[0].tolist() == pytest.approx([(0.5 + (0.1234 - 0.3) / 1.7**0.5) / 1e-4, -2500], abs=1)


def test_integers_follow_the_batch_norm():
    """Over four standard deviations of each channel, up to the rounding of gain, offset and y."""
    rng = np.random.default_rng(0)
    values = (rng.uniform(0.2, 2, 40), rng.normal(size=40), rng.normal(size=40))
    norm = norm_of(*(v.tolist() for v in values), rng.uniform(0.1, 3, 40).tolist())
    gain, offset, shift = affine(norm, 1 / 1500, 1 / 2000)
    assert np.abs(offset).max() < 1 << 15
    std, mean = norm.running_var.sqrt().numpy(), norm.running_mean.numpy()
    s = np.round((mean + std * rng.uniform(-4, 4, (1000, 40))) * 1500).astype(np.int16)
    _, y, _ = arithmetic.write_back(s, None, gain, offset, shift, False, 0, False)
    with torch.no_grad():
        wanted = norm(torch.from_numpy(s / 1500).float()[..., None, None])[..., 0, 0].numpy() * 2000
    room = 1.01 + 0.5 * np.abs(s - mean * 1500) * 2.0**-shift
    assert np.all(np.abs(y - wanted) < room)
    assert room.max() < 4
    norm.eps = 1e-5
    set_affine(norm, gain * 2.0**-shift * 1500 / 2000, offset / 2000)
    with torch.no_grad():
        again = norm(torch.from_numpy(s / 1500).float()[..., None, None])[..., 0, 0].numpy() * 2000
    assert np.abs(y - again).max() < 0.52
