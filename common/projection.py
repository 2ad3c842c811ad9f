"""The random projection P: how deep it is, and its entries.

One source for the model, which multiplies by P, and for the traces, which count its nonzeros.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .layer import ceil_div

__all__ = ["DISTORTION", "k_jll", "projected_depth", "ternary"]

#: eps of the Johnson-Lindenstrauss bound; the paper gives no k. Assumed: 0.5.
DISTORTION = 0.5

#: 2**16 / 6, rounded: sixteen random bits below it give +1, as many at the top give -1. The
#: probabilities differ from 1/6 by 5e-6.
_SIXTH = round((1 << 16) / 6)


def k_jll(n: int, distortion: float = DISTORTION) -> int:
    """Rows of P that keep the distances of `n` points within a factor of 1 +- `distortion`.

    floor(4 ln n / (eps^2 / 2 - eps^3 / 3)) (Dasgupta and Gupta 2003), at least 1; SINAI's points
    are the n rows of the weights.
    """
    bound = 4 * math.log(n) / (distortion**2 / 2 - distortion**3 / 3)
    return max(1, math.floor(bound))


def projected_depth(
    d: int, n: int, kernel: int, projection: str = "patch", rows: int | None = None
) -> int:
    """k of a layer with depth `d`, `n` output channels and a `kernel` x `kernel` window.

    `patch`: min(d, k_jll(n)), or min(d, `rows`) where that is given. `tap`: that rounded up to a
    multiple of four rows for each of the kernel's taps: k = taps * 4 * ceil(k / (4 * taps)).
    """
    k = min(d, k_jll(n) if rows is None else rows)
    if projection == "patch":
        return k
    if projection == "tap":
        taps = kernel**2
        return taps * 4 * ceil_div(k, 4 * taps)
    raise ValueError(f"Projection must be patch or tap, not {projection!r}")


def ternary(rows: int, columns: int, key: tuple[int, int]) -> NDArray[np.int8]:
    """P without its factor sqrt(3 / k): (rows, columns) of -1, 0, 1 with 1/6, 2/3, 1/6 (paper,
    section 3.2).

    Parameters
    ----------
    rows, columns : int
        k and d for projection `patch`; k / taps and C_in for `tap`.
    key : (int, int)
        Seed of the network and index of the layer in order of execution. Equal keys and shapes
        give equal matrices with every version of numpy: only raw bits of PCG64 are used.
    """
    count = rows * columns
    words = np.random.PCG64(np.random.SeedSequence(key)).random_raw(ceil_div(count, 4))
    bits = words.astype("<u8").view("<u2")[:count]
    entries = (bits < _SIXTH).astype(np.int8)
    entries -= bits >= (1 << 16) - _SIXTH
    return entries.reshape(rows, columns)
