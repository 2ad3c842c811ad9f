"""The one integer arithmetic: what RTL, integer model and tests agree on, bit for bit.

Plain functions on numpy integer arrays, written from the definition of the phases (docs,
"Numbers"). Matrix products run in floating point where every partial sum is exactly representable
(below 2**24 in float32, below 2**53 in float64), which is what makes them fast.

Shapes: P is the number of output pixels, C the channels, d and k the exact and projected depth.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ACC_BITS",
    "INT4",
    "approximate",
    "clamp",
    "exact",
    "project",
    "psum4",
    "psum16",
    "rank_of_group",
    "requantise",
    "round_shift",
    "sat16",
    "select_rank",
    "select_threshold",
    "threshold_of_top_k",
    "write_back",
]

Ints = NDArray[np.integer]

#: Width of an accumulator, in bits: d up to 32767 products of two 16-bit words and a 32-bit bias
#: cannot overflow it.
ACC_BITS = 48

#: Smallest and largest signed 4-bit value.
INT4 = (-8, 7)


def clamp(v: Ints, low: int, high: int) -> Ints:
    """Limit every element to [low, high]."""
    return np.minimum(np.maximum(v, low), high)


def sat16(v: Ints) -> Ints:
    """Saturate to signed 16 bit."""
    return clamp(v, -(1 << 15), (1 << 15) - 1)


def round_shift(v: Ints, r: int) -> Ints:
    """round(v >> r): add half a step, then shift right arithmetically; r = 0 leaves v.

    Ties go up: round_shift(-1, 1) = 0, round_shift(1, 1) = 1. `r` is 0 to 62, so that a 48-bit
    accumulator times a 16-bit multiplier plus half a step stays within int64.
    """
    if not 0 <= r <= 62:
        raise ValueError(f"Shift must be between 0 and 62, not {r}")
    v = np.asarray(v, dtype=np.int64)
    return v if r == 0 else (v + (1 << (r - 1))) >> r


def requantise(acc: Ints, bias: Ints, multiplier: Ints, shift: int) -> Ints:
    """sat16(round(((acc + bias) * multiplier) >> shift)): accumulators (..., C) to int16 values.

    `bias` is int32 and `multiplier` int16, both (C,); the shift is one for the layer.
    """
    total = np.asarray(acc, dtype=np.int64) + np.asarray(bias, dtype=np.int64)
    limit = 1 << (ACC_BITS - 1)
    if total.size and (total.min() < -limit or total.max() >= limit):
        raise OverflowError(f"Accumulator exceeds {ACC_BITS} bits")
    return sat16(round_shift(total * np.asarray(multiplier, dtype=np.int64), shift))


def psum16(x: Ints, w: Ints) -> Ints:
    """Sum of int16 products over the last axis: one word of a VPU with every PSE in 16-bit mode."""
    return (np.asarray(x, np.int64) * np.asarray(w, np.int64)).sum(-1)


def psum4(x: Ints, w: Ints) -> Ints:
    """Sum of int4 products over the last axis (16 a PSE): the 4-bit mode. Operands are nibbles
    already decoded to -8..7."""
    return (np.asarray(x, np.int64) * np.asarray(w, np.int64)).sum(-1)


def project(xq: Ints, p: Ints, shift: int) -> NDArray[np.int8]:
    """p = clamp4(round((P x^Q) >> shift)); xq (P, d) in -8..15, p (k, d) in {-1, 0, 1} -> (P, k).

    Sums stay below 15 * 32767 < 2**24, so float32 is exact.
    """
    sums = np.asarray(xq, np.float32) @ np.asarray(p, np.float32).T
    return clamp(round_shift(sums.astype(np.int64), shift), *INT4).astype(np.int8)


def approximate(
    p: Ints, weights: Ints, bias: Ints, multiplier: Ints, shift: int
) -> NDArray[np.int16]:
    """z~ = sat16(round(((W~ p) + b~) * M~ >> r~)); p (P, k) int4, weights (C, k) int4 -> (P, C)."""
    sums = np.asarray(p, np.float32) @ np.asarray(weights, np.float32).T  # |.| <= 64 k < 2**24
    return requantise(sums.astype(np.int64), bias, multiplier, shift).astype(np.int16)


def exact(x: Ints, weights: Ints, bias: Ints, multiplier: Ints, shift: int) -> NDArray[np.int16]:
    """z = sat16(round(((W x) + b) * M >> r)); x (P, d) int16, weights (C, d) int16 -> (P, C).

    Partial sums stay below 2**30 * 32767 < 2**53, so float64 is exact.
    """
    if x.shape[-1] > 32767:
        raise ValueError(f"Depth must be at most 32767, not {x.shape[-1]}")
    sums = np.asarray(x, np.float64) @ np.asarray(weights, np.float64).T
    return requantise(sums.astype(np.int64), bias, multiplier, shift).astype(np.int16)


def threshold_of_top_k(z: Ints, count: int) -> int:
    """theta, the `count`-th largest value of z (any shape): z >= theta keeps at least `count`.

    32768 keeps nothing (count 0); -32768 keeps everything.
    """
    flat = np.asarray(z).ravel()
    if count <= 0:
        return 1 << 15
    if count >= flat.size:
        return -(1 << 15)
    return int(np.partition(flat, flat.size - count)[flat.size - count])


def select_threshold(z: Ints, theta: int) -> NDArray[np.bool_]:
    """Essential where z~ >= theta (17-bit signed), the unstructured selection."""
    return np.asarray(z, np.int32) >= theta


def rank_of_group(z: Ints) -> Ints:
    """rank_i = #{j: z_j > z_i or (z_j = z_i and j < i)} along the last axis (one group)."""
    z = np.asarray(z, np.int32)
    order = np.argsort(-z, axis=-1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(z.shape[-1]), z.shape), axis=-1)
    return ranks


def select_rank(z: Ints, essential: int, group: int = 8) -> NDArray[np.bool_]:
    """Essential where the rank in its group of consecutive channels is below `essential`.

    z is (..., C); the last group may be partial, of c channels: it keeps min(essential, c).
    """
    channels = z.shape[-1]
    mask = np.zeros(z.shape, dtype=bool)
    whole = channels - channels % group
    if whole:
        grouped = z[..., :whole].reshape(*z.shape[:-1], -1, group)
        mask[..., :whole] = (rank_of_group(grouped) < essential).reshape(*z.shape[:-1], whole)
    if whole < channels:
        mask[..., whole:] = rank_of_group(z[..., whole:]) < essential
    return mask


def write_back(
    v: Ints,
    residual: Ints | None,
    gain: Ints,
    offset: Ints,
    gain_shift: int,
    relu: bool,
    quantise_shift: int,
    unsigned: bool,
) -> tuple[NDArray[np.int16], NDArray[np.int16], NDArray[np.int8]]:
    """Return (s, y, y^Q) of the selected values v (P, C) int16.

    s = sat16(v + residual); y = sat16(round((s * gain) >> gain_shift) + offset), ReLU if asked;
    y^Q = clamp(round(y >> quantise_shift)) to [0, 15] if `unsigned`, else to [-8, 7].
    """
    s = np.asarray(v, np.int64)
    if residual is not None:
        s = sat16(s + np.asarray(residual, np.int64))
    y = sat16(
        round_shift(s * np.asarray(gain, np.int64), gain_shift) + np.asarray(offset, np.int64)
    )
    if relu:
        y = np.maximum(y, 0)
    low, high = (0, 15) if unsigned else INT4
    yq = clamp(round_shift(y, quantise_shift), low, high)
    return s.astype(np.int16), y.astype(np.int16), yq.astype(np.int8)
