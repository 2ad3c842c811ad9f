"""The integer network: what the accelerator computes, bit for bit, on whole images.

One layer is `common.integer`. Pooling, classifier and the quantisation of the normalised image run
in floating point, as on the host of the accelerator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..common import arithmetic
from ..common.integer import IntegerLayer, LayerRun, run_layer
from ..common.scheme import Scheme
from .chain import INPUT

__all__ = ["IntegerNet", "max_pool"]

Ints = NDArray[np.integer]


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerNet:
    """A chain of integer layers with its host side.

    Parameters
    ----------
    network : str
        Name in :data:`sinai.model.nets.MODELS`.
    layers : tuple of IntegerLayer
        In order of execution.
    input_scale : float
        Value of one step of the int16 image.
    input_shift : int
        x^Q of the image = clamp(round(x >> input_shift)) to [-8, 7].
    mean, std : float32 (3,)
        Normalisation of an image in [0, 1].
    classifier, classifier_bias : float32 (classes, C) and (classes,)
        The dense layer after average pooling.
    """

    network: str
    layers: tuple[IntegerLayer, ...]
    input_scale: float
    input_shift: int
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    classifier: NDArray[np.float32]
    classifier_bias: NDArray[np.float32]

    def quantise_images(self, images: Ints) -> tuple[NDArray[np.int16], NDArray[np.int8]]:
        """uint8 images (B, 3, H, W) to x int16 and x^Q int8, both (B, H, W, 3)."""
        scaled = (images.transpose(0, 2, 3, 1) / 255 - self.mean) / self.std / self.input_scale
        x = arithmetic.sat16(np.floor(scaled + 0.5)).astype(np.int16)
        xq = arithmetic.round_shift(x, self.input_shift)
        return x, arithmetic.clamp(xq, *arithmetic.INT4).astype(np.int8)

    def run(
        self,
        images: Ints,
        scheme: Scheme,
        *,
        observe: Callable[[int, LayerRun], None] | None = None,
        thetas: Sequence[int] | None = None,
    ) -> NDArray[np.float64]:
        """Return logits (B, classes) of uint8 images (B, 3, H, W).

        Parameters
        ----------
        observe : callable, optional
            Called as ``observe(index, layer_run)`` after every layer.
        thetas : sequence of int, optional
            Fixed threshold of each layer for an unstructured scheme, instead of Top-K.
        """
        read = {INPUT: self.quantise_images(images)}
        added: dict[str, Ints] = {}
        for index, spec in enumerate(self.layers):
            layer = spec.layer
            residual = None
            if spec.residual:
                residual = added[spec.residual].reshape(len(images), layer.pixels, layer.c_out)
            theta = None if thetas is None else thetas[index]
            done = run_layer(spec, *read[spec.source], residual, scheme, theta)
            shape = (len(images), layer.h_out, layer.w_out, layer.c_out)
            y, yq, kept = (v.reshape(shape) for v in (done.y, done.yq, done.kept(spec)))
            if index == 0 and self.pools:
                y, yq, kept = max_pool(y), max_pool(yq), max_pool(kept)
            read[layer.name], added[layer.name] = (y, yq), kept
            if observe is not None:
                observe(index, done)
            self._forget(index, read, added)
        return self.classify(read[self.layers[-1].layer.name][0])

    def classify(self, y: Ints) -> NDArray[np.float64]:
        """Return logits (B, classes) of the last layer's y (B, H, W, C)."""
        pooled = y.mean((1, 2), dtype=np.float64) * self.layers[-1].output_scale
        return pooled @ self.classifier.T.astype(np.float64) + self.classifier_bias

    @property
    def pools(self) -> bool:
        """Whether the host pools the first layer's outputs (:func:`max_pool`)."""
        return self.layers[1].layer.h_in < self.layers[0].layer.h_out

    def _forget(self, index: int, *outputs: dict[str, Any]) -> None:
        """Drop outputs that no layer after `index` needs; the last ones are the classifier's."""
        later = self.layers[index + 1 :]
        needed = {name for spec in later for name in (spec.source, spec.residual)}
        needed.add(self.layers[-1].layer.name)
        for made in outputs:
            for name in made.keys() - needed:
                del made[name]


def max_pool(values: Ints) -> Ints:
    """Largest of 3x3 values, stride 2, padding 1: (B, H, W, C) to half the side, rounded up.

    Rounding to 4 bit keeps order, so y^Q may be pooled like y.
    """
    low = np.iinfo(values.dtype).min
    padded = np.pad(values, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=low)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return windows[:, ::2, ::2].max((-2, -1))
