"""Masks of the integer network as a trace."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

import numpy as np
from numpy.typing import NDArray

from ..common.errors import InputError
from ..common.integer import IntegerLayer, LayerRun
from ..common.scheme import Scheme
from ..traces import schema
from ..traces.operands import LayerOperands
from .checkpoint import Checkpoint
from .integer import IntegerNet

__all__ = ["export"]

_BATCH = 8


def export(
    checkpoint: Checkpoint,
    images: NDArray[np.uint8],
    scheme: str | Scheme,
    *,
    indices: Sequence[int],
    labels: Sequence[int] = (),
    calibration: NDArray[np.uint8] | None = None,
    projection: str = "patch",
    operands: bool = False,
    data: str = "",
    command: str = "",
) -> schema.Trace:
    """Run the integer network on `images` and return the trace of its masks.

    Equal arguments give equal masks on every machine: the network runs in integers.

    Parameters
    ----------
    checkpoint : Checkpoint
        The network.
    images : uint8 (B, 3, H, W)
        Images to trace, at least one.
    scheme : str or Scheme
        Noise scheme. Unstructured: theta of each layer and image is the K-th largest z~ (Top-K).
    indices, labels : sequence of int
        Index of each image in its data set, and its class (or none).
    calibration : uint8 (B, 3, H, W), optional
        Other images, over which the trace's density of each channel is the mean.
    projection : {"patch", "tap"}
        Form of P.
    operands : bool
        Keep what every layer reads, for validation on the hardware.
    data, command : str
        Data set, and the command that asked for this trace; they go to the manifest.

    Raises
    ------
    InputError
        If an image has the wrong shape, or the lists have other lengths than `images`.
    """
    scheme = scheme if isinstance(scheme, Scheme) else Scheme.parse(scheme)
    net = checkpoint.integer(projection)
    images = np.asarray(images)
    layers = [spec.layer for spec in net.layers]
    wanted = (layers[0].c_in, layers[0].h_in, layers[0].w_in)
    if images.dtype != np.uint8 or images.shape[1:] != wanted or not len(images):
        raise InputError(
            f"images must be uint8 of shape (images, {', '.join(map(str, wanted))}), not"
            f" {images.dtype} {images.shape}"
        )
    if len(indices) != len(images) or (len(labels) and len(labels) != len(images)):
        raise InputError(
            f"indices and labels must be {len(images)}, one an image, not {len(indices)} and"
            f" {len(labels)}"
        )
    runs: list[list[LayerRun]] | None = [[] for _ in layers] if operands else None
    masks, thetas, logits = _masks(net, images, scheme, runs)
    densities = None
    if calibration is not None and len(calibration) and not scheme.dense:
        others, _, _ = _masks(net, np.asarray(calibration), scheme)
        densities = [mask.mean((0, 2, 3)).astype(np.float32) for mask in others]
    accuracy = {}
    for row in checkpoint.manifest.accuracy:
        if row["projection"] == projection and row["scheme"] in (str(scheme), "dense"):
            accuracy[f"{row['scheme']}, {row['images']} test images"] = row["integer"]
    if len(labels):
        right = float((logits.argmax(1) == np.asarray(labels)).mean())
        accuracy["images of this trace"] = right
    manifest = schema.Manifest(
        network=net.network,
        synthetic=False,
        scheme=str(scheme),
        selection=_selection(scheme),
        noise_target=float(scheme.ratio),
        seed=checkpoint.manifest.seed,
        data=data or checkpoint.manifest.data,
        image_indices=tuple(int(i) for i in indices),
        labels=tuple(int(i) for i in labels),
        accuracy=accuracy,
        model_digest=checkpoint.digest,
        one_net=True,
        command=command,
        versions={name: metadata.version(name) for name in ("numpy", "sinai")},
        theta=tuple(thetas),
        layers=tuple(layers),
    )
    kept = None
    if runs is not None:
        kept = [_operands(spec, done) for spec, done in zip(net.layers, runs, strict=True)]
    return schema.make(manifest, [] if scheme.dense else masks, densities, kept)


def _operands(spec: IntegerLayer, runs: Sequence[LayerRun]) -> LayerOperands:
    """Operands of a layer from its runs, one a batch of images."""
    residual = None
    if spec.layer.residual:
        residual = np.concatenate([done.residual for done in runs])
    x, xq = (np.concatenate([getattr(done, name) for done in runs]) for name in ("x", "xq"))
    return LayerOperands(spec, x, xq, residual)


def _selection(scheme: Scheme) -> str:
    if scheme.dense:
        return "every neuron exact"
    if scheme.structured:
        return (
            f"the {scheme.essential_of_group} largest z~ of {scheme.group} consecutive channels,"
            " lower channel first among equals"
        )
    return "z~ >= theta, the K-th largest z~ of the layer and image (Top-K, ties added)"


def _masks(
    net: IntegerNet,
    images: NDArray[np.uint8],
    scheme: Scheme,
    runs: list[list[LayerRun]] | None = None,
) -> tuple[list[NDArray[np.bool_]], list[tuple[int, ...]], NDArray[np.float64]]:
    """Masks (B, C_out, H_out, W_out) and thetas of every layer, and the logits (B, classes);
    `runs` collects what each layer did."""
    masks: list[list[NDArray[np.bool_]]] = [[] for _ in net.layers]
    thetas: list[list[int]] = [[] for _ in net.layers]

    def observe(index: int, done: LayerRun) -> None:
        layer = net.layers[index].layer
        shape = (len(done.mask), layer.h_out, layer.w_out, layer.c_out)
        masks[index].append(done.mask.reshape(shape).transpose(0, 3, 1, 2))
        thetas[index].extend(done.theta)
        if runs is not None:
            runs[index].append(done)

    logits = [
        net.run(images[start : start + _BATCH], scheme, observe=observe)
        for start in range(0, len(images), _BATCH)
    ]
    rows = [tuple(row) for row in thetas] if thetas[0] else []
    return [np.concatenate(parts) for parts in masks], rows, np.concatenate(logits)
