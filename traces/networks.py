"""Geometry of the published networks as lists of layers, without PyTorch.

Every convolution is listed, in order of execution; in a block with a convolution in its shortcut,
the shortcut comes before the last convolution, whose write-back adds it. Classifiers, pooling and
normalisation run on the host and are not listed. Names are the module paths of a PyTorch network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from ..common.errors import InputError
from ..common.layer import Layer
from ..common.projection import projected_depth, ternary

__all__ = ["NETWORKS", "layers"]


def layers(network: str, projection: str = "patch", seed: int = 0) -> tuple[Layer, ...]:
    """Return the layers of a network by its name in :data:`NETWORKS`.

    Parameters
    ----------
    network : str
        A key of :data:`NETWORKS`.
    projection : {"patch", "tap"}
        Form of P.
    seed : int
        Seed of P, whose nonzeros are counted.

    Raises
    ------
    InputError
        If the name or the form of P is unknown.
    """
    if network not in NETWORKS:
        raise InputError(f"network must be one of {', '.join(NETWORKS)}, not {network!r}")
    if projection not in ("patch", "tap"):
        raise InputError(f"projection must be patch or tap, not {projection!r}")
    return tuple(
        _projected(layer, projection, (seed, index))
        for index, layer in enumerate(NETWORKS[network]())
    )


def _projected(layer: Layer, projection: str, key: tuple[int, int]) -> Layer:
    k = projected_depth(layer.d, layer.c_out, layer.kernel, projection)
    rows, columns = (k, layer.d) if projection == "patch" else (k // layer.taps, layer.c_in)
    nonzeros = int(np.count_nonzero(ternary(rows, columns, key)))
    return replace(layer, k=k, projection=projection, projection_nonzeros=nonzeros)


def _conv(
    name: str,
    c_in: int,
    c_out: int,
    kernel: int,
    stride: int,
    side: int,
    *,
    joined: str = "",
    residual: bool = False,
    signed: bool = False,
) -> Layer:
    """A convolution over a square input, padded so that stride 1 keeps its side."""
    return Layer(
        name=name,
        c_in=c_in,
        c_out=c_out,
        kernel=kernel,
        stride=stride,
        padding=kernel // 2,
        h_in=side,
        w_in=side,
        k=1,
        unsigned_input=not signed,
        residual=residual,
        joined=joined,
    )


def _post_activation(depths: Sequence[int], width: int) -> Iterator[Layer]:
    """Post-activation residual network of basic blocks for 32x32 images (He et al. 2016, section
    3.1), shortcuts by 1x1 convolutions where the shape changes (option B)."""
    yield _conv("stem", 3, width, 3, 1, 32, joined="stage1", signed=True)
    c_in, side, block = width, 32, 0
    for stage, depth in enumerate(depths):
        c_out, joined = width << stage, f"stage{stage + 1}"
        for index in range(depth):
            stride = 2 if stage and not index else 1
            name = f"blocks.{block}"
            yield _conv(f"{name}.conv1", c_in, c_out, 3, stride, side)
            if c_in != c_out:
                yield _conv(f"{name}.shortcut.0", c_in, c_out, 1, stride, side, joined=joined)
            side //= stride
            yield _conv(f"{name}.conv2", c_out, c_out, 3, 1, side, joined=joined, residual=True)
            c_in, block = c_out, block + 1


def _wide(depth: int, width: int) -> Iterator[Layer]:
    """Wide pre-activation residual network for 32x32 images (Zagoruyko and Komodakis 2016): three
    stages of `depth` basic blocks, 16, 32 and 64 times `width` channels behind a stem of 16."""
    yield _conv("stem", 3, 16, 3, 1, 32, signed=True)
    c_in, side, block = 16, 32, 0
    for stage in range(3):
        c_out, joined = 16 * width << stage, f"stage{stage + 1}"
        for index in range(depth):
            stride = 2 if stage and not index else 1
            name = f"blocks.{block}"
            yield _conv(f"{name}.conv1", c_in, c_out, 3, stride, side)
            if c_in != c_out:
                yield _conv(f"{name}.shortcut", c_in, c_out, 1, stride, side, joined=joined)
            side //= stride
            yield _conv(f"{name}.conv2", c_out, c_out, 3, 1, side, joined=joined, residual=True)
            c_in, block = c_out, block + 1


def _bottleneck(depths: Sequence[int]) -> Iterator[Layer]:
    """Post-activation residual network of bottleneck blocks for 224x224 images (He et al. 2016,
    table 1), the stride in the 3x3 convolution; max pooling behind the stem runs on the host."""
    yield _conv("stem", 3, 64, 7, 2, 224, signed=True)
    c_in, side, block = 64, 56, 0
    for stage, depth in enumerate(depths):
        middle, c_out, joined = 64 << stage, 256 << stage, f"stage{stage + 1}"
        for index in range(depth):
            stride = 2 if stage and not index else 1
            name = f"blocks.{block}"
            yield _conv(f"{name}.conv1", c_in, middle, 1, 1, side)
            yield _conv(f"{name}.conv2", middle, middle, 3, stride, side)
            if c_in != c_out:
                yield _conv(f"{name}.shortcut.0", c_in, c_out, 1, stride, side, joined=joined)
            side //= stride
            yield _conv(f"{name}.conv3", middle, c_out, 1, 1, side, joined=joined, residual=True)
            c_in, block = c_out, block + 1


def _vision_transformer(depth: int, width: int) -> Iterator[Layer]:
    """Vision transformer with patches of 16 for 224x224 images (Dosovitskiy et al. 2021): the
    embedding of 14x14 patches, then the linear layers as 1x1 convolutions over 197 tokens, one of
    them the class token. The products inside attention run on the host. Inputs are signed, since
    layer-norm, attention or GELU precedes every layer."""
    embedding = _conv("patch_embed.proj", 3, width, 16, 16, 224, joined="tokens", signed=True)
    yield replace(embedding, padding=0)
    for block in range(depth):
        for name, c_in, c_out in (
            ("attn.qkv", width, 3 * width),
            ("attn.proj", width, width),
            ("mlp.fc1", width, 4 * width),
            ("mlp.fc2", 4 * width, width),
        ):
            writes = name in ("attn.proj", "mlp.fc2")
            layer = _conv(
                f"blocks.{block}.{name}",
                c_in,
                c_out,
                1,
                1,
                197,
                joined="tokens" if writes else "",
                residual=writes,
                signed=True,
            )
            yield replace(layer, w_in=1)


#: Network by name. Only `layers` fills in the projection.
NETWORKS: dict[str, Callable[[], Iterator[Layer]]] = {
    "tiny": partial(_post_activation, (1, 1), 8),
    "resnet18": partial(_post_activation, (2, 2, 2, 2), 64),
    "wrn34_10": partial(_wide, 5, 10),
    "resnet50": partial(_bottleneck, (3, 4, 6, 3)),
    "vit_b16": partial(_vision_transformer, 12, 768),
}
