"""Scales of a network's activations, from what it computes on a few images.

One step of x^Q is a power of two times one step of the 16-bit value, since the accelerator shifts.
So each stream of activations chooses the step that gives the least 4-bit error first; the 16-bit
step is that divided by as large a power of two as the range allows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .chain import INPUT, Link
from .quant import levels
from .sinai import SinaiConv2d

__all__ = ["Scales", "calibrate", "observe", "rows_at", "shift_of_p", "streams", "sums_of"]

#: A stream may grow by this factor over what calibration saw before it saturates.
HEADROOM = 2.0

#: Steps tried in each octave.
_PHASES = 8


@dataclass(frozen=True)
class Scales:
    """Steps of one tensor: value = `scale` * int16, and x^Q has steps of `scale` * 2**`shift`."""

    scale: float
    shift: int
    unsigned: bool

    @property
    def step(self) -> float:
        """Value of one step of x^Q."""
        return self.scale * 2.0**self.shift


@torch.no_grad()
def observe(
    net: nn.Module,
    links: Sequence[Link],
    images: Tensor,
    visit: Callable[[Link, Tensor, Tensor], None],
) -> Tensor:
    """Run `net` on images (B, 3, H, W) in [0, 1]; ``visit(link, x, z')`` sees every layer."""
    handles = [
        link.module.register_forward_hook(
            lambda module, args, out, link=link: visit(link, args[0], out)
        )
        for link in links
    ]
    try:
        return net(images)
    finally:
        for handle in handles:
            handle.remove()


def streams(links: Sequence[Link]) -> list[list[str]]:
    """Group the names of tensors that must share a scale: a sum and everything added to it."""
    group = {INPUT: [INPUT]}
    for link in links:
        members = group[link.residual] if link.residual else []
        members.append(link.name)
        group[link.name] = members
    return list({id(members): members for members in group.values()}.values())


@torch.no_grad()
def calibrate(
    net: nn.Module, links: Sequence[Link], images: Tensor, seed: int = 0
) -> dict[str, Scales]:
    """Choose scales of every tensor by name (``input`` and the layers).

    The 4-bit step of a tensor minimises the mean squared error of x^Q over a sample of its values,
    up to the common factor that tensors of one residual stream share.
    """
    values: dict[str, NDArray[np.float32]] = {}
    largest: dict[str, float] = {link.name: 0.0 for link in links} | {INPUT: 0.0}
    generator = torch.Generator().manual_seed(seed)

    def visit(link: Link, x: Tensor, z: Tensor) -> None:
        if link.source not in values:
            flat = x.flatten()
            chosen = torch.randint(len(flat), (1 << 17,), generator=generator)
            values[link.source] = flat[chosen].numpy()
        largest[link.source] = max(largest[link.source], x.abs().max().item())
        largest[link.name] = max(largest[link.name], z.abs().max().item())

    observe(net, links, images, visit)
    unsigned = {INPUT: False} | {link.name: link.relu for link in links}
    scales = {}
    for stream in streams(links):
        errors = {name: _errors(values[name], unsigned[name]) for name in stream if name in values}
        steps = _shared_steps(errors)
        top = max(largest[name] for name in stream) * (1 if stream == [INPUT] else HEADROOM)
        reference = next(iter(steps.values()), top / 8)
        scale = reference * 2.0 ** np.ceil(np.log2(top / 32767 / reference))
        for name in stream:
            shift = round(np.log2(steps[name] / scale)) if name in steps else 0
            scales[name] = Scales(float(scale), max(shift, 0), unsigned[name])
    return scales


def _errors(values: NDArray[np.float32], unsigned: bool) -> dict[int, float]:
    """Mean squared 4-bit error by step 2**(index / 8), over the useful steps."""
    low, high = (0, 15) if unsigned else (-8, 7)
    top = int(np.ceil(_PHASES * np.log2(max(np.abs(values).max(), 1e-6) / high)))
    errors = {}
    for index in range(top - 5 * _PHASES, top + 1):
        step = 2.0 ** (index / _PHASES)
        rounded = np.clip(np.floor(values / step + 0.5), low, high) * step
        errors[index] = float(np.square(values - rounded, dtype=np.float64).mean())
    return errors


def _shared_steps(errors: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """Steps with the smallest errors that differ by powers of two only."""
    best: tuple[float, dict[str, int]] = (np.inf, {})
    for phase in range(_PHASES):
        chosen, total = {}, 0.0
        for name, curve in errors.items():
            index = min((i for i in curve if i % _PHASES == phase), key=curve.__getitem__)
            chosen[name] = index
            total += curve[index] / max(min(curve.values()), 1e-30)
        if total < best[0]:
            best = total, chosen
    return {name: 2.0 ** (index / _PHASES) for name, index in best[1].items()}


@torch.no_grad()
def rows_at(layer: SinaiConv2d, x: Tensor, at: Tensor) -> Tensor:
    """Windows of x^Q at output positions `at` (B, n), row-major; x (B, C, H, W) -> (B * n, d).

    Whole numbers; tap-major, then channel. The layer must have its `x_step`.
    """
    low, high = (0, 15) if layer.x_unsigned else (-8, 7)
    x = levels(x, layer.x_step, low, high)
    pad = layer.padding
    x = nn.functional.pad(x, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
    width = (x.shape[2] - layer.kernel) // layer.stride + 1
    top, left = at // width * layer.stride, at % width * layer.stride
    image = torch.arange(len(x)).unsqueeze(1)
    taps = [x[image, top + i, left + j] for i in range(layer.kernel) for j in range(layer.kernel)]
    return torch.stack(taps, 2).flatten(2).flatten(0, 1)


@torch.no_grad()
def sums_of(layer: SinaiConv2d, rows: Tensor) -> Tensor:
    """P x^Q of rows (n, d) -> (n, k), before the shift."""
    if layer.projection == "patch":
        return rows @ layer.matrix.T
    return (rows.view(len(rows), -1, layer.c_in) @ layer.matrix.T).flatten(1)


def shift_of_p(sums: Tensor) -> int:
    """sp with the smallest mean squared error of clamp4(round(sums >> sp)) << sp."""
    errors = {}
    for shift in range(12):
        error = sums - levels(sums, 2.0**shift, -8, 7) * 2.0**shift
        errors[shift] = error.square().mean().item()
    return min(errors, key=errors.__getitem__)
