"""One layer in the accelerator's numbers, and what the accelerator computes of it, bit for bit.

Numbers and rounding are those of `arithmetic`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import arithmetic
from .layer import Layer
from .scheme import Scheme

__all__ = ["IntegerLayer", "LayerRun", "im2col", "run_layer"]

Ints = NDArray[np.integer]


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerLayer:
    """One convolution in the accelerator's numbers; d and k as in `layer`.

    Parameters
    ----------
    layer : Layer
        Geometry.
    source, residual : str
        Names of the layers whose outputs it reads and adds; ``input`` for the image, and an empty
        `residual` where nothing is added.
    weight, bias, multiplier, shift
        Exact path: int16 (C_out, d) tap-major, then channel; int32 (C_out,); int16 (C_out,); 0..62.
    matrix, matrix_shift
        P as int8 in {-1, 0, 1}: (k, d) for `patch`, (k / taps, C_in) for `tap`; and sp.
    noise_weight, noise_bias, noise_multiplier, noise_shift
        Approximate path: int8 in [-7, 7] (C_out, k); int32; int16; 0..62.
    gain, offset, gain_shift
        Affine after the residual sum: int16 (C_out,) each and 0..62. The identity, but for networks
        with a batch-norm between the sum and the ReLU.
    relu : bool
        Whether negative y become 0.
    quantise_shift : int
        sq: y^Q = clamp(round(y >> sq)).
    unsigned : bool
        Whether y^Q is in [0, 15] rather than [-8, 7].
    scale : float
        Value of one step of z, z~ and s.
    y_scale : float, optional
        Value of one step of y, where the affine is a batch-norm: then later layers add s. Without
        it y has the steps of s, and later layers add y.
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
    y_scale: float | None = None

    @property
    def output_scale(self) -> float:
        """Value of one step of y."""
        return self.scale if self.y_scale is None else self.y_scale


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerRun:
    """Everything one layer computed for a batch; B images, P pixels each, pixels row by row.

    Parameters
    ----------
    x, xq : int16 and int8 (B, H, W, C_in)
        Inputs.
    residual : int16 (B, P, C_out) or None
        What was added.
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
    residual: Ints | None
    p: Ints | None
    noise: Ints | None
    exact: Ints | None
    mask: NDArray[np.bool_]
    theta: tuple[int, ...]
    s: Ints
    y: Ints
    yq: Ints

    def kept(self, spec: IntegerLayer) -> Ints:
        """What later layers add of this layer, (B, P, C_out)."""
        return self.y if spec.y_scale is None else self.s


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
    mask: NDArray[np.bool_] | None = None,
) -> LayerRun:
    """Run one layer; x and xq (B, H, W, C_in), residual (B, P, C_out) or None.

    `theta`, when given, is the threshold of an unstructured scheme for all images; by default each
    image has its own, the K-th largest z~ of that image (Top-K, ties added). `mask` (B, P, C_out),
    when given, says which neurons are essential instead of any selection.
    """
    layer, images = spec.layer, len(x)
    shape = (images, layer.pixels, layer.c_out)
    window = (layer.kernel, layer.stride, layer.padding)
    p = noise = exact = None
    thetas: tuple[int, ...] = ()
    if scheme.dense:
        mask = np.ones(shape, dtype=bool)
    else:
        if layer.projection == "patch":
            p = arithmetic.project(im2col(xq, *window), spec.matrix, spec.matrix_shift)
        else:
            taps = arithmetic.project(xq.reshape(-1, layer.c_in), spec.matrix, spec.matrix_shift)
            p = im2col(taps.reshape(*xq.shape[:3], -1), *window)
        noise = arithmetic.approximate(
            p, spec.noise_weight, spec.noise_bias, spec.noise_multiplier, spec.noise_shift
        ).reshape(shape)
        if mask is None:
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
        x=x,
        xq=xq,
        residual=residual,
        p=p,
        noise=noise,
        exact=exact,
        mask=mask,
        theta=thetas,
        s=s,
        y=y,
        yq=yq,
    )


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
