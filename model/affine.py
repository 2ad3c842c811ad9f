"""A batch-norm that follows a residual sum, as the affine of the layer that makes the sum."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

__all__ = ["affine", "set_affine"]

_INT16 = (1 << 15) - 1


def affine(
    norm: nn.BatchNorm2d, sum_scale: float, y_scale: float
) -> tuple[NDArray[np.int16], NDArray[np.float64], int]:
    """Return gain (C,), offset (C,) and the shift with y = (s * gain >> shift) + offset.

    s and y are whole numbers of steps of `sum_scale` and `y_scale`; the offset is a whole number,
    too, but may be too large for int16. The shift is the one with the least mean squared error of
    y, by the batch-norm's own statistics, and y is right at the mean of s. So a channel that hardly
    varies, whose gain can be hundreds of times that of the others, costs them no precision.
    """
    mean, var = norm.running_mean.double().cpu().numpy(), norm.running_var.double().cpu().numpy()
    gamma, beta = (p.detach().double().cpu().numpy() for p in (norm.weight, norm.bias))
    ratio = gamma / np.sqrt(var + norm.eps) * (sum_scale / y_scale)
    whole = int(np.floor(np.log2(_INT16 / max(np.abs(ratio).max(), 1e-12))))
    best = (np.inf, 0, np.zeros_like(ratio))
    for shift in range(min(max(whole, 0), 62), min(max(whole + 15, 0), 62) + 1):
        gain = np.clip(np.floor(ratio * 2.0**shift + 0.5), -_INT16, _INT16)
        error = float((np.square(ratio - gain * 2.0**-shift) * var).sum())
        if error < best[0]:
            best = error, shift, gain
    _, shift, gain = best
    offset = beta / y_scale - gain * 2.0**-shift * (mean / sum_scale)
    return gain.astype(np.int16), np.floor(offset + 0.5), shift


@torch.no_grad()
def set_affine(norm: nn.BatchNorm2d, gain: NDArray[np.float64], offset: NDArray[np.float64]):
    """Make `norm` compute gain * s + offset, in real values."""
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)
    norm.weight.copy_(torch.from_numpy(gain))
    norm.bias.copy_(torch.from_numpy(offset))
