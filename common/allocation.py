"""Which rows of which memory a part of a layer takes, and what is moved there and back.

A memory row is the same address of all its banks. What changes from part to part has two places in
turn, so that the load of a part runs while the part before computes; with resident accounting, in
which transfers take no time, it has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

from .descriptor import (
    Target,
    memory_depth,
    memory_row_bits,
    target_memory,
    transfer_row_bits,
)
from .geometry import element_tiles, row_tiles, x_feed, xq_feed
from .layer import Layer, ceil_div
from .machine import Machine
from .scheme import GROUP, Scheme

__all__ = [
    "Allocation",
    "Bound",
    "Move",
    "Place",
    "groups_of",
    "loaded_words",
    "move",
    "overflow",
    "places",
    "row_bits",
]


class Bound(NamedTuple):
    """Output rows [row, row + rows) by channels [channel, channel + channels) of an image."""

    row: int
    rows: int
    channel: int
    channels: int
    image: int = 0


class Move(NamedTuple):
    """A transfer: rows base + o * stride + i of a memory, i < inner, o < outer, in that order.

    `words` is what it takes of the stream, in stream words.
    """

    target: Target
    base: int
    inner: int
    outer: int
    stride: int
    words: int

    @property
    def rows(self) -> int:
        return self.inner * self.outer


class Place(NamedTuple):
    """First rows of a part's operands and results in their memories, and its transfers.

    Weights of APPROXIMATE, `rough`, follow those of EXACT; `sums` is a place in the half of the
    residual memory that keeps sums, `residual` one in the half to add. What the part does not use
    has base 0.
    """

    weights: int
    rough: int
    parameters: int
    x: int
    xq: int
    projection: int
    residual: int
    sums: int
    y: int
    loads: tuple[Move, ...]
    stores: tuple[Move, ...]


def places(machine: Machine) -> int:
    """Places, used in turn, of what changes from part to part."""
    return 1 if machine.resident else 2


def groups_of(machine: Machine, channels: int) -> int:
    """Rows of V channels on U, supergroups of 8 V on S."""
    return ceil_div(channels, machine.channels_side_by_side)


def row_bits(machine: Machine, channels: int) -> int:
    """Address bits of a pixel's rows in the y memory of U; 0 on S."""
    return (groups_of(machine, channels) - 1).bit_length() if machine.unstructured else 0


def move(
    machine: Machine, target: Target, base: int, inner: int, outer: int = 1, stride: int = 0
) -> Move:
    """The transfer of these rows, with the words it takes of the stream."""
    return Move(target, base, inner, outer, stride, _stream_words(machine, target, inner * outer))


def loaded_words(machine: Machine, moves: Iterable[Move]) -> dict[str, int]:
    """Bank words that LOADs write, by memory: every bank of a row, whole."""
    counts: dict[str, int] = {}
    for each in moves:
        name = target_memory(each.target)
        bank = 16 if name in ("y", "residual") else machine.word_bits(name)
        banks = memory_row_bits(machine, name) // bank
        counts[name] = counts.get(name, 0) + banks * each.rows
    return counts


class Allocation:
    """Where each part lies. `need` has the rows that each memory needs.

    What a part shares with the part before is not loaded again. Not in the need, since they depend
    on how a part is cut into tiles: p and masks.
    """

    def __init__(self, layer: Layer, machine: Machine, scheme: Scheme, bounds: Sequence[Bound]):
        self.layer, self.machine, self.rough = layer, machine, not scheme.dense
        most, rough = places(machine), self.rough

        @cache
        def of_channels(channels: int) -> tuple[int, int, int]:
            return _weight_rows(layer, machine, rough, channels)

        @cache
        def of_rows(row: int, rows: int) -> tuple[int, int]:
            x, xq = x_feed(layer, machine, row, rows), xq_feed(layer, machine, row, rows)
            return x.words * ceil_div(x.pixels, machine.columns), rough * xq.words * xq.pixels

        @cache
        def of_both(rows: int, channels: int) -> tuple[int, int, int, int]:
            """Rows that outputs span in y, and inner, outer and stride of their transfer."""
            groups, pixels = groups_of(machine, channels), rows * layer.w_out
            if machine.unstructured:
                gap = 1 << row_bits(machine, channels)
                return (pixels - 1) * gap + groups, groups, pixels, gap
            lines = groups * ceil_div(pixels, machine.columns) * GROUP
            return lines, lines, 1, 0

        self.ranges = _Turns([(bound.channel, bound.channels) for bound in bounds], most)
        self.bands = _Turns([(bound.image, bound.row, bound.rows) for bound in bounds], most)
        self.copies = min(most, len(bounds))
        self.weights = [of_channels(bound.channels) for bound in bounds]
        self.inputs = [of_rows(bound.row, bound.rows) for bound in bounds]
        self.outputs = [of_both(bound.rows, bound.channels) for bound in bounds]
        self.weight_slot = max(first + second for first, second, _ in self.weights)
        self.parameter_slot = max(third for *_, third in self.weights)
        self.x_slot, self.xq_slot = (max(each[n] for each in self.inputs) for n in (0, 1))
        self.y_slot = max(each[0] for each in self.outputs)
        self.matrix = 0
        if rough:
            tiles = row_tiles(layer, machine) * element_tiles(layer, machine)
            self.matrix = tiles * machine.rpu.load_cycles
        keeps = layer.residual or bool(layer.joined)
        self.need = {
            "weights": self.ranges.copies * self.weight_slot,
            "x": self.bands.copies * self.x_slot,
            "y": self.copies * self.y_slot,
            "residual": self.copies * self.y_slot * keeps,
            "xq": self.bands.copies * self.xq_slot,
            "projection": self.matrix,
            "parameters": self.ranges.copies * self.parameter_slot,
        }

    def places(self) -> tuple[Place, ...]:
        """The place of each part, with its transfers."""
        machine, rough, ranges, bands = self.machine, self.rough, self.ranges, self.bands
        exact, sums = self.layer.residual, bool(self.layer.joined)

        @cache
        def put(target: Target, base: int, inner: int, outer: int = 1, stride: int = 0) -> Move:
            return move(machine, target, base, inner, outer, stride)

        made = []
        for index in range(len(self.weights)):
            slot, turn, band = index % self.copies, ranges.turn[index], bands.turn[index]
            whole, coarse, per_channel = self.weights[index]
            x, xq = self.inputs[index]
            shape = self.outputs[index][1:]
            weights, parameters = turn * self.weight_slot, turn * self.parameter_slot
            y, residual = slot * self.y_slot, slot * self.y_slot if exact else 0
            x_base, xq_base = band * self.x_slot, band * self.xq_slot
            loads = []
            if rough and index == 0:
                loads.append(put(Target.PROJECTION, 0, self.matrix))
            if rough and bands.fresh[index]:
                loads.append(put(Target.XQ, xq_base, xq))
            if ranges.fresh[index]:
                loads.append(put(Target.WEIGHTS, weights, whole + coarse))
                loads.append(put(Target.PARAMETERS, parameters, per_channel))
            if bands.fresh[index]:
                loads.append(put(Target.X, x_base, x))
            if exact:
                loads.append(put(Target.RESIDUAL, residual, *shape))
            stores = [put(Target.STORE_Y, y, *shape)]
            if rough:
                stores.append(put(Target.STORE_YQ, y, *shape))
            made.append(
                Place(
                    weights=weights,
                    rough=weights + whole if rough else 0,
                    parameters=parameters,
                    x=x_base,
                    xq=xq_base,
                    projection=0,
                    residual=residual,
                    sums=y if sums else 0,
                    y=y,
                    loads=tuple(loads),
                    stores=tuple(stores),
                )
            )
        return tuple(made)


def overflow(machine: Machine, need: dict[str, int]) -> str | None:
    """The first memory that has fewer rows than it needs, or None."""
    return next((name for name, rows in need.items() if rows > memory_depth(machine, name)), None)


def _stream_words(machine: Machine, target: Target, rows: int) -> int:
    return ceil_div(rows * transfer_row_bits(machine, target), 8 * machine.dma.bytes_per_cycle)


class _Turns:
    """Which of `most` places each part uses for what it shares with its neighbours of equal key.

    `fresh`: the part needs a load. `turn`: the place. `copies`: places needed.
    """

    def __init__(self, keys: Sequence[tuple[int, ...]], most: int):
        self.fresh: list[bool] = []
        self.turn: list[int] = []
        before, loads = None, 0
        for key in keys:
            self.fresh.append(key != before)
            loads += key != before
            self.turn.append((loads - 1) % most)
            before = key
        self.copies = min(most, loads)


def _weight_rows(
    layer: Layer, machine: Machine, rough: bool, channels: int
) -> tuple[int, int, int]:
    """Rows of W, of W~ and of the parameters of `channels`."""
    groups = groups_of(machine, channels)
    beats, rough_beats = layer.beats(machine.pses), rough * layer.approximate_beats(machine.pses)
    if machine.unstructured:
        return beats * groups, 4 * rough_beats * groups, groups
    lines = GROUP // machine.weight_words
    return groups * beats * lines, groups * 4 * rough_beats * lines, groups * lines
