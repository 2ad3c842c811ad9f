"""The one compiler of programs: a layer, a machine and a scheme become parts, tiles and steps.

A *part* is what the on-chip store holds at once: a band of output rows of an image by a range of
channels. With resident accounting an image of a layer is one part. Images of a batch may be stacked
to one. A *tile* is a block of consecutive output pixels by the
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

import numpy as np
from numpy.typing import NDArray

from .allocation import groups_of
from .batch import stack, togethers
from .blocks import Pieces, block_plan, pieces
from .descriptor import memory_depth, memory_row_bits
from .errors import InputError
from .layer import Layer, ceil_div
from .machine import Machine
from .parts import Part, split
from .scheme import GROUP, Scheme

__all__ = ["Program", "Tile", "compile_layer", "mask_rows"]


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
    """A compiled layer. `steps` are ("A" or "E", tile index) in the order of execution.

    `blocks` cuts the batches of each part, T pixels each, into blocks. `images` are computed, each
    `together` of them as one: `layer` is what the hardware computes, of one image or of those
    together (:func:`sinai.common.batch.stack`), and the images of parts count these.
    """

    layer: Layer
    machine: Machine
    scheme: Scheme
    parts: tuple[Part, ...]
    tiles: tuple[Tile, ...]
    blocks: tuple[Pieces, ...]
    images: int = 1
    together: int = 1

    @cached_property
    def tiles_of_part(self) -> tuple[range, ...]:
        """Indices of the tiles of each part."""
        counts = [0] * len(self.parts)
        for tile in self.tiles:
            counts[tile.part] += 1
        ends = np.cumsum(counts).tolist()
        return tuple(range(end - count, end) for end, count in zip(ends, counts, strict=True))

    def mask_of_part(self, index: int, mask: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
        """Of the masks of a batch, (images, P, C_out), those of the image of a part; None if there
        are none. One image's may be (P, C_out)."""
        if mask is None:
            return None
        shape = (-1, self.layer.pixels, self.layer.c_out)
        return mask.reshape(shape)[self.parts[index].image]

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

    def approximate_blocks(self, batches: int) -> Pieces:
        """Sub-blocks of the approximate pass of a tile of so many batches."""
        return pieces(batches, self.batches_of_approximate_block)

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


def compile_layer(layer: Layer, machine: Machine, scheme: Scheme, batch: int = 1) -> Program:
    """Compile one layer over a batch of images.

    Raises
    ------
    InputError
        If the batch is not positive, the scheme does not run on the machine, or a memory is too
        small for the layer.
    """
    if batch < 1:
        raise InputError(f"batch must be at least 1, not {batch}")
    if scheme.structured and machine.unstructured:
        raise InputError(
            f"scheme {scheme} needs a structured machine; {machine.name} selects by a threshold and"
            " runs dense or unstructured:RATIO"
        )
    if scheme.structured and scheme.group != GROUP:
        raise InputError(
            f"scheme {scheme}: the hardware ranks groups of {GROUP}, not {scheme.group}"
        )
    together, parts = _split(layer, machine, scheme, batch)
    layer = stack(layer, together)
    blocks = tuple(
        pieces(
            ceil_div(part.rows * layer.w_out, machine.columns),
            block_plan(
                layer, machine, scheme, part.rows * layer.w_out, part.channels, part.projects
            )[1],
        )
        for part in parts
    )
    if not scheme.dense:
        _check_masks(layer, machine, parts, blocks)
    tiles: list[Tile] = []
    for index in range(len(parts)):
        tiles += _tiles(layer, machine, index, parts[index], blocks[index])
    return Program(layer, machine, scheme, parts, tuple(tiles), blocks, batch, together)


def _split(
    layer: Layer, machine: Machine, scheme: Scheme, batch: int
) -> tuple[int, tuple[Part, ...]]:
    """How many images are computed as one, and the parts of least estimated cycles; of equals the
    fewest, whose inputs need not be copied as often."""
    found = {}
    for together in togethers(layer, machine, scheme, batch):
        try:
            found[together] = split(stack(layer, together), machine, scheme, batch // together)
        except InputError:
            if together == 1:
                raise
    best = min(found, key=lambda together: (found[together].cycles, together))
    return best, found[best].parts


def mask_rows(machine: Machine, channels: int, batches: int) -> int:
    """Rows of the mask memory that a tile of so many batches takes.

    S: one a batch. U: for each window, the words of W pixels of the rows of `channels`.
    """
    if not machine.unstructured:
        return batches
    words = ceil_div(groups_of(machine, channels) * machine.window, 64)
    return ceil_div(batches, machine.window) * words


def _tiles(layer: Layer, machine: Machine, index: int, part: Part, blocks: Pieces) -> list[Tile]:
    pixel, pixels = part.row * layer.w_out, part.rows * layer.w_out
    width = part.channels if machine.unstructured else machine.channels_side_by_side
    tiles = []
    done = 0
    for depth in blocks.sizes:
        count = min(depth * machine.columns, pixels - done)
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


def _check_masks(
    layer: Layer, machine: Machine, parts: tuple[Part, ...], blocks: tuple[Pieces, ...]
) -> None:
    """The ring of masks holds three tiles: one under selection, two for EXACT."""
    for part, cut in zip(parts, blocks, strict=True):
        need = 3 * mask_rows(machine, part.channels, cut.deepest)
        if need > memory_depth(machine, "masks"):
            size = ceil_div(need * memory_row_bits(machine, "masks"), 8192)
            raise InputError(
                f"{machine.name}: layer {layer.name} needs {size} KiB of the masks memory, which"
                f" holds {machine.memories.masks.capacity_kib}; raise memories.masks.capacity_kib"
            )
