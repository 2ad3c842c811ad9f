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

from .affine import affine
from .chain import INPUT, Link
from .quant import levels
from .sinai import SinaiConv2d

__all__ = [
    "Scales",
    "calibrate",
    "observe",
    "p_of",
    "rows_at",
    "shift_of_p",
    "streams",
    "sums_of",
]

#: A stream may grow by this factor over what calibration saw before it saturates.
HEADROOM = 2.0

#: Steps tried in each octave.
_PHASES = 8


@dataclass(frozen=True)
class Scales:
    """Steps of what a layer writes, or of the image.

    Parameters
    ----------
    scale : float
        Value of one step of y, which later layers read.
    shift : int
        x^Q has steps of `scale` * 2**`shift`.
    unsigned : bool
        Whether x^Q is in [0, 15] rather than [-8, 7].
    sum_scale : float
        Value of one step of z, z~ and s; another than `scale` only where a batch-norm is between.
    """

    scale: float
    shift: int
    unsigned: bool
    sum_scale: float

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
    values, sums, reads = _watch(net, links, images, seed)
    norms = {link.name: link.norm for link in links if link.norm is not None}
    unsigned = {INPUT: False} | {link.name: link.relu for link in links}
    scales = {}
    for stream in streams(links):
        # What a batch-norm makes of a sum is in no stream, and only then is it another tensor.
        plain = [name for name in stream if name not in norms]
        top = max([sums[name] for name in stream] + [reads[name] for name in plain])
        scale, shifts = _choose(
            {name: _errors(values[name], unsigned[name]) for name in plain if name in values},
            top * (1 if stream == [INPUT] else HEADROOM),
        )
        for name in plain:
            scales[name] = Scales(scale, shifts.get(name, 0), unsigned[name], scale)
        for name in set(stream) - set(plain):
            errors = {name: _errors(values[name], unsigned[name])} if name in values else {}
            top = reads[name] * HEADROOM
            y_scale, shifts = _choose(errors, top)
            while np.abs(affine(norms[name], scale, y_scale)[1]).max() > 32767:
                top *= 2
                y_scale, shifts = _choose(errors, top)
            scales[name] = Scales(y_scale, shifts.get(name, 0), unsigned[name], scale)
    return scales


def _watch(
    net: nn.Module, links: Sequence[Link], images: Tensor, seed: int
) -> tuple[dict[str, NDArray[np.float32]], dict[str, float], dict[str, float]]:
    """Run `net`; return a sample of what is read of each tensor that any layer reads, and the
    largest magnitude of the sums and of what is read, by name."""
    values: dict[str, NDArray[np.float32]] = {}
    sums: dict[str, float] = {link.name: 0.0 for link in links} | {INPUT: 0.0}
    reads = dict(sums)
    generator = torch.Generator().manual_seed(seed)

    def visit(link: Link, x: Tensor, z: Tensor) -> None:
        if link.source not in values:
            flat = x.flatten()
            chosen = torch.randint(len(flat), (1 << 17,), generator=generator)
            values[link.source] = flat[chosen.to(flat.device)].cpu().numpy()
        reads[link.source] = max(reads[link.source], x.abs().max().item())
        sums[link.name] = max(sums[link.name], z.abs().max().item())

    def see(link: Link, s: Tensor, normalised: Tensor) -> None:
        sums[link.name] = max(sums[link.name], s.abs().max().item())
        reads[link.name] = max(reads[link.name], normalised.max().item())

    handles = [
        link.norm.register_forward_hook(
            lambda module, args, out, link=link: see(link, args[0], out)
        )
        for link in links
        if link.norm is not None
    ]
    try:
        observe(net, links, images, visit)
    finally:
        for handle in handles:
            handle.remove()
    return values, sums, reads


def _choose(errors: Mapping[str, Mapping[int, float]], top: float) -> tuple[float, dict[str, int]]:
    """A scale that reaches `top`, and the shift of each tensor with `errors`."""
    steps = _shared_steps(errors)
    top = max(top, 1e-6)
    reference = next(iter(steps.values()), top / 8)
    scale = reference * 2.0 ** np.ceil(np.log2(top / 32767 / reference))
    shifts = {name: max(round(np.log2(step / scale)), 0) for name, step in steps.items()}
    return float(scale), shifts


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
    image = torch.arange(len(x), device=x.device).unsqueeze(1)
    taps = [x[image, top + i, left + j] for i in range(layer.kernel) for j in range(layer.kernel)]
    return torch.stack(taps, 2).flatten(2).flatten(0, 1)


@torch.no_grad()
def sums_of(layer: SinaiConv2d, rows: Tensor) -> Tensor:
    """P x^Q of rows (n, d) -> (n, k), before the shift."""
    if layer.projection == "patch":
        return rows @ layer.matrix.T
    return (rows.view(len(rows), -1, layer.c_in) @ layer.matrix.T).flatten(1)


def p_of(layer: SinaiConv2d, sums: Tensor) -> Tensor:
    """p of the sums P x^Q (n, k) of a layer that has its `p_shift`."""
    if not layer.switches.requantise:
        return sums
    return levels(sums, 2.0**layer.p_shift, *layer.switches.input_range(False))


def shift_of_p(sums: Tensor, shifts: Sequence[float] = range(12)) -> float:
    """sp with the smallest mean squared error of clamp4(round(sums >> sp)) << sp, of `shifts`."""
    errors = {}
    for shift in shifts:
        error = sums - levels(sums, 2.0**shift, -8, 7) * 2.0**shift
        errors[shift] = error.square().mean().item()
    return min(errors, key=errors.__getitem__)
