"""The order in which the accelerator runs a network: one link a convolution, and what it reads.

Order and names are those of `sinai.traces.networks`. Pooling and the classifier run on the host
and are no links.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..common.errors import InputError
from .resnet import BottleneckBlock, PreActivationBlock, PreActResNet, ResNet

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
        Layer whose output is added to its own; empty if none. Of a layer with a `norm` that is its
        sum, else what later layers read, too.
    relu : bool
        Whether a ReLU follows the sum.
    norm : BatchNorm2d, optional
        Batch-norm between the sum and the ReLU, which folds into no convolution.
    pool : Module, optional
        Pooling behind the ReLU, on the host.
    """

    name: str
    module: nn.Module
    source: str
    residual: str
    relu: bool
    norm: nn.Module | None = None
    pool: nn.Module | None = None

    def finish(self, v: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return what later layers add and what they read of outputs v (B, C, H, W)."""
        s = v if residual is None else v + residual
        y = s if self.norm is None else self.norm(s)
        y = torch.relu(y) if self.relu else y
        y = y if self.pool is None else self.pool(y)
        return (y if self.norm is None else s), y


def chain(net: nn.Module) -> tuple[Link, ...]:
    """Return the links of a residual network whose batch-norms are folded where that is possible.

    A shortcut convolution runs right before the last convolution of its block, which adds its
    output.

    Raises
    ------
    InputError
        If the network is of another kind, for which there is no integer network.
    """
    if isinstance(net, ResNet):
        return _post_activation(net)
    if isinstance(net, PreActResNet):
        return _pre_activation(net)
    raise InputError(
        f"network: {type(net).__name__} does not run in integers; only residual networks, those of"
        " sinai.model.resnet, do"
    )


def _post_activation(net: ResNet) -> tuple[Link, ...]:
    links = [Link("stem", net.stem, INPUT, "", True, pool=_present(net.pool))]
    previous = "stem"
    for index, block in enumerate(net.blocks):
        name = f"blocks.{index}"
        inner, residual = [block.conv1], previous
        if isinstance(block, BottleneckBlock):
            inner.append(block.conv2)
        source = previous
        for number, module in enumerate(inner, start=1):
            links.append(Link(f"{name}.conv{number}", module, source, "", True))
            source = links[-1].name
        if _present(block.shortcut) is not None:
            residual = f"{name}.shortcut.0"
            links.append(Link(residual, block.shortcut[0], previous, "", False))
        last = f"conv{len(inner) + 1}"
        previous = f"{name}.{last}"
        links.append(Link(previous, getattr(block, last), source, residual, True))
    return tuple(links)


def _pre_activation(net: PreActResNet) -> tuple[Link, ...]:
    """The batch-norm in front of a block belongs to the layer before it, and the last one of the
    network to the last block."""
    blocks: list[PreActivationBlock] = [*net.blocks]
    after = [_present(norm) for norm in (*(block.bn1 for block in blocks), net.bn)]
    links = [Link("stem", net.stem, INPUT, "", True, after[0])]
    previous = "stem"
    for index, block in enumerate(blocks):
        name = f"blocks.{index}"
        inner, residual = f"{name}.conv1", previous
        links.append(Link(inner, block.conv1, previous, "", True, _present(block.bn2)))
        if block.shortcut is not None:
            residual = f"{name}.shortcut"
            links.append(Link(residual, block.shortcut, previous, "", False))
        previous = f"{name}.conv2"
        links.append(Link(previous, block.conv2, inner, residual, True, after[index + 1]))
    return tuple(links)


def _present(module: nn.Module) -> nn.Module | None:
    """The module, or None for an Identity, which folding leaves behind."""
    return None if isinstance(module, nn.Identity) else module
