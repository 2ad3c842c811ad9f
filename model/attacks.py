"""Attacks on converted networks: those of the paper and those that find out what it hides.

foolbox gives FGSM, PGD, MI-FGSM and C&W, pyautoattack gives AutoAttack and Square. Ours are the
loss of the adaptive attack (paper, appendix E), the mean over draws of a randomised network (EOT)
and the gradients of :mod:`sinai.model.gradients`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.errors import InputError
from .baselines import randomised
from .gradients import NoiseDistance, view
from .libraries import autoattack as autoattack_library
from .libraries import foolbox
from .pool import Pool

__all__ = ["ATTACKS", "Attack", "Settings", "attack", "remarks"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Numbers of the attacks; the defaults are the paper's (appendix D) where it has them.

    Parameters
    ----------
    eps : float
        Largest change of a value of a pixel, in (0, 1], images being in [0, 1].
    step, steps : float, int
        Of PGD, with a random start, and what is made of it: EOT, adaptive, BPDA, transfer.
    mifgsm_steps, decay : int, float
        MI-FGSM, with the same `step`.
    cw_c, cw_steps, cw_lr : float, int, float
        C&W: weight of misclassification against the squared L2 distance (at the paper's 1e-4 it is
        nearly no attack), steps and learning rate of Adam; margin 0, one c and no search.
    autoattack_steps : int
        Steps of both APGD attacks (the official number is 100), of FAB as well.
    queries : int
        Of Square, alone and within AutoAttack, and of random sampling.
    eot : int
        Forward passes whose losses are averaged.
    noise_weight : float
        Lambda of the adaptive attack (assumed 1; the paper gives none).
    unbounded_steps, unbounded_step : int, float
        PGD with eps = 1.
    """

    eps: float = 8 / 255
    step: float = 2 / 255
    steps: int = 20
    mifgsm_steps: int = 5
    decay: float = 1.0
    cw_c: float = 1e-4
    cw_steps: int = 1000
    cw_lr: float = 0.01
    autoattack_steps: int = 20
    queries: int = 5000
    eot: int = 20
    noise_weight: float = 1.0
    unbounded_steps: int = 100
    unbounded_step: float = 8 / 255

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "eps" and not 0 < value <= 1:
                raise InputError(f"eps must be above 0 and at most 1, not {value:g}")
            if field.type == "int" and value < 1:
                raise InputError(f"{field.name} must be at least 1, not {value}")
            if not 0 <= value < float("inf"):
                raise InputError(f"{field.name} must be a number of at least 0, not {value}")


@dataclass(frozen=True)
class Attack:
    """An attack by name.

    Parameters
    ----------
    run : callable
        ``run(view, images, labels, settings, seed)`` returns images of the same shape.
    meaning : str
        One line for help texts and documents.
    gradients : tuple of str
        Views that it is crafted on; empty if it needs no gradient.
    bounded : bool
        Whether its images stay within eps.
    needs_layers : bool
        Whether the network must have SINAI layers.
    """

    run: Callable[[nn.Module, Tensor, Tensor, Settings, int], Tensor]
    meaning: str
    gradients: tuple[str, ...] = ("straight-through", "as-in-paper")
    bounded: bool = True
    needs_layers: bool = False


def attack(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    name: str,
    *,
    gradient: str = "straight-through",
    settings: Settings | None = None,
    seed: int = 0,
) -> Tensor:
    """Attack a converted network and return the images found, in [0, 1].

    They differ from `images` by at most eps, unless the attack is not bounded. Where C&W finds
    nothing, the image comes back as it was. `net` itself is not changed, nor is the state of
    PyTorch's random numbers.

    Parameters
    ----------
    net : Module
        Takes images in [0, 1] and returns logits; a :class:`sinai.model.pool.Pool` draws a member
        for each forward pass.
    images : float (B, C, H, W)
        In [0, 1], on the device of `net`.
    labels : int64 (B,)
    name : str
        One of :data:`ATTACKS`.
    gradient : str
        One of :data:`sinai.model.gradients.GRADIENTS`; without meaning for ``square``.

    Raises
    ------
    InputError
        If the name or the gradient is unknown, or images are not in [0, 1].
    MissingError
        If a library is not installed.
    """
    if name not in ATTACKS:
        raise InputError(f"attack must be one of {', '.join(ATTACKS)}, not {name!r}")
    if images.numel() and not 0 <= images.min() <= images.max() <= 1:
        raise InputError("images must be in [0, 1]")
    settings = settings or Settings()
    if not len(images):
        return images.clone()
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        crafted = view(net, gradient)
        if isinstance(crafted, Pool):
            crafted.random.seed(seed)
        images = images.contiguous()
        found = ATTACKS[name].run(crafted, images, labels, settings, seed).detach()
    if ATTACKS[name].bounded:
        found = torch.clamp(found, images - settings.eps, images + settings.eps)
    return found.clamp(0, 1)


@contextmanager
def remarks() -> Iterator[list[str]]:
    """Collect what AutoAttack's own checks say within the block, each remark once."""
    found: list[str] = []

    class _Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage().split(" See flags_doc")[0]
            if text not in found:
                found.append(text)

    logger, handler = logging.getLogger("auto-attack"), _Keep(logging.WARNING)
    passed_on, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.propagate = passed_on


def _fgsm(net: nn.Module, x: Tensor, y: Tensor, s: Settings, seed: int) -> Tensor:
    """Goodfellow et al. 2014: one step of eps, no random start."""
    return _ascend(net, x, y, _entropy(net), s.eps, s.eps, 1, random_start=False)


def _pgd(net: nn.Module, x: Tensor, y: Tensor, s: Settings, seed: int) -> Tensor:
    """Madry et al. 2017, from a random start."""
    return _ascend(net, x, y, _entropy(net), s.eps, s.step, s.steps)


def _unbounded(net: nn.Module, x: Tensor, y: Tensor, s: Settings, seed: int) -> Tensor:
    """PGD with eps = 1: any image at all."""
    free = replace(s, eps=1.0, step=s.unbounded_step, steps=s.unbounded_steps)
    return _pgd(net, x, y, free, seed)


def _eot(net: nn.Module, x: Tensor, y: Tensor, s: Settings, seed: int) -> Tensor:
    """Athalye et al. 2018: PGD on the mean loss of `eot` forward passes, each with its draw."""
    once = _entropy(net)

    def mean(x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([once(x, y) for _ in range(s.eot)]).mean()

    return _ascend(net, x, y, mean, s.eps, s.step, s.steps)


def _adaptive(net: nn.Module, x: Tensor, y: Tensor, s: Settings, seed: int) -> Tensor:
    """Paper, appendix E: PGD that raises cross-entropy + lambda * mean |z' - z|^2.

    The paper minimises the loss of a label y_t less the distance of noisy from noiseless
    activations. Untargeted, that is to raise the loss of the true label and the distance.
    """
    distance = NoiseDistance(net)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        entropy = F.cross_entropy(net(x), y, reduction="sum")
        return entropy + s.noise_weight * distance.take().sum()

    return _ascend(net, x, y, loss, s.eps, s.step, s.steps)


def _mifgsm(net: nn.Module, x: Tensor, y: Tensor, s: Settings, seed: int) -> Tensor:
    from .descent import MomentumAscent

    method = MomentumAscent(momentum=s.decay, abs_stepsize=s.step, steps=s.mifgsm_steps)
    return method.run(_wrapped(net, x), x, y, epsilon=s.eps)


def _cw(net: nn.Module, x: Tensor, y: Tensor, s: Settings, seed: int) -> Tensor:
    """Carlini and Wagner 2017 in L2, with one constant c.

    Where it finds nothing foolbox returns a black image, which may well be misclassified.
    """
    method = foolbox().attacks.L2CarliniWagnerAttack(
        binary_search_steps=1, steps=s.cw_steps, stepsize=s.cw_lr, initial_const=s.cw_c
    )
    found = method.run(_wrapped(net, x), x, y)
    black = found.flatten(1).amax(1) == 0
    return torch.where(black.view(-1, *[1] * (x.ndim - 1)), x, found)


def _square(net: nn.Module, x: Tensor, y: Tensor, s: Settings, seed: int) -> Tensor:
    """Andriushchenko et al. 2020: random search, no gradient."""
    method = autoattack_library().square.SquareAttack(
        net,
        norm="Linf",
        n_queries=s.queries,
        eps=s.eps,
        seed=seed,
        device=x.device,
        resc_schedule=False,
    )
    return method.perturb(x, y)


@torch.no_grad()
def _random(net: nn.Module, x: Tensor, y: Tensor, s: Settings, seed: int) -> Tensor:
    """Images drawn evenly within eps, until one fools the network (Athalye et al. 2018, 3.1)."""
    found, left = x.clone(), torch.arange(len(x), device=x.device)
    for _ in range(s.queries):
        if not len(left):
            break
        drawn = (x[left] + torch.empty_like(x[left]).uniform_(-s.eps, s.eps)).clamp(0, 1)
        fooled = net(drawn).argmax(1) != y[left]
        found[left[fooled]] = drawn[fooled]
        left = left[~fooled]
    return found


def _autoattack(net: nn.Module, x: Tensor, y: Tensor, s: Settings, seed: int) -> Tensor:
    """Croce and Hein 2020: APGD-CE, targeted APGD-DLR, targeted FAB, Square.

    On a randomised network the version for such: APGD-CE and APGD-DLR, each over `eot` draws.
    The targeted DLR loss needs four classes and DLR three; below, the attacks are those that work.
    """
    with torch.no_grad():
        classes = net(x[:1]).shape[1]
    draws = s.eot if isinstance(net, Pool) or randomised(net) else 1
    if draws > 1:
        names = ["apgd-ce", "apgd-dlr"]
    elif classes > 3:
        names = ["apgd-ce", "apgd-t", "fab-t", "square"]
    else:
        names = ["apgd-ce", "apgd-dlr", "fab", "square"]
    if classes < 3:
        names.remove("apgd-dlr")
    method = autoattack_library().AutoAttack(
        _contiguous(net),
        norm="Linf",
        eps=s.eps,
        seed=seed,
        version="custom",
        attacks=names,
        device=x.device,
    )
    targets = min(9, classes - 1)
    for part in (method.apgd, method.apgd_targeted, method.fab):
        part.n_iter, part.n_restarts = s.autoattack_steps, 1
    method.apgd.eot_iter = draws
    method.apgd_targeted.n_target_classes = method.fab.n_target_classes = targets
    method.square.n_queries = s.queries
    found, _ = method.run_standard_evaluation(x, y, batch_size=len(x))
    return found


class _Contiguous(torch.autograd.Function):
    """The identity, whose gradient is contiguous: APGD cannot read one in channels-last order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous()


def _contiguous(net: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: net(_Contiguous.apply(x))


def _entropy(net: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy, summed over images, so that an image's gradient is its own."""
    return lambda x, y: F.cross_entropy(net(x), y, reduction="sum")


def _ascend(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    eps: float,
    step: float,
    steps: int,
    random_start: bool = True,
) -> Tensor:
    from .descent import SignAscent

    method = SignAscent(loss, abs_stepsize=step, steps=steps, random_start=random_start)
    return method.run(_wrapped(net, x), x, y, epsilon=eps)


def _wrapped(net: nn.Module, x: Tensor) -> object:
    return foolbox().PyTorchModel(net, bounds=(0, 1), device=x.device)


#: Attacks by name, in the order of tables.
ATTACKS = {
    "fgsm": Attack(_fgsm, "one step of eps along the sign of the gradient"),
    "mifgsm": Attack(_mifgsm, "iterated FGSM with momentum"),
    "pgd": Attack(_pgd, "projected gradient ascent from a random start"),
    "cw": Attack(_cw, "Carlini and Wagner in L2; not bounded by eps", bounded=False),
    "autoattack": Attack(_autoattack, "APGD-CE, APGD-T, FAB-T and Square"),
    "eot": Attack(_eot, "PGD on the mean loss over draws"),
    "adaptive": Attack(
        _adaptive, "PGD that also drives noise from the exact outputs", needs_layers=True
    ),
    "unbounded": Attack(_unbounded, "PGD with eps = 1; must reach 0", bounded=False),
    "bpda": Attack(_pgd, "PGD with the gradient of the exact outputs", ("dense-path",)),
    "transfer": Attack(_pgd, "PGD crafted on the dense network", ("dense",)),
    "square": Attack(_square, "random search by queries, no gradient", ()),
    "random": Attack(_random, "images drawn at random, no gradient", ()),
}
