"""Parts of a layer: what the on-chip store holds at once, and what crosses the chip's border.

With resident accounting a layer is one part, and the memories are checked to hold it. With a
capacity it is split into bands of rows and ranges of channels so that the estimated cycles are
least.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from .blocks import block_plan, p_room
from .errors import InputError
from .layer import Layer, ceil_div
from .machine import Machine
from .scheme import Scheme

__all__ = ["Part", "split"]


@dataclass(frozen=True)
class Part:
    """Output rows [row, row + rows) by channels [channel, channel + channels), in placement order.

    `load_bytes` and `store_bytes` cross the chip's border for it. `projects`: the projection unit
    works for it; otherwise the part before has left p of these rows. `releases`: the next part does
    not need p of these rows.
    """

    row: int
    rows: int
    channel: int
    channels: int
    load_bytes: int
    store_bytes: int
    projects: bool = True
    releases: bool = True


# Bytes of the parameters of a channel: M, b, M~, b~, a, c.
_PARAMETER_BYTES = 16


def split(layer: Layer, machine: Machine, scheme: Scheme) -> tuple[Part, ...]:
    if machine.resident:
        _check_resident(layer, machine, scheme)
        bounds = [(0, layer.h_out, 0, layer.c_out)]
        return _with_bytes(layer, machine, scheme, bounds)
    capacity = machine.dma.capacity_kib * 1024
    step = machine.channels_side_by_side
    best: tuple[tuple[int, int], tuple[Part, ...]] | None = None
    for groups in _splits(ceil_div(layer.c_out, step)):
        for bands in _splits(layer.h_out):
            for rows_first in (True, False):
                parts = _with_bytes(
                    layer, machine, scheme, _bounds(layer, step, groups, bands, rows_first)
                )
                if _footprint(layer, machine, scheme, parts) > capacity:
                    continue
                key = (_estimate(layer, machine, scheme, parts), len(parts))
                if best is None or key < best[0]:
                    best = key, parts
    if best is None:
        raise InputError(
            f"{machine.name}: dma.capacity_kib = {machine.dma.capacity_kib} does not hold the"
            f" smallest part of layer {layer.name}; raise it"
        )
    return best[1]


def _estimate(layer: Layer, machine: Machine, scheme: Scheme, parts: tuple[Part, ...]) -> int:
    """Cycles of a layer whose parts load, compute and store in a pipeline."""
    plan = cache(
        lambda rows, channels, projects: block_plan(
            layer, machine, scheme, rows * layer.w_out, channels, projects
        )[0]
    )
    width = machine.dma.bytes_per_cycle
    stream = done = before = 0.0
    for part in parts:
        stream = max(stream, before) + part.load_bytes / width
        before, done = done, max(done, stream) + plan(part.rows, part.channels, part.projects)
        stream += part.store_bytes / width
    return round(max(done, stream))


def _splits(count: int) -> list[int]:
    """1, 2, 4, ... and `count` itself: the numbers of pieces worth trying."""
    return sorted({min(1 << i, count) for i in range(count.bit_length() + 1)})


def _bounds(
    layer: Layer, step: int, groups: int, bands: int, rows_first: bool
) -> list[tuple[int, int, int, int]]:
    """Rows and channels of each part; `rows_first` runs through the bands of a channel range."""
    rows = ceil_div(layer.h_out, bands)
    width = ceil_div(ceil_div(layer.c_out, step), groups) * step
    row_ranges = [(r, min(rows, layer.h_out - r)) for r in range(0, layer.h_out, rows)]
    channel_ranges = [(c, min(width, layer.c_out - c)) for c in range(0, layer.c_out, width)]
    if rows_first:
        return [(*r, *c) for c in channel_ranges for r in row_ranges]
    return [(*r, *c) for r in row_ranges for c in channel_ranges]


def _input_bytes(layer: Layer, machine: Machine, scheme: Scheme, rows: int) -> int:
    """Input that `rows` output rows need: 16-bit x (im2col rows where the input is narrower than a
    word), and 4-bit x^Q unless dense."""
    needed = min(layer.h_in, (rows - 1) * layer.stride + layer.kernel)
    values = needed * layer.w_in * layer.c_in
    exact = values
    if layer.c_in < machine.pses:
        exact = rows * layer.w_out * layer.beats(machine.pses) * machine.pses
    return 2 * exact + (0 if scheme.dense else ceil_div(values, 2))


def _weight_bytes(layer: Layer, scheme: Scheme, channels: int) -> int:
    """W and the parameters of `channels`, and W~ unless dense."""
    exact = channels * (2 * layer.d + _PARAMETER_BYTES)
    return exact + (0 if scheme.dense else channels * ceil_div(layer.k, 2))


def _projection_bytes(layer: Layer, scheme: Scheme) -> int:
    """P at two bits an entry."""
    if scheme.dense:
        return 0
    entries = (
        layer.k * layer.d if layer.projection == "patch" else layer.k // layer.taps * layer.c_in
    )
    return ceil_div(2 * entries, 8)


def _output_bytes(layer: Layer, scheme: Scheme, rows: int, channels: int) -> int:
    values = rows * layer.w_out * channels
    return 2 * values + (0 if scheme.dense else ceil_div(values, 2))


def _with_bytes(
    layer: Layer, machine: Machine, scheme: Scheme, bounds: list[tuple[int, int, int, int]]
) -> tuple[Part, ...]:
    parts = []
    previous: tuple[int, int, int, int] | None = None
    for row, rows, channel, channels in bounds:
        load = _output_bytes(layer, scheme, rows, channels) if layer.residual else 0
        if previous is None:
            load += _projection_bytes(layer, scheme)
        # What the part before already holds is not loaded again.
        if previous is None or previous[2:] != (channel, channels):
            load += _weight_bytes(layer, scheme, channels)
        if previous is None or previous[:2] != (row, rows):
            load += _input_bytes(layer, machine, scheme, rows)
        store = _output_bytes(layer, scheme, rows, channels)
        parts.append(Part(row, rows, channel, channels, load, store))
        previous = (row, rows, channel, channels)
    # p of a band stays for its next range of channels where the whole band fits.
    if not scheme.dense:
        for index in range(1, len(parts)):
            one, two = parts[index - 1], parts[index]
            fits = one.rows * layer.w_out <= p_room(layer, machine)
            if fits and (one.row, one.rows) == (two.row, two.rows):
                parts[index - 1] = replace(one, releases=False)
                parts[index] = replace(two, projects=False)
    return tuple(parts)


def _footprint(layer: Layer, machine: Machine, scheme: Scheme, parts: tuple[Part, ...]) -> int:
    """Bytes on chip: P, the operand that stays once, the operand and outputs that stream twice."""
    rows, channels = parts[0].rows, parts[0].channels
    weights, inputs = (
        _weight_bytes(layer, scheme, channels),
        _input_bytes(layer, machine, scheme, rows),
    )
    outputs = _output_bytes(layer, scheme, rows, channels) * (2 if layer.residual else 1)
    several_bands, several_ranges = rows < layer.h_out, channels < layer.c_out
    weights *= 2 if several_ranges else 1
    inputs *= 2 if several_bands else 1
    outputs *= 2 if len(parts) > 1 else 1
    return _projection_bytes(layer, scheme) + weights + inputs + outputs


def _check_resident(layer: Layer, machine: Machine, scheme: Scheme) -> None:
    w = machine.pses
    word = 2 * w
    x_words = (
        layer.pixels * layer.beats(w)
        if layer.c_in < w
        else (layer.h_in * layer.w_in * ceil_div(layer.c_in, w))
    )
    need = {"weights": layer.c_out * layer.beats(w) * word, "x": x_words * word}
    need["y"] = 2 * layer.neurons
    # EXACT reads the old residual again, so a new one needs a place of its own.
    if layer.residual or layer.joined:
        need["residual"] = 2 * layer.neurons * (layer.residual + bool(layer.joined))
    if not scheme.dense:
        need["weights"] += layer.c_out * layer.approximate_beats(w) * 4 * word
        need["xq"] = ceil_div(layer.h_in * layer.w_in * layer.c_in, 2) + ceil_div(layer.neurons, 2)
        need["projection"] = _projection_bytes(layer, scheme)
    for name, size in need.items():
        capacity = getattr(machine.memories, name).capacity_kib
        if size > capacity * 1024:
            raise InputError(
                f"{machine.name}: layer {layer.name} needs {ceil_div(size, 1024)} KiB of the {name}"
                f" memory, which holds {capacity}; raise memories.{name}.capacity_kib, or set"
                " dma.capacity_kib to stream the layer"
            )
