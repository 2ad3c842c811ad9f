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

from dataclasses import dataclass
from functools import cached_property

from .blocks import block_plan
from .errors import InputError
from .layer import Layer, ceil_div
from .machine import Machine
from .parts import Part, split
from .scheme import GROUP, Scheme

__all__ = ["Program", "Tile", "compile_layer"]


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
    parts = split(layer, machine, scheme)
    tiles: list[Tile] = []
    for index, part in enumerate(parts):
        tiles += _tiles(layer, machine, scheme, index, part)
    return Program(layer, machine, scheme, parts, tuple(tiles))


def _tiles(layer: Layer, machine: Machine, scheme: Scheme, index: int, part: Part) -> list[Tile]:
    pixel, pixels = part.row * layer.w_out, part.rows * layer.w_out
    columns = machine.columns
    batches = ceil_div(pixels, columns)
    width = part.channels if machine.unstructured else machine.channels_side_by_side
    deepest = block_plan(layer, machine, scheme, pixels, part.channels, part.projects)[1]
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
