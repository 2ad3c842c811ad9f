"""Residual networks: post-activation of basic or bottleneck blocks, and pre-activation.

Convolutions carry no bias where a batch-norm follows. Modules have the names of
`sinai.traces.networks`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize

__all__ = ["BottleneckBlock", "PostActivationBlock", "PreActResNet", "PreActivationBlock", "ResNet"]


class PostActivationBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; ReLU after the sum (He et al. 2016, Figure 2).

    The shortcut is the identity, or a strided 1x1 convolution where the shape changes (option B).
    """

    expansion = 1

    def __init__(self, c_in: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        conv2, bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.shortcut = _shortcut(c_in, width, stride)
        self.conv2, self.bn2 = conv2, bn2  # in the accelerator's order

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut; ReLU after the sum (He et al. 2016, Figure 5).

    The 3x3 convolution carries the stride, as in the form that is commonly trained ("v1.5").
    """

    expansion = 4

    def __init__(self, c_in: int, width: int, stride: int):
        super().__init__()
        c_out = width * self.expansion
        self.conv1 = nn.Conv2d(c_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(c_in, c_out, stride)
        self.conv3 = nn.Conv2d(width, c_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        shortcut = self.shortcut(x)
        return F.relu(self.bn3(self.conv3(y)) + shortcut)


def _shortcut(c_in: int, c_out: int, stride: int) -> nn.Module:
    if stride == 1 and c_in == c_out:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))


class ResNet(nn.Module):
    """Post-activation residual network (He et al. 2016).

    Parameters
    ----------
    depths : sequence of int
        Blocks of each stage. The first stage keeps the resolution, each further one halves it.
    width : int
        Width of the first stage's blocks; each further stage doubles it.
    classes : int
        Number of logits.
    block : type
        :class:`PostActivationBlock` or :class:`BottleneckBlock`.
    large : bool
        Stem of ImageNet (7x7 of stride 2, then max pooling by two) and its normalisation; else that
        of CIFAR: 3x3, no pooling.
    """

    def __init__(
        self,
        depths: Sequence[int],
        width: int,
        classes: int = 10,
        *,
        block: type[PostActivationBlock | BottleneckBlock] = PostActivationBlock,
        large: bool = False,
    ):
        super().__init__()
        self.depths, self.width, self.classes = tuple(depths), width, classes
        self.normalize = Normalize(IMAGENET_MEAN, IMAGENET_STD) if large else Normalize()
        kernel, stride = (7, 2) if large else (3, 1)
        self.stem = nn.Conv2d(3, width, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        blocks: list[nn.Module] = []
        c_in = width
        for stage, depth in enumerate(depths):
            for index in range(depth):
                stride = 2 if stage and not index else 1
                blocks.append(block(c_in, width << stage, stride))
                c_in = (width << stage) * block.expansion
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(c_in, classes)

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, H, W) in [0, 1]
        x = F.relu(self.bn(self.stem(self.normalize(x))))  # (B, width, H, W), or half the side
        x = self.blocks(self.pool(x))  # (B, C, H / 8, W / 8) for four stages of a small stem
        return self.classifier(x.mean((2, 3)))  # (B, classes)


class PreActivationBlock(nn.Module):
    """Batch-norm and ReLU before each of two 3x3 convolutions.

    He et al. 2016, "Identity Mappings in Deep Residual Networks". Where the shape
    changes, a strided 1x1 convolution of the activated input is the shortcut.
    """

    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Conv2d(c_in, c_out, 1, stride, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        y = self.conv1(active)
        if self.shortcut is not None:
            x = self.shortcut(active)
        return self.conv2(F.relu(self.bn2(y))) + x


class PreActResNet(nn.Module):
    """Pre-activation residual network of CIFAR geometry: PreActResNet-18 (as Rice et al. 2020 train
    it, with a last batch-norm and ReLU) and wide networks (Zagoruyko and Komodakis 2016).

    Parameters
    ----------
    depths, widths : sequence of int
        Blocks and channels of each stage. The first keeps the resolution, each further one halves
        it.
    stem : int
        Channels of the 3x3 stem.
    classes : int
        Number of logits.
    """

    def __init__(self, depths: Sequence[int], widths: Sequence[int], stem: int, classes: int = 10):
        super().__init__()
        self.classes = classes
        self.normalize = Normalize()
        self.stem = nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        blocks: list[nn.Module] = []
        c_in = stem
        for stage, (depth, c_out) in enumerate(zip(depths, widths, strict=True)):
            for index in range(depth):
                blocks.append(PreActivationBlock(c_in, c_out, 2 if stage and not index else 1))
                c_in = c_out
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(c_in)
        self.classifier = nn.Linear(c_in, classes)

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, H, W) in [0, 1]
        x = self.blocks(self.stem(self.normalize(x)))  # (B, C, H / 4, W / 4) for three stages
        return self.classifier(F.relu(self.bn(x)).mean((2, 3)))  # (B, classes)
