"""The one compiler of programs: a layer, a machine and a scheme become parts, tiles and steps.

A *part* is what the on-chip store holds at once: a band of output rows by a range of channels. With
resident accounting a layer is one part. A *tile* is a block of consecutive output pixels by the
channels that are computed side by side (structured: a supergroup of 8 V channels; unstructured:
all channels of the part). Each tile is computed approximately (A), then exactly where essential
(E); the steps interleave as A1 A2 E1 A3 E2 ..., so that selection hides behind the next approximate
tile.

Tiles run through the supergroups of a block before the next block: weights are fetched once a tile
in either order, and this one lets the projection unit work through the whole layer instead of
holding up its first supergroup.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .layer import Layer, ceil_div
from .machine import Machine
from .scheme import GROUP, Scheme

__all__ = ["Part", "Program", "Tile", "compile_layer", "p_room", "place_channels"]


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


@dataclass(frozen=True)
class Tile:
    """Output pixels [pixel, pixel + pixels) by channels [channel, channel + channels) of a part.

    `last_of_block`: no later tile of the part uses these pixels' p again.
    """

    part: int
    pixel: int
    pixels: int
    channel: int
    channels: int
    last_of_block: bool


@dataclass(frozen=True)
class Program:
    """A compiled layer. `steps` are ("A" or "E", tile index) in the order of execution."""

    layer: Layer
    machine: Machine
    scheme: Scheme
    parts: tuple[Part, ...]
    tiles: tuple[Tile, ...]

    @property
    def beats(self) -> int:
        """B, beats of an exact dot product."""
        return self.layer.beats(self.machine.pses)

    @property
    def approximate_beats(self) -> int:
        """B4, beats of an approximate dot product."""
        return self.layer.approximate_beats(self.machine.pses)

    @property
    def batches_of_approximate_block(self) -> int:
        """Pixel batches of one approximate pass: the collector's depth on S, the tile on U."""
        if self.machine.unstructured:
            return self.machine.accumulators
        return min(self.machine.accumulators // 2, self.machine.collector)

    @property
    def computes_exactly(self) -> bool:
        """Whether there is any EXACT step: q = M leaves no essential neuron at all."""
        return not (self.scheme.structured and self.scheme.essential_of_group == 0)

    @cached_property
    def steps(self) -> tuple[tuple[str, int], ...]:
        count = len(self.tiles)
        if self.scheme.dense:
            return tuple(("E", index) for index in range(count))
        steps: list[tuple[str, int]] = []
        for index in range(count):
            steps.append(("A", index))
            if index and self.computes_exactly:
                steps.append(("E", index - 1))
        if self.computes_exactly:
            steps.append(("E", count - 1))
        return tuple(steps)


def compile_layer(layer: Layer, machine: Machine, scheme: Scheme) -> Program:
    """Compile one layer.

    Raises
    ------
    InputError
        If the scheme does not run on the machine, or a memory is too small for the layer.
    """
    if scheme.structured and machine.unstructured:
        raise InputError(
            f"scheme {scheme} needs a structured machine; {machine.name} selects by a threshold and"
            " runs dense or unstructured:RATIO"
        )
    if scheme.structured and scheme.group != GROUP:
        raise InputError(
            f"scheme {scheme}: the hardware ranks groups of {GROUP}, not {scheme.group}"
        )
    parts = _parts(layer, machine, scheme)
    tiles: list[Tile] = []
    for index, part in enumerate(parts):
        tiles += _tiles(layer, machine, scheme, index, part)
    return Program(layer, machine, scheme, parts, tuple(tiles))


def place_channels(density: Sequence[float] | NDArray[np.floating], lanes: int) -> NDArray[np.intp]:
    """Return the placement order: position j holds channel order[j], on lane j mod `lanes`.

    Longest first: channels by falling density, each to the lane with the least load among those
    with room (at most ceil(C_out / lanes) channels a lane). Row j // lanes of a lane's bank.
    """
    density = np.asarray(density, dtype=np.float64)
    count = len(density)
    # Only the last row may be short, and then its first lanes are the filled ones.
    room = np.full(lanes, count // lanes)
    room[: count % lanes] += 1
    load = np.zeros(lanes)
    lists: list[list[int]] = [[] for _ in range(lanes)]
    for channel in np.argsort(-density, kind="stable"):
        open_lanes = np.flatnonzero(room > 0)
        lane = open_lanes[np.argmin(load[open_lanes])]
        lists[lane].append(int(channel))
        load[lane] += density[channel]
        room[lane] -= 1
    order = np.empty(count, dtype=np.intp)
    for lane, channels in enumerate(lists):
        order[lane::lanes] = channels
    return order


def _tiles(layer: Layer, machine: Machine, scheme: Scheme, index: int, part: Part) -> list[Tile]:
    pixel, pixels = part.row * layer.w_out, part.rows * layer.w_out
    columns = machine.columns
    batches = ceil_div(pixels, columns)
    width = part.channels if machine.unstructured else machine.channels_side_by_side
    deepest = _block_plan(layer, machine, scheme, pixels, part.channels, part.projects)[1]
    blocks = ceil_div(batches, deepest)
    base, more = divmod(batches, blocks)
    tiles = []
    done = 0
    for block in range(blocks):
        count = min((base + (block < more)) * columns, pixels - done)
        for channel in range(0, part.channels, width):
            tiles.append(
                Tile(
                    part=index,
                    pixel=pixel + done,
                    pixels=count,
                    channel=part.channel + channel,
                    channels=min(width, part.channels - channel),
                    last_of_block=channel + width >= part.channels,
                )
            )
        done += count
    return tiles


def _block_plan(
    layer: Layer,
    machine: Machine,
    scheme: Scheme,
    pixels: int,
    channels: int,
    projects: bool = True,
) -> tuple[float, int]:
    """Return the estimated cycles of a part, and the depth of its blocks that gives them.

    Deep blocks reload weights less often; shallow ones let the first exact tile start before the
    projection unit has finished much of the layer. Of equal depths the deeper wins: less energy.
    """
    batches = ceil_div(pixels, machine.columns)
    depth = min(_deepest(layer, machine, scheme), batches)
    rpu, beats = machine.rpu, layer.beats(machine.pses)
    rough_beats = 0 if scheme.dense else layer.approximate_beats(machine.pses)
    inner = (
        (layer.k, layer.d) if layer.projection == "patch" else (layer.k // layer.taps, layer.c_in)
    )
    project = ceil_div(inner[0], rpu.rows) * ceil_div(inner[1], rpu.elements) * machine.columns
    if scheme.dense or not projects:
        project = 0
    share = float(1 - scheme.ratio)
    tiles = 1 if machine.unstructured else ceil_div(channels, machine.channels_side_by_side)
    rows = ceil_div(channels, machine.channels_side_by_side) * (
        1 if machine.unstructured else GROUP
    )
    if machine.unstructured:
        load, shallowest = 0, machine.window
        # An x word enters the window a cycle; a pixel without essential neuron needs none.
        per_batch = max(rows * share, 1 - (1 - share) ** channels)
    else:
        load, shallowest = ceil_div(GROUP, machine.weight_words), 1
        per_batch = GROUP * share
    best = (0.0, 0)
    while True:
        ready = done = 0.0
        for first in range(0, batches, depth):
            count = min(depth, batches - first)
            ready += project * count
            work = tiles * beats * max(load, count * per_batch)
            done = max(done, ready) + work + rough_beats * rows * max(count, 4)
        if not best[1] or done < best[0]:
            best = (done, depth)
        if scheme.dense or depth // 2 < shallowest:
            return best
        depth //= 2


def _deepest(layer: Layer, machine: Machine, scheme: Scheme) -> int:
    """Most batches a block may have: accumulators, and p memory for two blocks."""
    if machine.unstructured:
        deepest = machine.accumulators
    else:
        # A batch takes as many accumulators as its deepest group may need.
        need = max(1, scheme.essential_of_group) if scheme.structured else GROUP
        deepest = machine.accumulators // need
    if scheme.dense:
        return deepest
    room = p_room(layer, machine) // 2
    if room < max(machine.columns, machine.rpu.hold):
        raise InputError(
            f"{machine.name}: memories.p.capacity_kib = {machine.memories.p.capacity_kib} is too"
            f" small for layer {layer.name}, which needs room for {2 * machine.columns} pixels and"
            f" for twice rpu.hold = {machine.rpu.hold}; raise it"
        )
    return min(deepest, room // machine.columns)


def p_room(layer: Layer, machine: Machine) -> int:
    """Pixels of the layer whose projection p the p memory holds."""
    beats = layer.approximate_beats(machine.pses)
    return machine.memories.p.capacity_kib * 8192 // machine.word_bits("p") // beats


# Bytes of the parameters of a channel: M, b, M~, b~, a, c.
_PARAMETER_BYTES = 16


def _parts(layer: Layer, machine: Machine, scheme: Scheme) -> tuple[Part, ...]:
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
                if _footprint(layer, scheme, parts) > capacity:
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
        lambda rows, channels, projects: _block_plan(
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


def _input_bytes(layer: Layer, scheme: Scheme, rows: int) -> int:
    """Input rows that `rows` output rows need: 16-bit x, and 4-bit x^Q unless dense."""
    needed = min(layer.h_in, (rows - 1) * layer.stride + layer.kernel)
    values = needed * layer.w_in * layer.c_in
    return 2 * values + (0 if scheme.dense else ceil_div(values, 2))


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
            load += _input_bytes(layer, scheme, rows)
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


def _footprint(layer: Layer, scheme: Scheme, parts: tuple[Part, ...]) -> int:
    """Bytes on chip: P, the operand that stays once, the operand and outputs that stream twice."""
    rows, channels = parts[0].rows, parts[0].channels
    weights, inputs = _weight_bytes(layer, scheme, channels), _input_bytes(layer, scheme, rows)
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
    if layer.residual:
        need["residual"] = 2 * layer.neurons
    if not scheme.dense:
        need["weights"] += layer.c_out * layer.approximate_beats(w) * 4 * word
        need["xq"] = ceil_div(layer.h_in * layer.w_in * layer.c_in, 2)
        need["projection"] = _projection_bytes(layer, scheme)
    for name, size in need.items():
        capacity = getattr(machine.memories, name).capacity_kib
        if size > capacity * 1024:
            raise InputError(
                f"{machine.name}: layer {layer.name} needs {ceil_div(size, 1024)} KiB of the {name}"
                f" memory, which holds {capacity}; raise memories.{name}.capacity_kib, or set"
                " dma.capacity_kib to stream the layer"
            )
