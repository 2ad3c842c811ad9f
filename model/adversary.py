"""Adversarial images within training: one gradient an image, or PGD.

Attacks that measure robustness are in :mod:`sinai.model.attacks`; these are made for speed: no
checks, gradients of the images alone, the network in the mode and precision that it trains in.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .recipes import Recipe

__all__ = ["perturb"]


def perturb(net: nn.Module, x: Tensor, y: Tensor, recipe: Recipe) -> Tensor:
    """Return the images that `net` trains on in place of `x`, in [0, 1].

    ``fgsm`` is one step of eps from a start drawn within 2 eps, and is not projected: N-FGSM (de
    Jorge et al. 2022), which does not fall into catastrophic overfitting as one step within eps
    does. So it may leave eps, by up to 2 eps. ``pgd`` (Madry et al. 2018; Rice et al. 2020) starts
    within eps and stays there. Draws come from PyTorch's global generator.

    Parameters
    ----------
    x, y : float (B, 3, H, W) in [0, 1] and int64 (B,)
    """
    if recipe.adversary == "none":
        return x
    if recipe.adversary == "fgsm":
        start = x + torch.empty_like(x).uniform_(-2 * recipe.eps, 2 * recipe.eps)
        return (start + recipe.eps * _gradient(net, start, y).sign()).clamp_(0, 1)
    found = (x + torch.empty_like(x).uniform_(-recipe.eps, recipe.eps)).clamp_(0, 1)
    for _ in range(recipe.attack_steps):
        moved = found + recipe.attack_step * _gradient(net, found, y).sign()
        found = torch.clamp(moved, x - recipe.eps, x + recipe.eps).clamp_(0, 1)
    return found


def _gradient(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Of the loss with respect to the images."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(net(x), y, reduction="sum"), x)[0]
