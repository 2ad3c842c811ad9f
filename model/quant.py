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


def round_half_up(x: Tensor) -> Tensor:
    """floor(x + 1/2); the gradient passes straight through."""
    return x + (torch.floor(x.detach() + 0.5) - x.detach())


def levels(x: Tensor, step: Tensor | float, low: int, high: int) -> Tensor:
    """Return round(x / step) limited to [low, high], as whole numbers in floating point.

    The gradient is 1 / step inside the range and zero outside (straight-through estimator).
    """
    return round_half_up(torch.clamp(x / step, low, high))


def to_grid(x: Tensor, step: Tensor | float, low: int, high: int) -> Tensor:
    """Return the nearest multiple of `step` in [low * step, high * step]; shape of `x`."""
    return levels(x, step, low, high) * step


def weight_scale(weight: Tensor) -> Tensor:
    """Step of each output channel that maps its largest magnitude to 7; weight (C, ...) -> (C,)."""
    top = weight.detach().abs().flatten(1).amax(1)
    return top.clamp(min=torch.finfo(weight.dtype).tiny) / WEIGHT_TOP
