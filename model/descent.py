"""foolbox's projected gradient ascent with any loss, and its momentum as its authors have it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .libraries import foolbox

__all__ = ["MomentumAscent", "SignAscent"]

#: Loss of images (B, ...) and labels (B,), to be raised: a number, the sum over images.
Loss = Callable[[Tensor, Tensor], Tensor]

_attacks = foolbox().attacks


class SignAscent(_attacks.LinfProjectedGradientDescentAttack):
    """PGD (Madry et al. 2017) on `loss`: steps along the sign of its gradient, projected."""

    def __init__(self, loss: Loss, **settings: Any):
        super().__init__(**settings)
        self.loss = loss

    def get_loss_fn(self, model: Any, labels: Any) -> Callable[[Any], Any]:
        return lambda images: type(images)(self.loss(images.raw, labels.raw))


class MomentumAscent(_attacks.LinfMomentumIterativeFastGradientMethod):
    """MI-FGSM (Dong et al. 2018, Algorithm 1): each gradient is divided by its L1 norm before it
    is accumulated; foolbox accumulates signs."""

    def normalize(self, gradients: Any, *, x: Any, bounds: Any) -> Any:
        raw = gradients.raw
        norm = raw.flatten(1).abs().sum(1).clamp(min=1e-30)
        return type(gradients)(raw / norm.view(-1, *[1] * (raw.ndim - 1)))
