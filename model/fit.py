"""Distillation in closed form: the INT4 weights that minimise the mean of |z - z~|^2.

The paper minimises its Eq. 1 by 50 epochs of stochastic gradient descent. For one layer on fixed
activations the loss is a quadratic form of W~, so second moments of p and z hold all there is to
know about the data. We solve the least-squares problem, then round to INT4 with the rounding error
of one weight compensated by the weights still to be rounded (Frantar et al. 2022, GPTQ), then
improve weight by weight until no single change helps much.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Fit", "Moments", "fit", "multipliers"]

Floats = NDArray[np.float64]

#: Added to the diagonal of the covariance of p, as a share of its mean: directions in which p
#: hardly varies would otherwise get huge weights that INT4 cannot hold.
_RIDGE = 1e-3

#: Steps tried for each channel, as shares of the one that just reaches the largest weight.
_STEPS = np.geomspace(0.2, 1.0, 14)

_TOP = 7

_ARRAYS = ("p", "z", "pp", "pz", "zz")


@dataclass
class Moments:
    """Weighted first and second moments of p (k values) and z (C values) over many samples."""

    weight: float = 0.0
    p: Floats = field(default_factory=lambda: np.zeros(()))
    z: Floats = field(default_factory=lambda: np.zeros(()))
    pp: Floats = field(default_factory=lambda: np.zeros(()))
    pz: Floats = field(default_factory=lambda: np.zeros(()))
    zz: Floats = field(default_factory=lambda: np.zeros(()))

    def add(self, p: NDArray[np.floating], z: NDArray[np.floating]) -> None:
        """Add samples p (n, k), small whole numbers, and z (n, C)."""
        self.weight += len(p)
        self.p = self.p + p.sum(0, dtype=np.float64)
        self.z = self.z + z.sum(0, dtype=np.float64)
        self.pp = self.pp + (p.T @ p).astype(np.float64)
        self.pz = self.pz + (p.T @ z).astype(np.float64)
        self.zz = self.zz + np.square(z, dtype=np.float64).sum(0)

    def tensors(self) -> dict[str, Any]:
        """All fields as PyTorch's restricted loader takes them; :meth:`of` is the inverse."""
        arrays = {name: torch.from_numpy(getattr(self, name)) for name in _ARRAYS}
        return arrays | {"weight": self.weight}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Moments:
        """Return the moments that :meth:`tensors` was called of."""
        return cls(values["weight"], *(values[name].numpy() for name in _ARRAYS))

    def combined(self, other: Moments) -> Moments:
        """Return both together, each with the weight of this one."""
        share = self.weight / other.weight
        return Moments(
            2 * self.weight,
            self.p + share * other.p,
            self.z + share * other.z,
            self.pp + share * other.pp,
            self.pz + share * other.pz,
            self.zz + share * other.zz,
        )


@dataclass(frozen=True)
class Fit:
    """W~ as whole numbers (C, k) in [-7, 7] with one step a channel, and b~, in units of z and p.

    `error` is the mean of (z - z~)^2 of each channel over the samples, `variance` that of z.
    """

    weight: NDArray[np.int8]
    step: Floats
    bias: Floats
    error: Floats
    variance: Floats


def multipliers(ratio: Floats) -> tuple[NDArray[np.int16], int]:
    """Nearest int16 multipliers and one shift with multiplier / 2**shift = ratio; ratio (C,) > 0.

    The largest ratio uses 15 bits; none becomes zero.
    """
    shift = int(np.floor(np.log2(32767 / np.max(ratio))))
    shift = min(max(shift, 0), 62)
    return np.clip(np.floor(ratio * 2.0**shift + 0.5), 1, 32767).astype(np.int16), shift


def fit(moments: Moments, unit: float) -> Fit:
    """Minimise the mean of |z - (W~ p + b~)|^2 over INT4 weights, a step a channel and a bias.

    The steps are such that step / unit = M / 2**r with an int16 M for each channel and one r, so
    that the accelerator's requantisation adds no error; `unit` is the value of one step of its z.
    """
    n = moments.weight
    mean_p, mean_z = moments.p / n, moments.z / n
    covariance = moments.pp / n - np.outer(mean_p, mean_p)  # (k, k)
    cross = (moments.pz / n - np.outer(mean_p, mean_z)).T  # (C, k)
    variance = moments.zz / n - mean_z**2
    ridge = _RIDGE * max(np.trace(covariance) / len(covariance), 1e-9)
    damped = covariance + ridge * np.eye(len(covariance))
    target = np.linalg.solve(damped, cross.T).T

    largest = np.maximum(np.abs(target).max(1), 1e-9)
    best = np.full(len(target), np.inf)
    weight, step = np.zeros_like(target), largest / _TOP
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T  # upper
    for share in _STEPS:
        trial_step = share * largest / _TOP
        trial = _round_compensated(target, factor, trial_step)
        loss = _loss(trial * trial_step[:, None] - target, damped)
        better = loss < best
        best[better], step[better], weight[better] = loss[better], trial_step[better], trial[better]
    for _ in range(3):
        weight = _descend(weight, target, damped, step)
        norm, inner = _loss(weight, covariance), np.einsum("ck,ck->c", weight, cross)
        step = np.where((norm > 0) & (inner > 0), inner / np.where(norm > 0, norm, 1), step)
    multiplier, shift = multipliers(step / unit)
    step = multiplier * (unit / 2.0**shift)
    weight = _descend(weight, target, damped, step)

    real = weight * step[:, None]
    error = variance - 2 * np.einsum("ck,ck->c", real, cross) + _loss(real, covariance)
    return Fit(
        weight=weight.astype(np.int8),
        step=step,
        bias=mean_z - real @ mean_p,
        error=np.maximum(error, 0),
        variance=variance,
    )


def _loss(difference: Floats, matrix: Floats) -> Floats:
    """d A d^T of every row."""
    return np.einsum("ck,ck->c", difference @ matrix, difference)


def _round_compensated(target: Floats, factor: Floats, step: Floats) -> Floats:
    """Round column by column; columns to come take up the error (`factor`: Cholesky of inverse)."""
    rest = target.copy()
    out = np.empty_like(target)
    for j in range(target.shape[1]):
        out[:, j] = np.clip(np.floor(rest[:, j] / step + 0.5), -_TOP, _TOP)
        error = (rest[:, j] - out[:, j] * step) / factor[j, j]
        rest[:, j + 1 :] -= np.outer(error, factor[j, j + 1 :])
    return out


def _descend(weight: Floats, target: Floats, matrix: Floats, step: Floats) -> Floats:
    """Two rounds of setting each weight to the best whole number given the others."""
    weight = weight.copy()
    gradient = (weight * step[:, None] - target) @ matrix  # (C, k)
    for j in [*range(target.shape[1])] * 2:
        best = weight[:, j] - gradient[:, j] / (matrix[j, j] * step)
        change = np.clip(np.floor(best + 0.5), -_TOP, _TOP) - weight[:, j]
        weight[:, j] += change
        gradient += np.outer(change * step, matrix[j])
    return weight
