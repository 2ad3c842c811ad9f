"""The paper's theory as formulas that can be held against what the networks do.

Inner products and norms under the random projection (paper, section 3.3: Lemma 1, Eq. 5, Theorem 1
and appendix A), the gap of risks under attack (Theorem 2, after Pinot et al. 2019), and how far a
sample is from a normal distribution. `sinai.model.theory_nets` measures the same on networks.

P has entries sqrt(s / rows) t with t in {-1, 0, 1} of probability 1 / (2 s), 1 - 1 / s, 1 / (2 s),
and s = 3. Its fourth moment is then that of a normal distribution, so the variances below are those
of a Gaussian P, exactly. In the form `tap` the same rows serve every tap of the window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "SPARSITY",
    "Shape",
    "collision_gap",
    "divergence",
    "entropy",
    "inner_product_tail",
    "inner_product_variance",
    "norm_tail",
    "norm_variance",
    "risk_bound",
    "shape_of",
]

#: s of the sparse projection (paper, section 3.3): one entry in three is not zero.
SPARSITY = 3


def inner_product_variance(
    x: ArrayLike, w: ArrayLike, rows: int, *, taps: int = 1, s: float = SPARSITY
) -> NDArray[np.float64]:
    """Variance of <P x, P w> over random P; its mean is <x, w>.

    With M = sum over taps of w_t x_t^T it is (|M|_F^2 + tr(M^2) + (s - 3) sum_i M_ii^2) / rows. For
    one tap and s = 3 that is (|x|^2 |w|^2 + <x, w>^2) / rows.

    Parameters
    ----------
    x, w : array of (..., d)
        Tap-major, then channel, as everywhere.
    rows : int
        Rows of P that are drawn: k for `patch`, k / taps for `tap`.
    taps : int
        1 for `patch`; positions of the kernel for `tap`.
    """
    x, w = (np.asarray(each, float) for each in (x, w))
    x, w = (each.reshape(*each.shape[:-1], taps, -1) for each in (x, w))
    cross = x @ np.swapaxes(w, -1, -2)  # (..., taps, taps): <x_t, w_u>
    gram_x, gram_w = (each @ np.swapaxes(each, -1, -2) for each in (x, w))
    squared = (gram_x * gram_w).sum((-1, -2))
    trace = (cross * np.swapaxes(cross, -1, -2)).sum((-1, -2))
    diagonal = (x * w).sum(-2)
    return (squared + trace + (s - 3) * np.square(diagonal).sum(-1)) / rows


def norm_variance(x: ArrayLike, rows: int, *, taps: int = 1) -> NDArray[np.float64]:
    """Variance of |P x|^2, whose mean is |x|^2: 2 |x|^4 / rows for one tap, at most that for any
    number of them with `rows` counted as in :func:`inner_product_variance`."""
    return inner_product_variance(x, x, rows, taps=taps)


def norm_tail(rows: int, eps: float, *, taps: int = 1) -> float:
    """Upper bound of Pr[| |P x|^2 - |x|^2 | > eps |x|^2] for any x, 0 < eps < 1.

    2 exp(-rows / 2 (eps^2 / 2 - eps^3 / 3)) (Achlioptas 2003, theorem 1.1), which is what Eq. 5 of
    the paper is a form of; times the taps that share P. Limited to 1.
    """
    if not 0 < eps < 1:
        raise ValueError(f"eps must be between 0 and 1, not {eps!r}")
    return min(1.0, 2 * taps * math.exp(-rows / 2 * (eps**2 / 2 - eps**3 / 3)))


def inner_product_tail(rows: int, eps: float, *, taps: int = 1) -> float:
    """Upper bound of Pr[|<P x, P w> - <x, w>| > eps |x| |w|] for any x and w.

    Theorem 1 with its proof's last line (Eq. 15), eps / 2 (|x|^2 + |w|^2), for x and w scaled to
    equal lengths: the norms of x + w and x - w must both be kept.
    """
    return min(1.0, 2 * norm_tail(rows, eps, taps=taps))


def entropy(p: ArrayLike) -> NDArray[np.float64]:
    """Shannon entropy in nats of distributions p (..., classes)."""
    p = np.asarray(p, float)
    return -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(-1)


def divergence(p: ArrayLike, q: ArrayLike) -> NDArray[np.float64]:
    """Kullback-Leibler divergence D(p || q) in nats; infinite where q is zero and p is not."""
    p, q = np.asarray(p, float), np.asarray(q, float)
    with np.errstate(divide="ignore"):
        ratio = np.where(p > 0, np.log(np.where(p > 0, p, 1)) - np.log(q), 0)
    return np.where(p > 0, p * ratio, 0).sum(-1)


def collision_gap(p: ArrayLike, q: ArrayLike) -> NDArray[np.float64]:
    """Probability that a class drawn from p and one drawn from q differ: 1 - sum p q.

    The risks of p and q, of any true class, differ by no more.
    """
    return 1 - (np.asarray(p, float) * np.asarray(q, float)).sum(-1)


def risk_bound(p: ArrayLike, theta: ArrayLike) -> float:
    """Right-hand side of Theorem 2 (Eq. 9), 1 - E_x[exp(-theta - H(M(x)))].

    It bounds the mean of :func:`collision_gap` of p = M(x) and q = M(x + tau) if theta is at least
    D(p || q) for every allowed tau, by Jensen's inequality for the logarithm.

    Parameters
    ----------
    p : array of (images, classes)
        Distributions M(x).
    theta : float or array of (images,)
        One number for all images, as in the paper, or one each. May be infinite.
    """
    return float(1 - np.exp(-np.asarray(theta, float) - entropy(p)).mean())


@dataclass(frozen=True)
class Shape:
    """How normal a sample is. Skewness, excess kurtosis and distance of a normal one are 0.

    Parameters
    ----------
    count : int
    mean, std : float
    skewness, kurtosis : float
        Third and fourth moment of the standardised sample, 3 taken from the fourth.
    distance : float
        Kolmogorov-Smirnov: largest difference between the sample's distribution function and that
        of the normal distribution with its mean and deviation. No significance is given: values of
        one layer depend on each other.
    """

    count: int
    mean: float
    std: float
    skewness: float
    kurtosis: float
    distance: float


def shape_of(values: ArrayLike) -> Shape:
    """Return the :class:`Shape` of a sample of at least two different values, of any array shape.

    Raises
    ------
    ValueError
        If all values are equal.
    """
    values = np.sort(np.asarray(values, float), axis=None)
    mean, std = values.mean(), values.std()
    if not std > 0:
        raise ValueError("Values must not all be equal")
    z = (values - mean) / std
    normal = torch.special.ndtr(torch.from_numpy(z)).numpy()
    steps = np.arange(len(z) + 1) / len(z)
    return Shape(
        count=len(z),
        mean=float(mean),
        std=float(std),
        skewness=float((z**3).mean()),
        kurtosis=float((z**4).mean() - 3),
        distance=float(max((steps[1:] - normal).max(), (normal - steps[:-1]).max())),
    )
