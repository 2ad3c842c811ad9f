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


def _stem(width: int, side: int, large: bool, joined: str) -> tuple[Layer, int]:
    """The first layer and the side of what the blocks read: 3x3 (32x32 images), or `large`, 7x7 of
    stride 2 with max pooling behind it, which runs on the host."""
    if large:
        return _conv("stem", 3, width, 7, 2, side, signed=True), side // 4
    return _conv("stem", 3, width, 3, 1, side, joined=joined, signed=True), side


def _post_activation(
    depths: Sequence[int], width: int, side: int = 32, large: bool = False
) -> Iterator[Layer]:
    """Post-activation residual network of basic blocks (He et al. 2016, section 3.1), shortcuts by
    1x1 convolutions where the shape changes (option B)."""
    first, side = _stem(width, side, large, "stage1")
    yield first
    c_in, block = width, 0
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


def _pre_activation(depths: Sequence[int], widths: Sequence[int], stem: int) -> Iterator[Layer]:
    """Pre-activation residual network of basic blocks for 32x32 images (He et al. 2016, "Identity
    Mappings"; Zagoruyko and Komodakis 2016) behind a 3x3 stem."""
    joined = "stage1" if stem == widths[0] else ""
    yield _conv("stem", 3, stem, 3, 1, 32, joined=joined, signed=True)
    c_in, side, block = stem, 32, 0
    for stage, (depth, c_out) in enumerate(zip(depths, widths, strict=True)):
        joined = f"stage{stage + 1}"
        for index in range(depth):
            stride = 2 if stage and not index else 1
            name = f"blocks.{block}"
            yield _conv(f"{name}.conv1", c_in, c_out, 3, stride, side)
            if c_in != c_out:
                yield _conv(f"{name}.shortcut", c_in, c_out, 1, stride, side, joined=joined)
            side //= stride
            yield _conv(f"{name}.conv2", c_out, c_out, 3, 1, side, joined=joined, residual=True)
            c_in, block = c_out, block + 1


def _bottleneck(
    depths: Sequence[int], width: int = 64, side: int = 224, large: bool = True
) -> Iterator[Layer]:
    """Post-activation residual network of bottleneck blocks (He et al. 2016, table 1), the stride
    in the 3x3 convolution."""
    first, side = _stem(width, side, large, "")
    yield first
    c_in, block = width, 0
    for stage, depth in enumerate(depths):
        middle, c_out, joined = width << stage, 4 * width << stage, f"stage{stage + 1}"
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


def _vision_transformer(depth: int, width: int, side: int, patch: int) -> Iterator[Layer]:
    """Vision transformer (Dosovitskiy et al. 2021): the embedding of patches, then the linear
    layers as 1x1 convolutions over the tokens, one a patch and the class token. The products inside
    attention run on the host. Inputs are signed, since layer-norm, attention or GELU precedes every
    layer."""
    first = _conv("patch_embed.proj", 3, width, patch, patch, side, joined="tokens", signed=True)
    yield replace(first, padding=0)
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
                (side // patch) ** 2 + 1,
                joined="tokens" if writes else "",
                residual=writes,
                signed=True,
            )
            yield replace(layer, w_in=1)


#: Network by name. Only `layers` fills in the projection.
NETWORKS: dict[str, Callable[[], Iterator[Layer]]] = {
    "tiny": partial(_post_activation, (1, 1), 8),
    "resnet18": partial(_post_activation, (2, 2, 2, 2), 64),
    "wrn34_10": partial(_pre_activation, (5, 5, 5), (160, 320, 640), 16),
    "resnet50": partial(_bottleneck, (3, 4, 6, 3)),
    "vit_b16": partial(_vision_transformer, 12, 768, 224, 16),
    "preactresnet18": partial(_pre_activation, (2, 2, 2, 2), (64, 128, 256, 512), 64),
    "resnet18_224": partial(_post_activation, (2, 2, 2, 2), 64, 224, True),
    "resnet50_32": partial(_bottleneck, (3, 4, 6, 3), 64, 32, False),
    "tiny_preact": partial(_pre_activation, (1, 1), (8, 16), 8),
    "tiny_wrn": partial(_pre_activation, (2, 1), (16, 32), 8),
    "tiny_resnet50": partial(_bottleneck, (1, 1), 8, 32),
    "tiny_vit": partial(_vision_transformer, 2, 32, 32, 8),
}
