"""The structured machine: groups of 8 channels a lane, batches of T pixels, weights shared by them.

A batch's x words pass the crossbar once a beat and serve the N essential channels of every group;
all VPUs advance together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..common.layer import ceil_div
from ..common.program import Tile
from ..common.scheme import GROUP
from .feeds import Process
from .vector_unit import VectorUnit
from .work import Counts, batches

__all__ = ["StructuredUnit"]


class StructuredUnit(VectorUnit):
    """APPROXIMATE by sub-blocks for the collector, EXACT by blocks for the accumulators."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._known: dict[tuple[int, int, int], _Work] = {}
        self._grouped: tuple[int, tuple[Counts, Counts, Counts] | None] = (-1, None)

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
        machine, counts = self.machine, self.counts
        # Without a mask, tiles of equal pixels and width ask for the same work.
        key = (tile.pixel, tile.pixels, tile.channels)
        work = self._known.get(key)
        if work is None:
            work = self._work(tile)
            if self.mask is None:
                self._known[key] = work
        self.essential += work.essential
        if not self.scheme.dense:
            gates = {**gates, "select": self.selected.pop(index)}
        if not work.busy:
            return
        load = ceil_div(GROUP, machine.weight_words)
        for idle in work.late:
            idle = max(idle, self.contract.accumulate - work.busy)
            self.stream.run(work.beats, load, work.busy, idle, gates)
            gates = {}
        beats = self.program.beats
        useful = work.essential * beats
        slots = machine.vpus * work.busy * beats
        self._slots(slots, useful, work.idle_pixels * beats, work.idle_channels * beats)
        counts["weights.read"] += tile.channels * beats
        counts["group_buffer.write"] += tile.channels * beats
        counts["group_buffer.read"] += useful
        counts["x.read"] += work.words
        counts["crossbar.word"] += work.words
        counts["mvu.mac16"] += machine.pses * useful
        counts["accumulator.update"] += useful
        counts["parameters.read"] += tile.channels
        if not self.scheme.dense:
            groups = tile.pixels * ceil_div(tile.channels, GROUP)
            counts["masks.read"] += beats * ceil_div(
                groups * self._index_bits(), machine.word_bits("masks")
            )
        self._write_back(work.essential, work.lines)
        return
        yield  # a generator, like the other steps

    def _work(self, tile: Tile) -> _Work:
        """Count what EXACT of a tile asks for, a beat.

        All VPUs advance together: a batch takes as long as its fullest group.
        """
        machine, layer = self.machine, self.layer
        columns, lanes = machine.columns, machine.lanes
        part = self.program.parts[tile.part]
        count = ceil_div(tile.pixels, columns)
        pixels = np.minimum(columns, tile.pixels - np.arange(count) * columns)
        widths = np.clip(tile.channels - GROUP * np.arange(lanes), 0, GROUP)
        first = (tile.pixel - part.row * layer.w_out) // columns
        chosen = slice(first, first + count)
        if self.mask is None:
            keep = GROUP if self.scheme.dense else self.scheme.essential_of_group
            kept = np.minimum(widths, keep)
            depth = np.full(count, kept.max())
            essential = int(kept.sum()) * tile.pixels
            idle_channels = int((depth[0] - kept).sum()) * tile.pixels
            lines = int(depth[0]) * tile.pixels
        else:
            deepest, sums, written = self._groups(tile.part)
            supergroup = tile.channel // machine.channels_side_by_side
            depth = deepest[chosen, supergroup]
            essential = int(sums[chosen, supergroup].sum())
            lines = int(written[chosen, supergroup].sum())
            idle_channels = 0
            if tile.channels < machine.channels_side_by_side:
                missing = np.maximum(depth[:, None] - widths, 0).sum(1)
                idle_channels = int((missing * pixels).sum())
        geometry = batches(
            layer, part.row * layer.w_out, part.rows * layer.w_out, columns, machine.pses
        )
        conflicts, words = geometry.conflicts[chosen], geometry.words[chosen]
        deep, active = depth, depth > 0
        if not active.all():
            conflicts, words, deep = conflicts[active], words[active], depth[active]
        return _Work(
            beats=geometry.beats,
            busy=int(depth.sum()),
            late=np.maximum(conflicts - deep[:, None], 0).sum(0).tolist(),
            essential=essential,
            idle_pixels=int(((columns - pixels) * depth).sum()) * lanes,
            idle_channels=idle_channels,
            words=int(words.sum()) * geometry.beats,
            lines=lines,
        )

    def _groups(self, index: int) -> tuple[Counts, Counts, Counts]:
        """Of a part, by batch and supergroup: essential channels of the fullest group, of all
        groups, and write accesses; made once for all its tiles."""
        if self._grouped[0] != index:
            part, machine = self.program.parts[index], self.machine
            columns, lanes = machine.columns, machine.lanes
            first, pixels = part.row * self.layer.w_out, part.rows * self.layer.w_out
            count = ceil_div(pixels, columns)
            supergroups = ceil_div(self.layer.c_out, machine.channels_side_by_side)
            mask = np.zeros((count * columns, supergroups * lanes * GROUP), dtype=bool)
            mask[:pixels, : self.layer.c_out] = self.mask[first : first + pixels]
            # A bool is a byte of 0 or 1: eight of them summed by one multiplication.
            eights = mask.view(np.uint64) * np.uint64(0x0101010101010101) >> np.uint64(56)
            groups = eights.astype(np.int64).reshape(count, columns, supergroups, lanes)
            lines = groups.max(3)
            self._grouped = index, (lines.max(1), groups.sum((1, 3)), lines.sum(1))
        return self._grouped[1]


@dataclass(frozen=True)
class _Work:
    """What EXACT of a tile asks for.

    beats: of each segment. busy: issue cycles a beat. late: cycles a beat of each segment in which
    x words keep every VPU waiting. essential: neurons. idle_pixels, idle_channels: slots a beat
    without a pixel, without a channel. words: x words of the tile. lines: write accesses; the lanes
    of a pixel write one line together.
    """

    beats: int
    busy: int
    late: list[int]
    essential: int
    idle_pixels: int
    idle_channels: int
    words: int
    lines: int


def _lanes_with_channels(tile: Tile, lanes: int) -> int:
    return min(lanes, ceil_div(tile.channels, GROUP))
