"""The paper's theory measured on networks: projected inner products, z - z~, and Theorem 2."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..common.projection import ternary
from ..common.scheme import Scheme
from .calibrate import observe
from .chain import chain
from .checkpoint import FORMS, bundled, load
from .data import load as load_images
from .sinai import SinaiConv2d, convert, layers_of, select, set_scheme
from .theory import (
    Shape,
    collision_gap,
    divergence,
    entropy,
    inner_product_tail,
    inner_product_variance,
    risk_bound,
    shape_of,
)

__all__ = [
    "LayerNoise",
    "Projected",
    "Smoothed",
    "attack",
    "dense_copy",
    "layer_noise",
    "measure",
    "projected",
    "theorem_2",
    "windows",
]


@dataclass(frozen=True)
class Projected:
    """Errors of <P x, P w> in one layer, relative to |x| |w|, over windows x and channels w.

    Parameters
    ----------
    layer : str
    rows, taps : int
        Rows of P that are drawn, and taps that share them.
    predicted, measured : float
        Root mean square: by :func:`sinai.model.theory.inner_product_variance`, and of the draws.
    ratios : (draws,) tuple of float
        Measured over predicted mean square, of each draw of P.
    beyond : float
        Share of errors larger than `eps`.
    bound : float
        What Theorem 1 allows that share to be, at most.
    signal : float
        Root mean square of <x, w> itself, relative to |x| |w|.
    """

    layer: str
    rows: int
    taps: int
    predicted: float
    measured: float
    ratios: tuple[float, ...]
    beyond: float
    bound: float
    signal: float


@dataclass(frozen=True)
class LayerNoise:
    """The noise z~ - z of one layer on the inputs of the dense network.

    Parameters
    ----------
    layer : str
    unexplained : float
        Mean square of z~ - z over the variance of z about its mean of each channel.
    correlation : float
        Of z~ - z with z; 0 if the noise did not depend on the signal.
    pooled : Shape
        Of all values.
    standardised : Shape
        Of all values less their channel's mean, over its deviation.
    injected : Shape
        Of the values that Eq. 2 injects: those of neurons that are not essential.
    values : (n,) array
        Up to 20,000 of the standardised values, for a plot.
    """

    layer: str
    unexplained: float
    correlation: float
    pooled: Shape
    standardised: Shape
    injected: Shape
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Smoothed:
    """Theorem 2 on one reading of a network as a probabilistic mapping M.

    Parameters
    ----------
    reading : str
    certainty : float
        Mean of exp(-H(M(x))), in [1 / classes, 1].
    theta : float
        Largest D(M(x) || M(x + tau)) that the attack found; a lower estimate of the true one.
    bound, own_bound : float
        Theorem 2 with that theta, and with each image's own.
    gap : float
        Mean probability that draws from M(x) and M(x + tau) differ.
    risk, attacked_risk : float
        Expected share of wrong classes.
    """

    reading: str
    certainty: float
    theta: float
    bound: float
    own_bound: float
    gap: float
    risk: float
    attacked_risk: float


def measure(checkpoint: str, *, draws: int = 16, steps: int = 10) -> dict[str, Any]:
    """Measure a bundled checkpoint on the images bundled with it.

    Theorem 1 and the noise of every layer are measured on its test images, with both forms of P.
    Theorem 2 is measured on `tiny` alone, on its test and training images: the attacks take minutes
    on a larger network. Equal arguments give equal numbers on one computer.

    Returns
    -------
    dict
        ``projected`` and ``noise``: lists by form of P; ``theorem_2``: list by scheme.
    """
    loaded = load(checkpoint)
    where = f"npz:{bundled()[checkpoint] / 'images.npz'}"
    test, train = load_images(where, "test"), load_images(where, "train")
    x = torch.from_numpy(test.images).float() / 255
    made: dict[str, Any] = {"projected": {}, "noise": {}, "theorem_2": {}}
    for form in FORMS:
        net = loaded.floating(form)
        made["projected"][form] = projected(net, x, count=128)
        made["noise"][form] = layer_noise(net, x)
    if loaded.manifest.network == "tiny":
        x = torch.cat([x, torch.from_numpy(train.images).float() / 255])
        labels = torch.from_numpy(np.concatenate([test.labels, train.labels]))
        for scheme in ("unstructured:0.5", "unstructured:0.9"):
            made["theorem_2"][scheme] = theorem_2(
                loaded.floating(), x, labels, scheme=scheme, draws=draws, steps=steps
            )
    return made


def windows(layer: SinaiConv2d, x: Tensor, count: int, seed: int = 0) -> Tensor:
    """Up to `count` windows that are not all zero, of x (B, C, H, W): (count, d), tap-major, then
    channel, not quantised, drawn by `seed`."""
    rows = F.unfold(x, layer.kernel, padding=layer.padding, stride=layer.stride)
    rows = rows.unflatten(1, (layer.c_in, -1)).permute(0, 3, 2, 1).flatten(2).flatten(0, 1)
    rows = rows[rows.abs().sum(1) > 0]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return rows[order[:count]]


@torch.no_grad()
def projected(
    net: nn.Module, images: Tensor, *, count: int = 256, draws: int = 8, eps: float = 0.5
) -> list[Projected]:
    """Theorem 1 in every layer: `count` windows of the dense network times all channels.

    P is drawn `draws` times, with the rows and form of the layer, by seeds 0, 1, 2, ...; nothing is
    quantised or distilled.

    Parameters
    ----------
    net : Module
        A converted network.
    images : Tensor
        (B, 3, H, W) in [0, 1].
    """
    inputs = _inputs(net, images)
    found = []
    for index, (link, x, _) in enumerate(inputs):
        layer: SinaiConv2d = link.module
        taps = layer.kernel**2 if layer.projection == "tap" else 1
        rows, columns = layer.matrix.shape
        x = windows(layer, x, count).double()
        w = layer.weight.permute(0, 2, 3, 1).flatten(1).double()
        x, w = x / x.norm(dim=1, keepdim=True), w / w.norm(dim=1, keepdim=True)
        exact = x @ w.T
        variance = inner_product_variance(
            x.unsqueeze(1).numpy(), w.unsqueeze(0).numpy(), rows, taps=taps
        ).mean()
        errors = []
        for seed in range(draws):
            p = torch.from_numpy(ternary(rows, columns, (seed, index))).double()
            px, pw = (each.unflatten(1, (taps, -1)) @ p.T for each in (x, w))
            errors.append(px.flatten(1) @ pw.flatten(1).T * (3 / rows) - exact)
        error = torch.stack(errors)  # (draws, windows, channels)
        square = error.square()
        found.append(
            Projected(
                layer=link.name,
                rows=rows,
                taps=taps,
                predicted=float(variance**0.5),
                measured=float(square.mean().sqrt()),
                ratios=tuple((square.mean((1, 2)) / variance).tolist()),
                beyond=float((error.abs() > eps).double().mean()),
                bound=inner_product_tail(rows, eps, taps=taps),
                signal=float(exact.square().mean().sqrt()),
            )
        )
    return found


@torch.no_grad()
def layer_noise(
    net: nn.Module, images: Tensor, scheme: str | Scheme = "unstructured:0.9"
) -> list[LayerNoise]:
    """The noise z~ - z of every layer of a converted net on images (B, 3, H, W) in [0, 1].

    `scheme` says which neurons count as injected; it does not change the inputs, which are those
    of the dense network.
    """
    scheme = scheme if isinstance(scheme, Scheme) else Scheme.parse(scheme)
    found = []
    for link, x, z in _inputs(net, images):
        noisy = link.module.approximate(x)
        noise = (noisy - z).double()
        centred = z.double() - z.double().mean((0, 2, 3), keepdim=True)
        mean, std = noise.mean((0, 2, 3), keepdim=True), noise.std((0, 2, 3), keepdim=True)
        live = (std > 0).flatten()  # a dead channel has no noise
        standardised = ((noise - mean) / std)[:, live].flatten().numpy()
        step = max(1, len(standardised) // 20_000)
        both = torch.stack([noise.flatten(), z.double().flatten()])
        found.append(
            LayerNoise(
                layer=link.name,
                unexplained=float(noise.square().mean() / centred.square().mean()),
                correlation=float(torch.corrcoef(both)[0, 1]),
                pooled=shape_of(noise.numpy()),
                standardised=shape_of(standardised),
                injected=shape_of(noise[~select(noisy, scheme)].numpy()),
                values=standardised[::step][:20_000],
            )
        )
    return found


def theorem_2(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    scheme: str = "unstructured:0.9",
    eps: float = 8 / 255,
    steps: int = 10,
    draws: int = 16,
) -> list[Smoothed]:
    """Theorem 2 on four readings of a converted net; each is attacked by itself.

    Readings: the dense network with a class drawn from its softmax; the SINAI network with its one
    P, the class of the largest logit (what runs: M(x) is one class) and a class drawn from the
    softmax; P drawn anew for every query, W~ = W P^T without distillation, class from the softmax.
    The last is the mean over `draws` matrices P, the same ones before and after the attack.

    Parameters
    ----------
    images : Tensor
        (B, 3, H, W) in [0, 1].
    labels : Tensor
        (B,) classes.
    eps : float
        Of the attack, in the maximum norm.
    """
    net = set_scheme(copy.deepcopy(net), scheme)
    dense = dense_copy(net)
    pool = [convert(copy.deepcopy(dense), scheme, seed=1 + draw) for draw in range(draws)]
    readings = (
        ("dense, class from softmax", [dense], False),
        (f"{scheme}, one P, largest logit", [net], True),
        (f"{scheme}, one P, class from softmax", [net], False),
        (f"{scheme}, {draws} P, class from softmax", pool, False),
    )
    found = []
    for reading, members, hard in readings:
        moved = attack(members, images, labels, eps=eps, steps=steps)
        with torch.no_grad():
            p, q = (_classes(members, x, hard).numpy() for x in (images, moved))
        theta = divergence(p, q)
        right = np.arange(len(labels)), labels.numpy()
        found.append(
            Smoothed(
                reading=reading,
                certainty=float(np.exp(-entropy(p)).mean()),
                theta=float(theta.max()),
                bound=risk_bound(p, theta.max()),
                own_bound=risk_bound(p, theta),
                gap=float(collision_gap(p, q).mean()),
                risk=float(1 - p[right].mean()),
                attacked_risk=float(1 - q[right].mean()),
            )
        )
    return found


def attack(
    members: Sequence[nn.Module], images: Tensor, labels: Tensor, *, eps: float, steps: int
) -> Tensor:
    """Images within `eps` that raise the loss of the members' mean softmax: `steps` steps of
    projected sign ascent of 2.5 eps / steps, from the images themselves, through straight-through
    gradients."""
    moved = images.clone()
    for _ in range(steps):
        moved.requires_grad_()
        loss = -_classes(members, moved, hard=False).log()[range(len(labels)), labels].sum()
        [gradient] = torch.autograd.grad(loss, moved)
        moved = moved.detach() + 2.5 * eps / steps * gradient.sign()
        moved = torch.clamp(moved, images - eps, images + eps).clamp(0, 1)
    return moved


def dense_copy(net: nn.Module) -> nn.Module:
    """A copy of a converted net with plain convolutions: W x + b, batch-norm folded in."""
    net = copy.deepcopy(net)
    for layer in list(layers_of(net)):
        conv = nn.Conv2d(layer.c_in, layer.c_out, layer.kernel, layer.stride, layer.padding)
        conv.weight.data.copy_(layer.weight.data)
        conv.bias.data.copy_(layer.bias.data)
        net.set_submodule(layer.name, conv)
    return net


def _classes(members: Sequence[nn.Module], x: Tensor, hard: bool) -> Tensor:
    """Distribution over classes of x (B, 3, H, W), the mean over members: (B, classes)."""
    logits = torch.stack([member(x) for member in members]).double()
    if hard:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).double().mean(0)
    return logits.softmax(-1).mean(0)


def _inputs(net: nn.Module, images: Tensor) -> Iterator[tuple[Any, Tensor, Tensor]]:
    """Link, input and z of every layer of the dense network, in order of execution."""
    net = set_scheme(copy.deepcopy(net), "dense")
    seen: list[tuple[Any, Tensor, Tensor]] = []
    with torch.no_grad():
        observe(net, chain(net), images, lambda link, x, z: seen.append((link, x, z)))
    return iter(seen)
