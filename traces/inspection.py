"""What a trace holds, as a table, and whether its masks are what its scheme promises."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..common.errors import CheckError
from ..common.layer import Layer
from .networks import NETWORKS
from .schema import Trace, load

__all__ = ["info", "table", "verify"]


def info(trace: Trace) -> dict[str, Any]:
    """Return what `sinai trace info --json` prints: the manifest without its arrays and layers, and
    one record a layer.

    Per layer: geometry; `noise`, the share of noisy neurons (mean over images, and least and most);
    `channel_cv`, the coefficient of variation over channels of their share of essential neurons;
    `empty_positions`, the share of positions without any essential neuron.
    """
    manifest = trace.manifest.model_dump(
        mode="json", by_alias=True, exclude={"arrays", "layers", "theta"}
    )
    layers = []
    for index, layer in enumerate(trace.layers):
        mask = trace.mask(index)
        noise = 1 - mask.mean((1, 2, 3))
        layers.append(
            {
                "layer": layer.name,
                "c_in": layer.c_in,
                "c_out": layer.c_out,
                "kernel": layer.kernel,
                "stride": layer.stride,
                "h_out": layer.h_out,
                "w_out": layer.w_out,
                "k": layer.k,
                "d": layer.d,
                "macs": layer.macs,
                "noise": float(noise.mean()),
                "noise_min": float(noise.min()),
                "noise_max": float(noise.max()),
                "channel_cv": _cv(mask.mean((0, 2, 3))),
                "empty_positions": float(1 - mask.any(1).mean()),
            }
        )
    return {"name": trace.name, "images": trace.images, **manifest, "layers": layers}


def table(trace: Trace) -> str:
    """The same as text: a heading of what the trace is, then one line a layer."""
    record = info(trace)
    kind = "synthetic" if trace.synthetic else "real"
    lines = [
        f"{record['name']}: {kind} trace of {record['network']}, scheme {record['scheme']}"
        f" ({record['selection']}), {trace.images} image(s) of {record['data'] or 'no data set'}",
        f"noise {record['noise_measured']:.4f} measured, {record['noise_target']:.4f} asked for",
        "",
        f"{'layer':<24}{'geometry':<28}{'k':>6}{'d':>6}{'noise':>9}{'min':>9}{'max':>9}"
        f"{'chan. CV':>10}{'empty':>8}",
    ]
    for row in record["layers"]:
        geometry = (
            f"{row['c_in']}->{row['c_out']} {row['kernel']}x{row['kernel']}/{row['stride']}"
            f" to {row['h_out']}x{row['w_out']}"
        )
        lines.append(
            f"{row['layer']:<24}{geometry:<28}{row['k']:>6}{row['d']:>6}{row['noise']:>9.4f}"
            f"{row['noise_min']:>9.4f}{row['noise_max']:>9.4f}{row['channel_cv']:>10.2f}"
            f"{row['empty_positions']:>8.2f}"
        )
    return "\n".join(lines)


def verify(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Check the digests of a trace, its masks against its scheme and its layers with each other.

    Structured: exactly min(N, c) of each group of c channels of a pixel are essential.
    Unstructured by Top-K per image: at least K neurons of a layer; more can only be ties at theta,
    which are counted, and refused when a synthetic trace, whose scores select exactly, has any.
    A real trace with thresholds calibrated on other images (a `selection` without ``top-k``) may
    have any number. Layers: those that write one residual stream have one shape, a layer that adds
    a residual has an earlier one to add, and in a built-in network every input comes from an
    earlier layer.

    Returns
    -------
    dict
        `name`, `scheme`, `layers`, `images`, `arrays` (digests checked), `neurons`, `essential`,
        `noise_measured`, `surplus` (essential neurons above K), `surplus_most` (largest share of a
        layer's neurons that is surplus) and `notes` (findings that are no failure).

    Raises
    ------
    InputError
        If the file cannot be read, or fails its digests.
    CheckError
        If a check fails; the message names the file, the layer and what was found.
    """
    trace = load(path)
    essential, surplus, most = 0, 0, 0.0
    for index, layer in enumerate(trace.layers):
        mask = trace.mask(index)
        essential += int(np.count_nonzero(mask))
        if trace.scheme.structured:
            _check_groups(path, trace, index, mask)
        elif not trace.scheme.dense:
            more = _check_count(path, trace, index, mask)
            surplus += int(more.sum())
            most = max(most, float(more.max()) / layer.neurons)
    neurons = trace.images * sum(layer.neurons for layer in trace.layers)
    measured = 1 - essential / neurons
    if abs(measured - trace.manifest.noise_measured) > 1e-9:
        raise CheckError(
            f"{path}: noise_measured is {trace.manifest.noise_measured}, but {measured} of the"
            " neurons are noisy"
        )
    if abs(float(trace.scheme.ratio) - trace.manifest.noise_target) > 1e-6:
        raise CheckError(
            f"{path}: noise_target is {trace.manifest.noise_target}, but scheme {trace.scheme} asks"
            f" for {float(trace.scheme.ratio)}"
        )
    return {
        "name": trace.name,
        "scheme": str(trace.scheme),
        "layers": len(trace.layers),
        "images": trace.images,
        "arrays": len(trace.manifest.arrays),
        "neurons": neurons,
        "essential": essential,
        "noise_measured": measured,
        "surplus": surplus,
        "surplus_most": most,
        "notes": _check_chain(path, trace),
    }


def _cv(values: NDArray[np.floating]) -> float:
    mean = values.mean()
    return float(values.std() / mean) if mean else 0.0


def _check_groups(
    path: str | os.PathLike[str], trace: Trace, index: int, mask: NDArray[np.bool_]
) -> None:
    group, essential = trace.scheme.group, trace.scheme.essential_of_group
    channels = mask.shape[1]
    for start in range(0, channels, group):
        found = mask[:, start : start + group].sum(1)  # (images, H, W)
        wanted = min(essential, channels - start)
        if (found != wanted).any():
            image, row, column = (int(i[0]) for i in np.nonzero(found != wanted))
            raise CheckError(
                f"{path}: layer {trace.layers[index].name}, image {image}, row {row}, column"
                f" {column}: channels {start} to {min(start + group, channels) - 1} have"
                f" {found[image, row, column]} essential, scheme {trace.scheme} keeps {wanted}"
            )


def _check_count(
    path: str | os.PathLike[str], trace: Trace, index: int, mask: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Essential neurons above K, by image; 0 where the selection promises no count."""
    layer = trace.layers[index]
    wanted = trace.scheme.essential_count(layer.neurons)
    more = mask.sum((1, 2, 3)) - wanted
    if "top-k" not in trace.manifest.selection.lower():
        return np.maximum(more, 0)
    bad = more != 0 if trace.synthetic else more < 0
    if bad.any():
        image = int(np.flatnonzero(bad)[0])
        raise CheckError(
            f"{path}: layer {layer.name}, image {image}: {wanted + more[image]} neurons are"
            f" essential, scheme {trace.scheme} keeps {'' if trace.synthetic else 'at least '}"
            f"{wanted} of {layer.neurons}"
        )
    return more


def _check_chain(path: str | os.PathLike[str], trace: Trace) -> list[str]:
    """Raise if layers contradict each other; return what looks odd in a network of others."""
    notes: list[str] = []
    streams: dict[str, Layer] = {}
    earlier: dict[int, int] = {}  # channels to the most pixels that came with them
    for index, layer in enumerate(trace.layers):
        stream = streams.get(layer.joined)
        if layer.residual and stream is None:
            raise CheckError(
                f"{path}: layer {layer.name} adds a residual, but no earlier layer writes its"
                f" stream {layer.joined!r}"
            )
        if stream and (stream.c_out, stream.pixels) != (layer.c_out, layer.pixels):
            tokens = (stream.c_out, stream.pixels + 1) == (layer.c_out, layer.pixels)
            if not tokens:  # a class token is added on the host
                raise CheckError(
                    f"{path}: layer {layer.name} writes {layer.c_out}x{layer.h_out}x{layer.w_out},"
                    f" but {stream.name} of the same stream {layer.joined!r} writes"
                    f" {stream.c_out}x{stream.h_out}x{stream.w_out}"
                )
        if layer.joined:
            streams[layer.joined] = layer
        pixels = layer.h_in * layer.w_in
        if index and earlier.get(layer.c_in, -2) + 1 < pixels:
            text = (
                f"layer {layer.name} reads {layer.c_in}x{layer.h_in}x{layer.w_in}, which no earlier"
                " layer writes"
            )
            if trace.manifest.network in NETWORKS:
                raise CheckError(f"{path}: {text}")
            notes.append(text)
        earlier[layer.c_out] = max(earlier.get(layer.c_out, 0), layer.pixels)
    return notes
