"""Fake quantisation: floating-point values on an integer grid, with a straight-through gradient.

Every rounding is half up, floor(x + 1/2), as the machine does it (`common.arithmetic.round_shift`),
not half to even as `torch.round` does.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["WEIGHT_TOP", "levels", "round_half_up", "to_grid", "weight_scale"]

#: Largest magnitude of a 4-bit weight: symmetric, so -8 is left out.
WEIGHT_TOP = 7


def round_half_up(x: Tensor, straight_through: bool = True) -> Tensor:
    """floor(x + 1/2); the gradient passes straight through, or is the true one, zero."""
    if not straight_through:
        return torch.floor(x + 0.5)
    return x + (torch.floor(x.detach() + 0.5) - x.detach())


def levels(
    x: Tensor, step: Tensor | float, low: int, high: int, straight_through: bool = True
) -> Tensor:
    """Return round(x / step) limited to [low, high], as whole numbers in floating point.

    The gradient is 1 / step inside the range and zero outside (straight-through estimator), or
    zero everywhere.
    """
    return round_half_up(torch.clamp(x / step, low, high), straight_through)


def to_grid(
    x: Tensor, step: Tensor | float, low: int, high: int, straight_through: bool = True
) -> Tensor:
    """Return the nearest multiple of `step` in [low * step, high * step]; shape of `x`."""
    return levels(x, step, low, high, straight_through) * step


def weight_scale(weight: Tensor, top: int = WEIGHT_TOP, whole: bool = False) -> Tensor:
    """Step of each output channel that maps its largest magnitude to `top`; (C, ...) -> (C,).

    `whole`: the same step for all, from the largest of all.
    """
    largest = weight.detach().abs().flatten(1).amax(1)
    if whole:
        largest = largest.max().expand(len(largest)).clone()
    return largest.clamp(min=torch.finfo(weight.dtype).tiny) / top
