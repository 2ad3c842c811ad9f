"""Noise-injection defences that the paper compares with (section 4, Baselines): PNI, L2P and RPF.

Overfitting adversarial training (Rice et al. 2020) is the fourth: training alone, on a network with
the defence ``none``.

Every defence draws from PyTorch's global generator in every forward pass, in train and eval mode
alike, so an attacker meets new noise at each step; ``torch.manual_seed`` makes a run repeatable.
Defended networks are plain state: build, defend, ``load_state_dict``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..common.errors import InputError
from .resnet import BottleneckBlock, PostActivationBlock, PreActivationBlock, PreActResNet, ResNet
from .sinai import layers_of
from .vit import TransformerBlock, VisionTransformer

__all__ = [
    "DEFENCES",
    "Defence",
    "FeatureNoise",
    "RandomFilters",
    "WeightNoise",
    "defend",
    "penalty",
    "randomised",
]

#: Start of alpha and of sigma (the code of He et al. 2019 and of Jeddi et al. 2020).
_START = 0.25

#: Smallest sigma and weight gamma of the regulariser (the code of Jeddi et al. 2020).
_LEAST, _GAMMA = 0.01, 1e-4

#: Layer of a network or block whose output, plus noise, is the sum that its next ReLU takes.
_LAST = {
    ResNet: "bn",
    PreActResNet: "stem",
    VisionTransformer: "patch_embed.proj",
    PostActivationBlock: "bn2",
    BottleneckBlock: "bn3",
    PreActivationBlock: "conv2",
    TransformerBlock: "mlp.fc2",
}


class WeightNoise(nn.Module):
    """Parametric noise injection into weights (PNI, He et al. 2019): w + alpha * eta.

    eta ~ N(0, std(w)^2) is drawn element by element; std is over all weights of the layer and, as
    in the authors' code, a constant for the gradient. One alpha a layer is learned, from 0.25.
    """

    def __init__(self, like: Tensor):
        super().__init__()
        self.alpha = nn.Parameter(like.new_tensor(_START))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.alpha * (torch.randn_like(weight) * weight.detach().std())


class RandomFilters(nn.Module):
    """Random projection filters (RPF, Dong and Xu 2023): the last `count` filters of a convolution.

    Each weight of them ~ N(0, 1 / K^2), K the side of the kernel, for all images of a forward pass.
    The filters before them are trained; as in the authors' code each is divided by its own standard
    deviation and by K, so that all filters are of one size.
    """

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The filters that stay: (N, C, K, K) -> (N - count, C, K, K)."""
        return weight[: len(weight) - self.count].clone()

    def forward(self, trained: Tensor) -> Tensor:  # (N - count, C, K, K)
        drawn = trained.new_empty(self.count, *trained.shape[1:]).normal_()
        spread = trained.flatten(1).std(1).view(-1, 1, 1, 1) + 1e-5
        return torch.cat([trained / spread, drawn]) / trained.shape[-1]  # (N, C, K, K)


class FeatureNoise(nn.Module):
    """Learned noise on features (L2P, Jeddi et al. 2020): x + sigma * N(0, 1), drawn per element.

    (B, C, H, W) or (B, T, C). The authors have one sigma an element and share one draw among the
    images of a batch. Chosen here: one sigma a channel, since networks are trained and run at
    several resolutions, and a draw for each image. A channel's sigma has the mean of its elements'
    gradients, so it moves as fast as theirs would on average; their sum would move it a thousand
    times faster. It starts at 0.25 and is raised to 0.01 where training has taken it below.

    Attributes
    ----------
    elements : int
        Elements of an image's features that one sigma served in the last forward pass.
    """

    def __init__(self, like: Tensor):
        super().__init__()
        self.sigma = nn.Parameter(like.new_full((len(like),), _START))  # (C,)
        self.elements = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            # The authors' clamp after a step, made before the next one; past autograd as theirs,
            # so that the graph of an earlier pass stays valid.
            self.sigma.data.clamp_(min=_LEAST)
        self.elements = x[0].numel() // len(self.sigma)
        sigma = self._shared().to(x.dtype)
        return x + torch.randn_like(x) * (sigma.view(-1, 1, 1) if x.dim() == 4 else sigma)

    def growth(self) -> Tensor:
        """Sum of sqrt(sigma) over elements, a channel's sigma counting once for each of its own."""
        return self.elements * self._shared().sqrt().sum()

    def _shared(self) -> Tensor:
        """sigma, with the mean over its elements in place of the sum as its gradient."""
        fixed = self.sigma.detach()
        shared = fixed + (self.sigma - fixed) / max(self.elements, 1)
        return shared.clamp(min=_LEAST)


@dataclass(frozen=True)
class Defence:
    """A defence by name.

    Parameters
    ----------
    change : callable
        ``change(net, generator)`` puts it into a network, in place.
    meaning : str
        One line for help texts and documents.
    """

    change: Callable[[nn.Module, torch.Generator], None]
    meaning: str


def defend(net: nn.Module, name: str, *, seed: int) -> nn.Module:
    """Put a defence into a network of :mod:`sinai.model.nets`, in place, and return it.

    It is to be trained afterwards: weights from before are kept, but for the stem of ``rpf``.

    Parameters
    ----------
    name : str
        One of :data:`DEFENCES`.
    seed : int
        Seed of initial weights that a defence draws: those of the trained filters of ``rpf``.
        Noise does not depend on it.

    Raises
    ------
    InputError
        If the name is unknown, or the network is defended or converted already or has no place for
        the defence.
    """
    if name not in DEFENCES:
        raise InputError(f"defence must be one of {', '.join(DEFENCES)}, not {name!r}")
    if _defended(net):
        raise InputError(f"network: {type(net).__name__} has a defence already; build it anew")
    if name != "none" and any(True for _ in layers_of(net)):
        raise InputError(
            f"network: {type(net).__name__} is converted already, and noise of {name} would be lost"
            " on its SINAI layers; defend a network that is not"
        )
    DEFENCES[name].change(net, torch.Generator().manual_seed(seed))
    return net


def penalty(net: nn.Module, epoch: int = 1) -> Tensor:
    """Return what training adds to its loss: the regulariser of L2P, zero for other networks.

    -gamma / H(epoch) * sum of sqrt(sigma) over the elements of an image's features (Jeddi et al.
    2020, Eq. 7), gamma = 1e-4 as in the authors' code, H(n) = 1 + 1/2 + ... + 1/n: it keeps sigma
    growing, ever less. Elements are those of the last forward pass, so call it after one.

    The authors take a step along this gradient before each one along that of the loss; a sum of
    both was chosen.

    Parameters
    ----------
    epoch : int
        Epochs begun with noise, counted from 1.

    Raises
    ------
    InputError
        If the epoch is below 1.
    """
    if epoch < 1:
        raise InputError(f"epoch must be at least 1, not {epoch}")
    harmonic = sum(1 / i for i in range(1, epoch + 1))
    total = next(net.parameters()).new_zeros(())
    for module in net.modules():
        if isinstance(module, FeatureNoise):
            total = total - _GAMMA / harmonic * module.growth()
    return total


def randomised(net: nn.Module) -> bool:
    """Whether outputs of `net` change from pass to pass: by a defence, or as a score is random."""
    return _defended(net) or any(layer.switches.score == "random" for layer in layers_of(net))


def _defended(net: nn.Module) -> bool:
    kinds = (WeightNoise, RandomFilters, FeatureNoise)
    return any(isinstance(module, kinds) for module in net.modules())


def _pni(net: nn.Module, generator: torch.Generator) -> None:
    layers = [m for m in net.modules() if type(m) in (nn.Conv2d, nn.Linear)]
    if not layers:
        raise InputError(f"network: {type(net).__name__} has no Conv2d or Linear layer for pni")
    for layer in layers:
        # unsafe means unchecked: a check would draw noise
        parametrize.register_parametrization(
            layer, "weight", WeightNoise(layer.weight), unsafe=True
        )


def _rpf(net: nn.Module, generator: torch.Generator) -> None:
    """48 of 64 filters, as the authors have it; chosen: three quarters of any other stem."""
    stem = next((m for m in net.modules() if isinstance(m, nn.Conv2d)), None)
    if stem is None or stem.out_channels < 2:
        raise InputError(
            f"network: {type(net).__name__} has no convolution of two filters or more for rpf"
        )
    random = RandomFilters(3 * stem.out_channels // 4)
    parametrize.register_parametrization(stem, "weight", random, unsafe=True)
    trained = stem.parametrizations.weight.original
    with torch.no_grad():  # chosen: they start as the random ones, so none is told from another
        trained.copy_(torch.randn(trained.shape, generator=generator) / stem.kernel_size[0])


def _l2p(net: nn.Module, generator: torch.Generator) -> None:
    """After the stem and after every block, before the ReLU of the sum, as the authors have it."""
    if type(net) not in _LAST:
        raise InputError(
            f"network: {type(net).__name__} is none of sinai.model.nets, so l2p does not know its"
            " blocks; use pni or rpf"
        )
    names = [_LAST[type(net)]]
    names += [f"blocks.{index}.{_LAST[type(block)]}" for index, block in enumerate(net.blocks)]
    for name in names:
        layer = net.get_submodule(name)
        noise = FeatureNoise(layer.weight).train(layer.training)
        net.set_submodule(name, nn.Sequential(layer, noise))


#: Defences by name.
DEFENCES = {
    "none": Defence(lambda net, generator: None, "no noise"),
    "pni": Defence(_pni, "noise on all weights, its size learned layer by layer"),
    "l2p": Defence(_l2p, "noise on features after stem and blocks, its size learned by channel"),
    "rpf": Defence(_rpf, "three quarters of the stem's filters random"),
}
