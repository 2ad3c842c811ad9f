"""What an attacker differentiates through: views of a converted network with other gradients.

Every view but ``dense`` returns the very outputs of the network; only the gradient differs. An
attack is crafted on a view and judged on the network itself.

=================== ========================================================================
straight-through    the 4-bit path, each rounding taken for the identity inside its range
as-in-paper         the true derivative of rounding, zero: only essential neurons carry gradient
dense-path          BPDA (Athalye et al. 2018): z' forward, the gradient of z = W x + b backward
dense               another network: scheme ``dense``, whose examples are transferred
=================== ========================================================================

The mask is a constant for the gradient in each.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..common.errors import InputError
from .layers import SinaiLayer
from .sinai import layers_of, set_scheme

__all__ = ["GRADIENTS", "DensePath", "NoiseDistance", "view"]

#: Views by name.
GRADIENTS = ("straight-through", "as-in-paper", "dense-path", "dense")


def view(net: nn.Module, gradient: str) -> nn.Module:
    """Return a copy of a converted network in eval mode, with this gradient and frozen parameters.

    Raises
    ------
    InputError
        If the gradient is none of :data:`GRADIENTS`.
    """
    if gradient not in GRADIENTS:
        raise InputError(f"gradient must be one of {', '.join(GRADIENTS)}, not {gradient!r}")
    made = copy.deepcopy(net).eval().requires_grad_(False)
    through = "zero" if gradient == "as-in-paper" else "ste"
    for layer in layers_of(made):
        layer.switches = replace(layer.switches, gradient=through)
    if gradient == "dense":
        return set_scheme(made, "dense")
    if gradient == "dense-path":
        if isinstance(made, SinaiLayer):
            return DensePath(made)
        for name, layer in list(made.named_modules(remove_duplicate=False)):
            if isinstance(layer, SinaiLayer):
                made.set_submodule(name, DensePath(layer))
    return made


class DensePath(nn.Module):
    """A SINAI layer whose output is z' and whose gradient is that of z."""

    def __init__(self, layer: SinaiLayer):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            mixed = self.layer(x)
        exact = self.layer.exact(x)
        if self.layer.switches.activation != "none" and not self.layer.scheme.dense:
            exact = torch.relu(exact)
        return _Instead.apply(mixed, exact)


class _Instead(torch.autograd.Function):
    """The value of the first argument with the gradient of the second."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, path: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient


class NoiseDistance:
    """How far noise moves the layers of a network: mean |z' - z|^2 of the last forward pass.

    It watches every SINAI layer of `net`, in place of an earlier observer.

    Raises
    ------
    InputError
        If there is none.
    """

    def __init__(self, net: nn.Module):
        self.seen: list[Tensor] = []
        layers = list(layers_of(net))
        if not layers:
            raise InputError(
                f"network: {type(net).__name__} has no SINAI layer, whose noise the adaptive attack"
                " drives; leave the attack out"
            )
        for layer in layers:
            layer.observer = self._see

    def _see(self, layer: SinaiLayer, exact: Tensor, noise: Tensor, mixed: Tensor) -> None:
        self.seen.append((mixed - exact).square().flatten(1).mean(1))

    def take(self) -> Tensor:
        """Mean over the outputs of a layer, then over layers, of each image (B,); then forget."""
        distance = torch.stack(self.seen).mean(0)
        self.seen = []
        return distance
