"""The integer network: what the accelerator computes, bit for bit, on whole images.

Numbers and rounding are those of `common.arithmetic`. Pooling, classifier and the quantisation of
the normalised image run in floating point, as on the host of the accelerator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..common import arithmetic
from ..common.layer import Layer
from ..common.scheme import Scheme
from .chain import INPUT

__all__ = ["IntegerLayer", "IntegerNet", "LayerRun", "im2col", "run_layer"]

Ints = NDArray[np.integer]


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerLayer:
    """One convolution in the accelerator's numbers; d and k as in `layer`.

    Parameters
    ----------
    layer : Layer
        Geometry.
    source, residual : str
        Names of the layers whose outputs it reads and adds; ``input`` and empty as in
        :class:`sinai.model.chain.Link`.
    weight, bias, multiplier, shift
        Exact path: int16 (C_out, d) tap-major, then channel; int32 (C_out,); int16 (C_out,); 0..62.
    matrix, matrix_shift
        P as int8 in {-1, 0, 1}: (k, d) for `patch`, (k / taps, C_in) for `tap`; and sp.
    noise_weight, noise_bias, noise_multiplier, noise_shift
        Approximate path: int8 in [-7, 7] (C_out, k); int32; int16; 0..62.
    gain, offset, gain_shift
        Affine after the residual sum: int16 (C_out,) each and 0..62; the identity here.
    relu : bool
        Whether negative y become 0.
    quantise_shift : int
        sq: y^Q = clamp(round(y >> sq)).
    unsigned : bool
        Whether y^Q is in [0, 15] rather than [-8, 7].
    scale : float
        Value of one step of z, z~, s and y.
    """

    layer: Layer
    source: str
    residual: str
    weight: Ints
    bias: Ints
    multiplier: Ints
    shift: int
    matrix: Ints
    matrix_shift: int
    noise_weight: Ints
    noise_bias: Ints
    noise_multiplier: Ints
    noise_shift: int
    gain: Ints
    offset: Ints
    gain_shift: int
    relu: bool
    quantise_shift: int
    unsigned: bool
    scale: float


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerRun:
    """Everything one layer computed for a batch; B images, P pixels each, pixels row by row.

    Parameters
    ----------
    x, xq : int16 and int8 (B, H, W, C_in)
        Inputs.
    p : int8 (B * P, k) or None
        Projected inputs; None for ``dense``.
    noise : int16 (B, P, C_out) or None
        z~.
    exact : int16 (B, P, C_out) or None
        z; None where every neuron is noisy.
    mask : bool (B, P, C_out)
        Essential neurons.
    theta : tuple of int
        Threshold of each image, for an unstructured scheme; else empty.
    s, y, yq : int16, int16, int8 (B, P, C_out)
        Outputs.
    """

    x: Ints
    xq: Ints
    p: Ints | None
    noise: Ints | None
    exact: Ints | None
    mask: NDArray[np.bool_]
    theta: tuple[int, ...]
    s: Ints
    y: Ints
    yq: Ints


def im2col(x: Ints, kernel: int, stride: int, padding: int) -> Ints:
    """Windows of x (B, H, W, C), zero-padded, as rows (B * H' * W', K * K * C), tap-major."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(1, 2))
    windows = windows[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3)  # (B, H', W', K, K, C)
    return windows.reshape(-1, kernel * kernel * x.shape[-1])


def run_layer(
    spec: IntegerLayer,
    x: Ints,
    xq: Ints,
    residual: Ints | None,
    scheme: Scheme,
    theta: int | None = None,
) -> LayerRun:
    """Run one layer; x and xq (B, H, W, C_in), residual (B, P, C_out) or None.

    `theta`, when given, is the threshold of an unstructured scheme for all images; by default each
    image has its own, the K-th largest z~ of that image (Top-K, ties added).
    """
    layer, images = spec.layer, len(x)
    shape = (images, layer.pixels, layer.c_out)
    window = (layer.kernel, layer.stride, layer.padding)
    p = noise = exact = None
    mask, thetas = np.ones(shape, dtype=bool), ()
    if not scheme.dense:
        if layer.projection == "patch":
            p = arithmetic.project(im2col(xq, *window), spec.matrix, spec.matrix_shift)
        else:
            taps = arithmetic.project(xq.reshape(-1, layer.c_in), spec.matrix, spec.matrix_shift)
            p = im2col(taps.reshape(*xq.shape[:3], -1), *window)
        noise = arithmetic.approximate(
            p, spec.noise_weight, spec.noise_bias, spec.noise_multiplier, spec.noise_shift
        ).reshape(shape)
        mask, thetas = _select(noise, scheme, theta)
    if scheme.dense or mask.any():
        exact = arithmetic.exact(
            im2col(x, *window), spec.weight, spec.bias, spec.multiplier, spec.shift
        ).reshape(shape)
    v = exact if noise is None else noise if exact is None else np.where(mask, exact, noise)
    s, y, yq = arithmetic.write_back(
        v,
        residual,
        spec.gain,
        spec.offset,
        spec.gain_shift,
        spec.relu,
        spec.quantise_shift,
        spec.unsigned,
    )
    return LayerRun(
        x=x, xq=xq, p=p, noise=noise, exact=exact, mask=mask, theta=thetas, s=s, y=y, yq=yq
    )


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


def _select(
    noise: Ints, scheme: Scheme, theta: int | None
) -> tuple[NDArray[np.bool_], tuple[int, ...]]:
    """Mask of z~ (B, P, C) and the thresholds used."""
    if scheme.structured:
        return arithmetic.select_rank(noise, scheme.essential_of_group, scheme.group), ()
    count = scheme.essential_count(noise[0].size)
    thetas = tuple(
        arithmetic.threshold_of_top_k(z, count) if theta is None else theta for z in noise
    )
    limits = np.asarray(thetas, np.int32).reshape(-1, 1, 1)
    return arithmetic.select_threshold(noise, limits), thetas
