"""Steps of x^Q and P x^Q and static thresholds of any converted network, from a few images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..common.errors import InputError
from ..common.scheme import Scheme
from .layers import Observer, SinaiLayer
from .quant import levels
from .selection import score_of, threshold_of
from .sinai import layers_of, set_scheme

__all__ = ["observed", "set_steps", "set_thresholds", "step_of", "under_scheme"]

#: Values of a tensor on which its step is chosen, drawn evenly.
_SAMPLE = 1 << 16

#: Steps tried, as shares of the one that just reaches the largest value.
_SHARES = torch.logspace(-5, 0, 41, base=2)


@contextmanager
def observed(net: nn.Module, observer: Observer) -> Iterator[None]:
    """Let `observer` see every converted layer's z, z~ and z' while this lasts."""
    layers = list(layers_of(net))
    before = [layer.observer for layer in layers]
    for layer in layers:
        layer.observer = observer
    try:
        yield
    finally:
        for layer, old in zip(layers, before, strict=True):
            layer.observer = old


@contextmanager
def under_scheme(net: nn.Module, scheme: str | Scheme) -> Iterator[None]:
    """Give every converted layer another scheme while this lasts; thresholds are kept."""
    layers = list(layers_of(net))
    before = [(layer.scheme, layer.theta.clone()) for layer in layers]
    set_scheme(net, scheme)
    try:
        yield
    finally:
        for layer, (old, theta) in zip(layers, before, strict=True):
            layer.scheme = old
            layer.theta.copy_(theta)


def step_of(x: Tensor, low: int, high: int) -> Tensor:
    """Step with the least mean squared error of x rounded to levels `low` to `high`; a scalar."""
    flat = x.flatten()[:: max(x.numel() // _SAMPLE, 1)]
    top = flat.abs().max().clamp(min=1e-12) / high
    steps = [top * float(share) for share in _SHARES]
    errors = [(flat - levels(flat, s, low, high) * s).square().mean() for s in steps]
    return steps[int(torch.stack(errors).argmin())]


@torch.no_grad()
def set_steps(net: nn.Module, images: Tensor) -> nn.Module:
    """Fix the steps of every converted layer on its inputs of the dense network; returns `net`.

    The step of x^Q and the shift of P x^Q are those of the least mean squared error. x^Q is
    unsigned where no input is negative. `images` (B, 3, H, W) in [0, 1], or what the network takes.
    """

    def visit(layer: SinaiLayer, args: tuple[Tensor, ...]) -> None:
        if layer.switches.input_bits == 32:
            layer.x_step.fill_(1)
            return
        x = layer._wide(args[0])
        unsigned = bool(x.min() >= 0)
        low, high = layer.switches.input_range(unsigned)
        layer.x_step.copy_(step_of(x, low, high))
        layer.x_unsigned.fill_(unsigned)
        sums = layer.project_levels(levels(x, layer._wide(layer.x_step), low, high))
        low, high = layer.switches.input_range(False)
        shifts = range(1 + max(int(torch.log2(sums.abs().max().clamp(min=1))), 1))
        errors = [(sums - levels(sums, 2.0**s, low, high) * 2.0**s).square().mean() for s in shifts]
        layer.p_shift.fill_(int(torch.stack(errors).argmin()))

    handles = [layer.register_forward_pre_hook(visit) for layer in layers_of(net)]
    try:
        with under_scheme(net, "dense"):
            net(images)
    finally:
        for handle in handles:
            handle.remove()
    return net


@torch.no_grad()
def set_thresholds(net: nn.Module, images: Tensor) -> nn.Module:
    """Fix theta of every layer at its present unstructured scheme, for ``threshold="static"``.

    theta is the K-th largest score over all `images` together, found layer by layer in one pass, so
    that each layer sees what the static layers before it give. Returns `net`.

    Raises
    ------
    InputError
        If a layer's scheme is not unstructured.
    """
    for layer in layers_of(net):
        if layer.scheme.structured or layer.scheme.dense:
            raise InputError(
                f"layer {layer.name}: a static threshold needs an unstructured scheme, not"
                f" {layer.scheme}"
            )

    def visit(layer: SinaiLayer, args: tuple[Tensor, ...]) -> None:
        score = score_of(layer.approximate(args[0]), layer.switches.score).flatten()
        count = layer.scheme.essential_count(len(score))
        none = torch.full_like(layer.theta, torch.inf)
        layer.theta.copy_(threshold_of(score[None], count)[0, 0] if count else none)

    handles = [layer.register_forward_pre_hook(visit) for layer in layers_of(net)]
    try:
        net(images)
    finally:
        for handle in handles:
            handle.remove()
    return net
