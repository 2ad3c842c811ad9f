"""A pool of approximations: several (P, W~, b~) of one network, one drawn for each batch.

The paper's P is constant; Figure 1c calls the noise randomised. A pool makes it so: members share
W, b and everything else that is exact. An attacker who averages over the randomness draws inside
the attack: with ``draw="forward"`` every forward pass draws.
"""

from __future__ import annotations

import copy
import random

from torch import Tensor, nn

from ..common.errors import InputError
from .sinai import layers_of

__all__ = ["Pool"]


class Pool(nn.Module):
    """Members with different P that share all exact parameters and buffers.

    Parameters
    ----------
    net : Module
        A converted network; it becomes member 0.
    size : int
        Members, at least 1. Member i has the seed of P plus i; its W~ starts as W P^T.
    draw : {"batch", "forward"}
        ``forward``: each pass draws a member. ``batch``: :meth:`redraw` does, and passes between
        use the same.
    seed : int
        Seed of the draws.

    Raises
    ------
    InputError
        If `net` has no SINAI layer, or a number or word is out of range.
    """

    def __init__(self, net: nn.Module, size: int, *, draw: str = "forward", seed: int = 0):
        super().__init__()
        if size < 1:
            raise InputError(f"size of the pool must be at least 1, not {size}")
        if draw not in ("batch", "forward"):
            raise InputError(f"draw must be batch or forward, not {draw!r}")
        if not any(True for _ in layers_of(net)):
            raise InputError(f"network: {type(net).__name__} has no SINAI layer; convert it first")
        self.draw, self.index = draw, 0
        self.random = random.Random(seed)
        self.members = nn.ModuleList([net, *(_member(net, i) for i in range(1, size))])

    def redraw(self) -> int:
        """Draw a member and return its index."""
        self.index = self.random.randrange(len(self.members))
        return self.index

    def forward(self, x: Tensor) -> Tensor:
        if self.draw == "forward":
            self.redraw()
        return self.members[self.index](x)


def _member(net: nn.Module, offset: int) -> nn.Module:
    """A copy of `net` with other P, sharing the tensors that are not of the approximation."""
    layers = list(layers_of(net))
    own = {id(t) for k in layers for t in (k.noise_weight, k.noise_bias, *k.buffers())}
    tensors = [*net.parameters(), *net.buffers()]
    made = copy.deepcopy(net, {id(t): t for t in tensors if id(t) not in own})
    for layer in layers_of(made):
        layer.reproject((layer.key[0] + offset, layer.key[1]))
    return made
