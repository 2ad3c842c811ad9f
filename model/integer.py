"""The integer network: what the accelerator computes, bit for bit, on whole images.

One layer is `common.integer`. Pooling, classifier and the quantisation of the normalised image run
in floating point, as on the host of the accelerator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..common import arithmetic
from ..common.integer import IntegerLayer, LayerRun, run_layer
from ..common.scheme import Scheme
from .chain import INPUT

__all__ = ["IntegerNet"]

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
        outputs = {INPUT: self.quantise_images(images)}
        for index, spec in enumerate(self.layers):
            x, xq = outputs[spec.source]
            residual = None
            if spec.residual:
                residual = outputs[spec.residual][0].reshape(
                    len(images), spec.layer.pixels, spec.layer.c_out
                )
            theta = None if thetas is None else thetas[index]
            done = run_layer(spec, x, xq, residual, scheme, theta)
            shape = (len(images), spec.layer.h_out, spec.layer.w_out, spec.layer.c_out)
            outputs[spec.layer.name] = done.y.reshape(shape), done.yq.reshape(shape)
            if observe is not None:
                observe(index, done)
        last = self.layers[-1]
        pooled = outputs[last.layer.name][0].mean((1, 2), dtype=np.float64) * last.scale
        return pooled @ self.classifier.T.astype(np.float64) + self.classifier_bias
