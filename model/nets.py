"""The networks by name: plain PyTorch whose shapes are those of `sinai.traces.networks`.

Every network takes images in [0, 1], holds its own normalisation, returns logits and ends in a
Linear layer `classifier`. Names are the same in both places, and a test holds the layers equal.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from ..common.errors import InputError
from .normalize import CIFAR_MEAN, CIFAR_STD, Normalize
from .resnet import BottleneckBlock, PostActivationBlock, PreActResNet, ResNet
from .vit import VisionTransformer

__all__ = [
    "CIFAR_MEAN",
    "CIFAR_STD",
    "MODELS",
    "Normalize",
    "PostActivationBlock",
    "PreActResNet",
    "ResNet",
    "VisionTransformer",
    "build",
]

#: Network by name; each is called with ``classes``.
MODELS: dict[str, Callable[..., nn.Module]] = {
    "tiny": partial(ResNet, (1, 1), 8),
    "resnet18": partial(ResNet, (2, 2, 2, 2), 64),
    "wrn34_10": partial(PreActResNet, (5, 5, 5), (160, 320, 640), 16),
    "resnet50": partial(ResNet, (3, 4, 6, 3), 64, block=BottleneckBlock, large=True),
    "vit_b16": partial(VisionTransformer, 12, 768, 12, side=224, patch=16),
    "preactresnet18": partial(PreActResNet, (2, 2, 2, 2), (64, 128, 256, 512), 64),
    "resnet18_224": partial(ResNet, (2, 2, 2, 2), 64, large=True),
    "resnet50_32": partial(ResNet, (3, 4, 6, 3), 64, block=BottleneckBlock),
    "tiny_preact": partial(PreActResNet, (1, 1), (8, 16), 8),
    "tiny_wrn": partial(PreActResNet, (2, 1), (16, 32), 8),
    "tiny_resnet50": partial(ResNet, (1, 1), 8, block=BottleneckBlock, large=True),
    "tiny_vit": partial(VisionTransformer, 2, 32, 2, side=32, patch=8),
}


def build(name: str, classes: int = 10) -> nn.Module:
    """Return an untrained network by its name in :data:`MODELS`.

    Raises
    ------
    InputError
        If the name is unknown.
    """
    if name not in MODELS:
        raise InputError(f"model must be one of {', '.join(sorted(MODELS))}, not {name!r}")
    return MODELS[name](classes=classes)
