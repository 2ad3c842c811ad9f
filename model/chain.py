"""The order in which the accelerator runs a network: one link a convolution, and what it reads.

Order and names are those of `sinai.traces.networks`. Pooling and the classifier run on the host
and are no links.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ..common.errors import InputError
from .resnet import PostActivationBlock, ResNet

__all__ = ["INPUT", "Link", "chain"]

#: Name of the tensor that the first layer reads.
INPUT = "input"


@dataclass(frozen=True)
class Link:
    """One convolution in the order of execution.

    Parameters
    ----------
    name : str
        Name of the module in the network.
    module : Module
        The convolution, converted or not.
    source : str
        Layer whose output it reads, or ``input``.
    residual : str
        Layer whose output is added to its own; empty if none.
    relu : bool
        Whether a ReLU follows the sum.
    """

    name: str
    module: nn.Module
    source: str
    residual: str
    relu: bool


def chain(net: nn.Module) -> tuple[Link, ...]:
    """Return the links of `net`, a ResNet of basic blocks with a small stem.

    A shortcut convolution runs right before the second convolution of its block, which adds its
    output.

    Raises
    ------
    InputError
        If the network is of another kind, for which there is no integer network.
    """
    basic = isinstance(net, ResNet) and isinstance(net.pool, nn.Identity)
    if not basic or not all(isinstance(block, PostActivationBlock) for block in net.blocks):
        raise InputError(
            f"network: {type(net).__name__} does not run in integers; only tiny and resnet18, the"
            " post-activation networks of basic blocks for small images, do"
        )
    links = [Link("stem", net.stem, INPUT, "", True)]
    previous = "stem"
    for index, block in enumerate(net.blocks):
        name = f"blocks.{index}"
        inner, residual = f"{name}.conv1", previous
        links.append(Link(inner, block.conv1, previous, "", True))
        if not isinstance(block.shortcut, nn.Identity):
            residual = f"{name}.shortcut.0"
            links.append(Link(residual, block.shortcut[0], previous, "", False))
        previous = f"{name}.conv2"
        links.append(Link(previous, block.conv2, inner, residual, True))
    return tuple(links)
