"""Images of a batch computed together: one layer of im2col rows, an image below the other.

Blocks of pixels go on from an image to the next where the hardware walks one window a pixel of
memory, so the host supplies im2col rows, as it does where the input is narrow. Small maps then fill
blocks that are too shallow otherwise. A threshold belongs to one image, so only schemes without one
share a compute, and the descriptors bound the sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .descriptor import MAX_PIXELS, MAX_SIDE
from .geometry import is_tap
from .integer import im2col
from .layer import Layer
from .machine import Machine
from .scheme import Scheme

__all__ = ["stack", "stack_inputs", "togethers"]


def togethers(layer: Layer, machine: Machine, scheme: Scheme, batch: int) -> list[int]:
    """Numbers of images, divisors of `batch`, that one compute may span; 1 is always the first.

    An unstructured machine gains nothing: its blocks are as deep as a map of few pixels needs.
    """
    if machine.unstructured or scheme.kind == "unstructured" or is_tap(layer):
        return [1]
    return [
        count
        for count in range(1, batch + 1)
        if count == 1
        or (
            batch % count == 0
            and count * layer.h_out <= MAX_SIDE
            and count * layer.pixels <= MAX_PIXELS
        )
    ]


def stack(layer: Layer, images: int) -> Layer:
    """The layer of d channels and one tap that computes `images` images; itself for one."""
    if images == 1:
        return layer
    return replace(
        layer,
        c_in=layer.d,
        kernel=1,
        stride=1,
        padding=0,
        h_in=images * layer.h_out,
        w_in=layer.w_out,
    )


def stack_inputs(layer: Layer, inputs: Sequence[NDArray[np.integer]]) -> NDArray[np.integer]:
    """(H, W, C_in) inputs of each image to those of :func:`stack`: (images * H', W', d)."""
    rows = im2col(np.stack(inputs), layer.kernel, layer.stride, layer.padding)
    return rows.reshape(len(inputs) * layer.h_out, layer.w_out, layer.d)
