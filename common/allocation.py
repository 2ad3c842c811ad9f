"""Which rows of which memory a part of a layer takes, and what is moved there and back.

A memory row is the same address of all its banks. What changes from part to part has two places in
turn, so that the load of a part runs while the part before computes; with resident accounting, in
which transfers take no time, it has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
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
    "Transfers",
    "groups_of",
    "input_rows",
    "loaded_words",
    "move",
    "overflow",
    "places",
    "row_bits",
]


#: Inner, outer and stride of the rows of a transfer; first row and rows of a band.
Shape = tuple[int, int, int]
Bands = tuple[int, int]


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


@dataclass(frozen=True, eq=False)
class Transfers:
    """What a part loads and stores, in order: targets with inner, outer and stride of their rows.
    Parts that move the same share one."""

    loads: tuple[tuple[Target, Shape], ...]
    stores: tuple[tuple[Target, Shape], ...]


class Allocation:
    """Where each part lies. `need` has the rows that each memory needs.

    What a part shares with the part before is not loaded again. Not in the need, since they depend
    on how a part is cut into tiles: p and masks.
    """

    def __init__(
        self,
        layer: Layer,
        machine: Machine,
        scheme: Scheme,
        bounds: Sequence[Bound],
        inputs: Callable[[int, int], tuple[int, int]] | None = None,
    ):
        """`inputs` is :func:`input_rows` of the layer, for who tries many bounds."""
        self.layer, self.machine, self.rough, self.bounds = layer, machine, not scheme.dense, bounds
        rough = self.rough
        inputs = inputs or partial(input_rows, layer, machine, scheme)
        self._weights = {
            channels: _weight_rows(layer, machine, rough, channels)
            for channels in {bound.channels for bound in bounds}
        }
        self._inputs = {
            band: inputs(*band) for band in {(bound.row, bound.rows) for bound in bounds}
        }
        self._outputs = {
            sides: _output_rows(layer, machine, *sides)
            for sides in {(bound.rows, bound.channels) for bound in bounds}
        }
        most = places(machine)
        ranges = min(most, len({bound.channel for bound in bounds}))
        bands = min(most, len({(bound.image, bound.row) for bound in bounds}))
        self.copies = min(most, len(bounds))
        self.weight_slot = max(exact + rough for exact, rough, _ in self._weights.values())
        self.parameter_slot = max(rows for *_, rows in self._weights.values())
        self.x_slot, self.xq_slot = (max(each[n] for each in self._inputs.values()) for n in (0, 1))
        self.y_slot = max(rows for rows, _ in self._outputs.values())
        self.matrix = 0
        if rough:
            tiles = row_tiles(layer, machine) * element_tiles(layer, machine)
            self.matrix = tiles * machine.rpu.load_cycles
        keeps = layer.residual or bool(layer.joined)
        self.need = {
            "weights": ranges * self.weight_slot,
            "x": bands * self.x_slot,
            "y": self.copies * self.y_slot,
            "residual": self.copies * self.y_slot * keeps,
            "xq": bands * self.xq_slot,
            "projection": self.matrix,
            "parameters": ranges * self.parameter_slot,
        }

    def transfers(self) -> list[Transfers]:
        """What each part loads and stores."""

        @cache
        def of(first: bool, band: Bands | None, channels: int, sides: tuple[int, int]) -> Transfers:
            loads: list[tuple[Target, Shape]] = []
            x, xq = self._inputs[band] if band else (0, 0)
            outputs = self._outputs[sides][1]
            if self.rough and first:
                loads.append((Target.PROJECTION, (self.matrix, 1, 0)))
            if self.rough and band:
                loads.append((Target.XQ, (xq, 1, 0)))
            if channels:
                whole, coarse, parameters = self._weights[channels]
                loads.append((Target.WEIGHTS, (whole + coarse, 1, 0)))
                loads.append((Target.PARAMETERS, (parameters, 1, 0)))
            if band:
                loads.append((Target.X, (x, 1, 0)))
            if self.layer.residual:
                loads.append((Target.RESIDUAL, outputs))
            stores = [(Target.STORE_Y, outputs)]
            if self.rough:
                stores.append((Target.STORE_YQ, outputs))
            return Transfers(tuple(loads), tuple(stores))

        made = []
        channel, band = None, None  # whose weights and inputs are there
        for index, bound in enumerate(self.bounds):
            other = (bound.image, bound.row)
            fresh = None if other == band else (bound.row, bound.rows)
            channels = 0 if bound.channel == channel else bound.channels
            made.append(of(index == 0, fresh, channels, (bound.rows, bound.channels)))
            channel, band = bound.channel, other
        return made

    def places(self) -> tuple[Place, ...]:
        """The place of each part, with its transfers. What changes takes one place after another in
        turn."""
        machine, most = self.machine, places(self.machine)

        @cache
        def put(target: Target, base: int, inner: int, outer: int, stride: int) -> Move:
            return move(machine, target, base, inner, outer, stride)

        made = []
        ranges = bands = -1
        for index, (bound, asked) in enumerate(zip(self.bounds, self.transfers(), strict=True)):
            loaded = {target for target, _ in asked.loads}
            ranges += Target.WEIGHTS in loaded
            bands += Target.X in loaded
            weights = ranges % most * self.weight_slot
            y = index % self.copies * self.y_slot
            base = {
                Target.PROJECTION: 0,
                Target.XQ: bands % most * self.xq_slot,
                Target.WEIGHTS: weights,
                Target.PARAMETERS: ranges % most * self.parameter_slot,
                Target.X: bands % most * self.x_slot,
                Target.RESIDUAL: y if self.layer.residual else 0,
                Target.STORE_Y: y,
                Target.STORE_YQ: y,
            }
            made.append(
                Place(
                    weights=weights,
                    rough=weights + self._weights[bound.channels][0] if self.rough else 0,
                    parameters=base[Target.PARAMETERS],
                    x=base[Target.X],
                    xq=base[Target.XQ],
                    projection=0,
                    residual=base[Target.RESIDUAL],
                    sums=y if self.layer.joined else 0,
                    y=y,
                    loads=tuple(put(target, base[target], *rows) for target, rows in asked.loads),
                    stores=tuple(put(target, base[target], *rows) for target, rows in asked.stores),
                )
            )
        return tuple(made)


def overflow(machine: Machine, need: dict[str, int]) -> str | None:
    """The first memory that has fewer rows than it needs, or None."""
    return next((name for name, rows in need.items() if rows > memory_depth(machine, name)), None)


def _stream_words(machine: Machine, target: Target, rows: int) -> int:
    return ceil_div(rows * transfer_row_bits(machine, target), 8 * machine.dma.bytes_per_cycle)


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


def input_rows(
    layer: Layer, machine: Machine, scheme: Scheme, row: int, rows: int
) -> tuple[int, int]:
    """Memory rows of x and of x^Q for output rows [row, row + rows)."""
    x, xq = x_feed(layer, machine, row, rows), xq_feed(layer, machine, row, rows)
    exact = x.words * ceil_div(x.pixels, machine.columns)
    return exact, 0 if scheme.dense else xq.words * xq.pixels


def _output_rows(layer: Layer, machine: Machine, rows: int, channels: int) -> tuple[int, Shape]:
    """Rows that outputs span in y, and the shape of their transfer."""
    groups, pixels = groups_of(machine, channels), rows * layer.w_out
    if machine.unstructured:
        gap = 1 << row_bits(machine, channels)
        return (pixels - 1) * gap + groups, (groups, pixels, gap)
    lines = groups * ceil_div(pixels, machine.columns) * GROUP
    return lines, (lines, 1, 0)
