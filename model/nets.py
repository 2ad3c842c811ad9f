"""The networks that SINAI converts: plain PyTorch, read top to bottom, shapes in comments.

Every network takes images in [0, 1], holds its own normalisation and returns logits. Convolutions
carry no bias: a batch-norm follows each of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.errors import InputError

__all__ = [
    "CIFAR_MEAN",
    "CIFAR_STD",
    "MODELS",
    "Normalize",
    "PostActivationBlock",
    "ResNet",
    "build",
]

#: Per-channel mean and standard deviation of the CIFAR-10 training images in [0, 1].
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)


class Normalize(nn.Module):
    """Subtract a per-channel mean and divide by a per-channel deviation; (B, 3, H, W) in [0, 1]."""

    def __init__(self, mean: Sequence[float] = CIFAR_MEAN, std: Sequence[float] = CIFAR_STD):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class PostActivationBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; ReLU after the sum (He et al. 2016, Figure 2).

    The shortcut is the identity, or a strided 1x1 convolution where the shape changes (option B).
    """

    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """Residual network of CIFAR geometry (He et al. 2016): 3x3 stem, no pooling before the stages.

    Parameters
    ----------
    depths : sequence of int
        Blocks of each stage. The first stage keeps the resolution, each further one halves it.
    width : int
        Channels of the first stage; each further stage doubles them.
    classes : int
        Number of logits.
    """

    def __init__(self, depths: Sequence[int], width: int, classes: int = 10):
        super().__init__()
        self.depths, self.width, self.classes = tuple(depths), width, classes
        self.normalize = Normalize()
        self.stem = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        blocks: list[nn.Module] = []
        c_in = width
        for stage, depth in enumerate(depths):
            for index in range(depth):
                stride = 2 if stage and not index else 1
                blocks.append(PostActivationBlock(c_in, width << stage, stride))
                c_in = width << stage
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(c_in, classes)

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, H, W) in [0, 1]
        x = F.relu(self.bn(self.stem(self.normalize(x))))  # (B, width, H, W)
        x = self.blocks(x)  # (B, 8 * width, H / 8, W / 8) for four stages
        return self.classifier(x.mean((2, 3)))  # (B, classes)


#: Network by name: stage depths and width of the first stage.
MODELS = {
    "resnet18": ((2, 2, 2, 2), 64),
    "tiny": ((1, 1), 8),
}


def build(name: str, classes: int = 10) -> ResNet:
    """Return an untrained network by its name in :data:`MODELS`.

    Raises
    ------
    InputError
        If the name is unknown.
    """
    if name not in MODELS:
        raise InputError(f"model must be one of {', '.join(sorted(MODELS))}, not {name!r}")
    depths, width = MODELS[name]
    return ResNet(depths, width, classes)
