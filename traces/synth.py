"""Synthetic masks with the statistics of real ones, for networks that nobody has trained.

One score per neuron stands for z~, and every scheme selects from it as the machine would: the K
largest of a layer, or the N largest of each group of channels. The score is

    probit(rate of the channel in this image) + sqrt(s) * position + sqrt(1 - s) * texture

with `position` a smooth field that all channels share, `texture` a less smooth one of each channel,
both standard normal. So a channel is essential at its rate; s is solved for the coefficient of
variation over positions, the smoothness of the texture for the correlation of adjacent positions.
Rates are drawn from a Beta distribution, dead channels apart, and dealt to the channels in an order
that is correlated from image to image. Layers are independent of each other: real ones are not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ..common.cases import random_spec
from ..common.errors import InputError
from ..common.layer import Layer
from ..common.scheme import Scheme
from . import networks
from .mask_statistics import Point, Statistics, bundled_statistics
from .operands import LayerOperands
from .schema import Manifest, Trace, make

__all__ = ["largest_of_groups", "synthesise", "top_k"]

#: Score of a channel that is never essential, in standard deviations of the rest.
_DEAD = -8.0

#: Images, and pixels of each, from which a channel's density is estimated.
_CALIBRATION = (32, 16)


def synthesise(
    network: str,
    scheme: Scheme | str,
    images: int = 1,
    seed: int = 0,
    statistics: Statistics | None = None,
    *,
    layers: Sequence[Layer] | None = None,
    operands: bool = False,
    command: str = "",
) -> Trace:
    """Return a synthetic trace; the same arguments give the same masks with one version of numpy.

    Parameters
    ----------
    network : str
        A network of :data:`sinai.traces.networks.NETWORKS`, or any name if `layers` is given.
    scheme : Scheme or str
        Noise scheme.
    images : int
        At least 1. The first images do not depend on how many follow.
    seed : int
        Not negative. Equal seeds give equal scores for schemes of equal ratio.
    statistics : Statistics, optional
        Those bundled with the package if omitted.
    layers : sequence of Layer, optional
        Geometry of a network that is not built in.
    operands : bool
        Draw operands too, over their whole ranges. The masks do not follow from them: hardware has
        to be given both.
    command : str
        Command to record in the manifest.

    Raises
    ------
    InputError
        If the network or the scheme is unknown, or `images` or `seed` is out of range.
    """
    if images < 1:
        raise InputError(f"images must be at least 1, not {images}")
    if seed < 0:
        raise InputError(f"seed must not be negative, not {seed}")
    if isinstance(scheme, str):
        scheme = Scheme.parse(scheme)
    if layers is None:
        layers = networks.layers(network)
    if statistics is None:
        statistics = bundled_statistics()
    masks: list[NDArray[np.bool_]] = []
    densities: list[NDArray[np.float32]] = []
    for index, layer in enumerate(() if scheme.dense else layers):
        point = statistics.at(float(scheme.ratio), index / max(1, len(layers) - 1))
        mask, density = _layer_masks(layer, scheme, images, (seed, index), point)
        masks.append(mask)
        densities.append(density)
    if scheme.structured:
        selection = f"{scheme.essential_of_group} largest synthetic scores of {scheme.group}"
    else:
        selection = "all" if scheme.dense else "top-k of a synthetic score per image"
    manifest = Manifest(
        network=network,
        synthetic=True,
        scheme=str(scheme),
        selection=selection,
        noise_target=float(scheme.ratio),
        seed=seed,
        image_indices=tuple(range(images)),
        one_net=True,
        command=command,
        versions={
            "numpy": np.__version__,
            "sinai": metadata.version("sinai"),
            "statistics": hashlib.sha256(statistics.to_json().encode()).hexdigest(),
        },
        layers=layers,
    )
    drawn = None
    if operands:
        drawn = [_operands(layer, images, (seed, index)) for index, layer in enumerate(layers)]
    return make(manifest, masks, densities or None, drawn)


def _operands(layer: Layer, images: int, seed: tuple[int, int]) -> LayerOperands:
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    spec = random_spec(rng, layer)
    size = (images, layer.h_in, layer.w_in, layer.c_in)
    low, high = (0, 16) if layer.unsigned_input else (-8, 8)
    residual = None
    if layer.residual:
        residual = rng.integers(-(1 << 15), 1 << 15, (images, layer.pixels, layer.c_out), np.int16)
    return LayerOperands(
        spec,
        rng.integers(-(1 << 15), 1 << 15, size, np.int16),
        rng.integers(low, high, size, np.int8),
        residual,
    )


def top_k(score: NDArray[np.floating], count: int) -> NDArray[np.bool_]:
    """Mark exactly the `count` largest elements; of equal ones those that come first in memory."""
    flat = score.ravel()
    if count <= 0:
        return np.zeros(score.shape, dtype=bool)
    if count >= flat.size:
        return np.ones(score.shape, dtype=bool)
    threshold = np.partition(flat, flat.size - count)[flat.size - count]
    mask = flat > threshold
    ties = np.flatnonzero(flat == threshold)
    mask[ties[: count - np.count_nonzero(mask)]] = True
    return mask.reshape(score.shape)


def largest_of_groups(score: NDArray[np.floating], count: int, group: int) -> NDArray[np.bool_]:
    """Mark exactly min(count, c) of each `group` consecutive elements of the last axis, c of them
    in the last group; of equal ones those that come first."""
    channels = score.shape[-1]
    whole = channels - channels % group
    mask = np.empty(score.shape, dtype=bool)
    for start, stop, size in ((0, whole, group), (whole, channels, channels - whole)):
        if start == stop:
            continue
        groups = score[..., start:stop].reshape(-1, size)
        if not 0 < count < size:
            chosen = np.full(groups.shape, count > 0)
        else:
            threshold = np.partition(groups, size - count, axis=1)[:, size - count, None]
            chosen = groups >= threshold
            for row in np.flatnonzero(chosen.sum(1) != count):
                chosen[row] = top_k(groups[row], count)
        mask[..., start:stop] = chosen.reshape(*score.shape[:-1], stop - start)
    return mask


@dataclass(frozen=True)
class _Field:
    """Parameters of a layer's score.

    Parameters
    ----------
    probits : (C,) array
        Probits of the channels' rates, in ascending order, dead channels first.
    rates : (C,) array
        The rates themselves.
    dead : int
        Number of dead channels.
    persistence, shared, position, texture : float
        Correlation of a channel's rank between images; share s of the position; correlations of
        position and texture between adjacent pixels.
    """

    probits: NDArray[np.float32]
    rates: NDArray[np.float64]
    dead: int
    persistence: float
    shared: float
    position: float
    texture: float


def _layer_masks(
    layer: Layer, scheme: Scheme, images: int, key: tuple[int, int], point: Point
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Masks (images, C, H, W) and densities (C,) of one layer."""
    shape = (layer.c_out, layer.h_out, layer.w_out)
    masks = np.empty((images, *shape), dtype=bool)
    if scheme.ratio in (0, 1):
        masks[:] = scheme.ratio == 0
        return masks, np.full(layer.c_out, scheme.ratio == 0, dtype=np.float32)

    def select(score: NDArray[np.float32]) -> NDArray[np.bool_]:
        if scheme.structured:
            return largest_of_groups(score, scheme.essential_of_group, scheme.group)
        return top_k(score, scheme.essential_count(score.size))

    rng = np.random.default_rng(key)
    field = _field(rng, layer, point)
    habit = rng.standard_normal(layer.c_out)
    for image in range(images):
        own = np.random.default_rng((*key, 1 + image))
        ranks = _ranks(own, field, habit)
        score = _noise(own, field, (layer.h_out, layer.w_out, layer.c_out))
        score += field.probits[ranks]
        masks[image] = select(score).transpose(2, 0, 1)
    return masks, _density(rng, field, habit, scheme)


def _density(
    rng: np.random.Generator, field: _Field, habit: NDArray[np.float64], scheme: Scheme
) -> NDArray[np.float32]:
    """Density of every channel over images that are not in the trace."""
    total = np.zeros(len(habit))
    images, pixels = _CALIBRATION
    for _ in range(images):
        ranks = _ranks(rng, field, habit)
        if scheme.structured:
            score = rng.standard_normal((pixels, len(habit)), dtype=np.float32)
            score += field.probits[ranks]
            mask = largest_of_groups(score, scheme.essential_of_group, scheme.group)
            total += mask.mean(0)
        else:
            total += field.rates[ranks]
    return (total / images).astype(np.float32)


def _ranks(rng: np.random.Generator, field: _Field, habit: NDArray[np.float64]) -> NDArray[np.intp]:
    """Rank of every channel's rate in one image; the dead are those of the weakest habit."""
    p = field.persistence
    order = np.sqrt(p) * habit + np.sqrt(1 - p) * rng.standard_normal(len(habit))
    order[np.argsort(habit)[: field.dead]] = -np.inf
    ranks = np.empty(len(habit), dtype=np.intp)
    ranks[np.argsort(order, kind="stable")] = np.arange(len(habit))
    return ranks


def _noise(
    rng: np.random.Generator, field: _Field, shape: tuple[int, int, int]
) -> NDArray[np.float32]:
    """Position and texture of one image, (H, W, C), of variance 1 together."""
    position = _smooth(rng, (*shape[:2], 1), field.position)
    position -= position.mean()
    deviation = position.std()
    if deviation > 0:
        position /= deviation
    noise = _smooth(rng, shape, field.texture)
    _level(noise, field.texture)
    noise *= np.float32(np.sqrt(1 - field.shared))
    noise += np.float32(np.sqrt(field.shared)) * position
    return noise


def _smooth(
    rng: np.random.Generator, shape: tuple[int, int, int], neighbour: float
) -> NDArray[np.float32]:
    """Standard normal field (H, W, C) whose correlation falls as neighbour**(rows + columns)."""
    field = rng.standard_normal(shape, dtype=np.float32)
    if neighbour > 0:
        keep, fresh = np.float32(neighbour), np.float32(np.sqrt(1 - neighbour**2))
        for line in (field, field.swapaxes(0, 1)):
            for i in range(1, len(line)):
                line[i] *= fresh
                line[i] += keep * line[i - 1]
    return field


def _level(noise: NDArray[np.float32], neighbour: float) -> None:
    """Shrink, in place, each channel's mean to that of white noise: on small maps a smooth texture
    would add to the rates of the channels. The variance stays 1."""
    excess = _excess(noise.shape[:2], neighbour)
    if excess > 0:
        white = 1 / (noise.shape[0] * noise.shape[1])
        mean = noise.mean((0, 1))
        noise -= mean * np.float32(1 - np.sqrt(white / (white + excess)))
        noise /= np.float32(np.sqrt(1 - excess))


@lru_cache(maxsize=1024)
def _excess(shape: tuple[int, int], neighbour: float) -> float:
    """Variance of the mean of a smooth field over a map (H, W), above that of white noise."""
    weights, correlations = _pairs(shape, neighbour)
    return float((weights * correlations).sum() - weights[0, 0])


def _pairs(
    shape: tuple[int, int], neighbour: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of the pairs of positions of a map (H, W) that lie so many rows and columns apart, and
    the correlation of a smooth field between them: two arrays (H, W)."""
    weights, powers = [], []
    for side in shape:
        lags = np.arange(side)
        weights.append(np.where(lags, 2, 1) * (side - lags) / side**2)
        powers.append(float(neighbour) ** lags)
    return np.multiply.outer(*weights), np.multiply.outer(*powers)


def _field(rng: np.random.Generator, layer: Layer, point: Point) -> _Field:
    """Draw the rates of a layer's channels and solve for the rest of its score."""
    shape, mean = (layer.h_out, layer.w_out), 1 - point.ratio
    dead = min(int(point.dead * layer.c_out + 0.5), int(0.9 * point.ratio * layer.c_out))
    alive = layer.c_out - dead
    trials = np.linspace(0, 0.95, 20)
    excess = np.array([_excess(shape, trial) for trial in trials])

    # A smooth texture makes channels differ too, in each image anew, and how much depends on the
    # rates: draw them with all of the variance asked for, then with what the texture leaves.
    wanted, left = point.channel_cv**2, point.channel_cv**2
    for _ in range(2):
        rates = _rates(rng, alive, mean * layer.c_out / alive, left, alive / layer.c_out)
        probits = np.array([NormalDist().inv_cdf(rate) for rate in np.clip(rates, 1e-6, 1 - 1e-6)])
        x = np.quantile(probits, (np.arange(32) + 0.5) / 32)
        common = (point.position_cv * mean) ** 2 * layer.c_out / alive
        shared = float(np.interp(common, _covariance(x[:, None], x[None, :]), _CORRELATIONS))
        within = _covariance(x, x)
        own = float(
            np.interp(point.neighbour * np.mean(rates * (1 - rates)), within, _CORRELATIONS)
        )
        # Fields lose their mean over the map, the position all of it and the texture the excess,
        # and with it some correlation of neighbours.
        latent = (own - shared * point.position_neighbour) / (1 - shared)
        texture = float(np.interp(latent, (trials - excess) / (1 - excess), trials))
        weights, pairs = _pairs(shape, texture)
        lost = _excess(shape, texture)
        apart = (1 - shared) * (pairs - lost) / (1 - lost)  # a little below 0 for distant pairs
        slope = within[1] / _CORRELATIONS[1]
        added = np.where(apart > 0, np.interp(apart, _CORRELATIONS, within), slope * apart)
        others = (weights * added).sum() - weights[0, 0] * added[0, 0]
        left = max(0.0, wanted - others * (alive / layer.c_out) / mean**2)
    lost = np.minimum(excess + 1 / layer.pixels, 0.99)
    position = float(np.interp(point.position_neighbour, (trials - lost) / (1 - lost), trials))
    return _Field(
        probits=np.concatenate([np.full(dead, _DEAD), probits]).astype(np.float32),
        rates=np.concatenate([np.zeros(dead), rates]),
        dead=dead,
        persistence=min(1.0, point.persistence * wanted / left) if left else 0.0,
        shared=shared,
        position=position,
        texture=texture,
    )


def _rates(
    rng: np.random.Generator, alive: int, mean: float, square: float, share: float
) -> NDArray[np.float64]:
    """Rates of the channels that are not dead, ascending: Beta with `mean` and such a variance that
    all channels, of which they are a `share`, have a squared coefficient of variation `square`."""
    variance = mean**2 * ((1 + square) * share - 1)
    variance = min(max(variance, 1e-4 * mean**2), 0.95 * mean * (1 - mean))
    spread = mean * (1 - mean) / variance - 1
    return np.sort(rng.beta(mean * spread, (1 - mean) * spread, alive))


#: Correlations of two scores at which the covariance of their masks is tabulated.
_CORRELATIONS = np.linspace(0, 0.95, 39)


def _covariance(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean covariance of masks with probits x and y, at each of `_CORRELATIONS`: the integral over
    the correlation of the bivariate normal density at the two thresholds (Plackett 1954)."""
    s = _CORRELATIONS[:, None]
    x, y = (part.ravel() for part in np.broadcast_arrays(x, y))
    free = 1 - s**2
    exponent = -(x * x - 2 * s * x * y + y * y) / (2 * free)
    density = (np.exp(exponent) / (2 * np.pi * np.sqrt(free))).mean(1)
    steps = (density[1:] + density[:-1]) / 2 * np.diff(_CORRELATIONS)
    return np.concatenate([[0], np.cumsum(steps)])
