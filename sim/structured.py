"""The structured machine: groups of 8 channels a lane, batches of T pixels, weights shared by them.

A batch's x words pass the crossbar once a beat and serve the N essential channels of every group;
all VPUs advance together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..common.layer import ceil_div
from ..common.program import Tile
from ..common.scheme import GROUP
from .feeds import Process
from .vector_unit import VectorUnit
from .work import batches

__all__ = ["StructuredUnit"]


class StructuredUnit(VectorUnit):
    """APPROXIMATE by sub-blocks for the collector, EXACT by blocks for the accumulators."""

    def approximate(self, index: int, tile: Tile, gates: dict[str, int]) -> Process:
        machine, counts = self.machine, self.counts
        columns, beats = machine.columns, self.program.approximate_beats
        total = ceil_div(tile.pixels, columns)
        blocks = ceil_div(total, self.program.batches_of_approximate_block)
        base, more = divmod(total, blocks)
        load = ceil_div(GROUP, machine.weight_words)
        first = 0
        for block in range(blocks):
            depth = base + (block < more)
            pixels = min(depth * columns, tile.pixels - first)
            ready = yield self.projection.event(tile.part, tile.pixel + first + pixels - 1)
            # Units of two row-beats: p of a batch is read over two cycles and serves both.
            units = GROUP // 2 * beats
            busy = 2 * depth
            self.stream.run(
                units,
                load,
                busy,
                max(0, self.contract.accumulate - busy),
                {**gates, "rpu": ready + self.contract.feed},
                "shallow",
            )
            gates = {}
            useful = pixels * tile.channels * beats
            slots = machine.vpus * units * busy
            idle_pixels = (depth * columns - pixels) * machine.lanes * GROUP * beats
            self._slots(slots, useful, idle_pixels, slots - useful - idle_pixels)
            # Both halves hold two row-beats of four words; a lane without a group loads nothing.
            rows = _lanes_with_channels(tile, machine.lanes) * GROUP * beats
            counts["weights.read"] += 4 * rows
            counts["group_buffer.write"] += 4 * rows
            counts["group_buffer.read"] += 4 * useful
            counts["p.read"] += units * pixels
            counts["mvu.mac4"] += 16 * machine.pses * useful
            counts["accumulator.update"] += useful
            first += pixels
        self.selected[index] = self.clock.now + self.contract.to_indices
        outputs = tile.pixels * tile.channels
        groups = tile.pixels * ceil_div(tile.channels, GROUP)
        lines = tile.pixels
        counts["parameters.read"] += tile.channels
        counts["collector.write"] += outputs
        counts["select.rank"] += groups
        counts["masks.write"] += ceil_div(groups * self._index_bits(), machine.word_bits("masks"))
        self._write_back(outputs, lines)

    def _index_bits(self) -> int:
        """Bits that name the essential channels of a group: 3 each, or a bit mask if irregular."""
        return 3 * self.scheme.essential_of_group if self.scheme.structured else GROUP

    def exact(self, index: int, tile: Tile, gates: dict[str, int]) -> Process:
        machine, counts, layer = self.machine, self.counts, self.layer
        columns = machine.columns
        part = self.program.parts[tile.part]
        geometry = batches(
            layer, part.row * layer.w_out, part.rows * layer.w_out, columns, machine.pses
        )
        first = (tile.pixel - part.row * layer.w_out) // columns
        chosen = slice(first, first + ceil_div(tile.pixels, columns))
        depth, essential, idle_channels, lines = self._batch_depths(tile)
        self.essential += essential
        if not self.scheme.dense:
            gates = {**gates, "select": self.selected.pop(index)}
        if not depth.any():
            return
        active = depth > 0
        conflicts, words = geometry.conflicts[chosen][active], geometry.words[chosen][active]
        busy = int(depth.sum())
        late = np.maximum(conflicts - depth[active][:, None], 0).sum(0)
        load = ceil_div(GROUP, machine.weight_words)
        for idle in late.tolist():
            idle = max(idle, self.contract.accumulate - busy)
            self.stream.run(geometry.beats, load, busy, idle, gates)
            gates = {}
        beats = self.program.beats
        useful = essential * beats
        slots = machine.vpus * busy * beats
        pixels = np.minimum(columns, tile.pixels - np.arange(len(depth)) * columns)
        idle_pixels = int(((columns - pixels) * depth).sum()) * machine.lanes * beats
        self._slots(slots, useful, idle_pixels, idle_channels * beats)
        counts["weights.read"] += tile.channels * beats
        counts["group_buffer.write"] += tile.channels * beats
        counts["group_buffer.read"] += useful
        x_words = int(words.sum()) * geometry.beats
        counts["x.read"] += x_words
        counts["crossbar.word"] += x_words
        counts["mvu.mac16"] += machine.pses * useful
        counts["accumulator.update"] += useful
        counts["parameters.read"] += tile.channels
        if not self.scheme.dense:
            groups = tile.pixels * ceil_div(tile.channels, GROUP)
            counts["masks.read"] += beats * ceil_div(
                groups * self._index_bits(), machine.word_bits("masks")
            )
        self._write_back(essential, lines)
        return
        yield  # a generator, like the other steps

    def _batch_depths(self, tile: Tile) -> tuple[NDArray[np.int64], int, int, int]:
        """Issue cycles a beat of each batch; essential neurons, slots without a channel, and write
        accesses (a pixel's lanes write one line together) of the tile.

        All VPUs advance together: a batch takes as long as its fullest group.
        """
        machine = self.machine
        columns, lanes = machine.columns, machine.lanes
        count = ceil_div(tile.pixels, columns)
        widths = np.clip(tile.channels - GROUP * np.arange(lanes), 0, GROUP)
        if self.mask is None:
            keep = GROUP if self.scheme.dense else self.scheme.essential_of_group
            kept = np.minimum(widths, keep)
            depth = np.full(count, kept.max())
            idle = int((depth[0] - kept).sum()) * tile.pixels
            return depth, int(kept.sum()) * tile.pixels, idle, int(depth[0]) * tile.pixels
        mask = np.zeros((count * columns, lanes * GROUP), dtype=bool)
        mask[: tile.pixels, : tile.channels] = self.mask[
            tile.pixel : tile.pixel + tile.pixels, tile.channel : tile.channel + tile.channels
        ]
        grouped = mask.reshape(count, columns, lanes, GROUP).sum(-1, dtype=np.int64)
        depth = grouped.max((1, 2))
        pixels = np.minimum(columns, tile.pixels - np.arange(count) * columns)
        missing = np.maximum(depth[:, None] - widths, 0).sum(1)
        lines = int(grouped.max(2).sum())
        return depth, int(grouped.sum()), int((missing * pixels).sum()), lines


def _lanes_with_channels(tile: Tile, lanes: int) -> int:
    return min(lanes, ceil_div(tile.channels, GROUP))
