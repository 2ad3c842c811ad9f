"""The structured machine: groups of 8 channels a lane, batches of T pixels, weights shared by them.

A batch's x words pass the crossbar once a beat and serve the N essential channels of every group;
all VPUs advance together. While a batch issues, the words of the next one are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from ..common.layer import ceil_div
from ..common.program import Tile
from ..common.scheme import GROUP
from .stream import Unit
from .vector_unit import VectorUnit
from .work import Counts, batches

__all__ = ["StructuredUnit", "units_of"]

#: Words of a row-beat of APPROXIMATE: 16 w nibbles.
_ROW_WORDS = 4


def units_of(issues: Counts, fetches: Counts) -> list[Unit]:
    """The unit that each segment's beats are made of.

    `issues` (batches,) is n of each batch, 0 where no group has an essential channel: such a batch
    reads nothing and takes a cycle without issue. `fetches` (batches, segments) is f.
    """
    taken = np.maximum(issues, 1)
    fetches = np.where(issues[:, None] > 0, np.maximum(fetches, 1), 1)
    late = np.maximum(fetches[1:] - taken[:-1, None], 0).sum(0).tolist()
    busy, bubbles, last = int(issues.sum()), int((issues == 0).sum()), int(taken[-1])
    first = fetches[0].tolist()
    return [Unit(busy, bubbles, idle, fetch, last) for idle, fetch in zip(late, first, strict=True)]


@dataclass(frozen=True, eq=False)
class _Work:
    """What EXACT of a tile asks for.

    runs: (beats, unit) of equal beats in a row. busy: issue cycles a beat. essential: neurons.
    idle_pixels, idle_channels: slots a beat without a pixel, without a channel. words: x words of
    the tile.
    """

    runs: list[tuple[int, Unit]]
    busy: int
    essential: int
    idle_pixels: int
    idle_channels: int
    words: int


class StructuredUnit(VectorUnit):
    """APPROXIMATE by sub-blocks for the collector, EXACT by blocks for the accumulators.

    `ahead` is n of the last item: the cycles in which the next one's words may already be read.
    """

    ahead = 1

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._known: dict[tuple[int, int, int], _Work] = {}
        self._grouped: tuple[Counts, Counts] | None = None
        self._cut: dict[int, list[Unit]] = {}
        # Tiles of equal size, or of equal work, count alike: how many there were.
        self._roughly: Counter[tuple[int, int]] = Counter()
        self._exactly: Counter[tuple[_Work, int, int]] = Counter()

    @property
    def _load(self) -> int:
        """Cycles to load eight words a lane."""
        return GROUP // self.machine.weight_words

    def run(self, steps: Sequence[tuple[str, int]]) -> None:
        super().run(steps)
        for (pixels, channels), times in self._roughly.items():
            self._count_approximate(pixels, channels, times)
        for (work, pixels, channels), times in self._exactly.items():
            self._count_exact(work, pixels, channels, times)

    def approximate(self, index: int, tile: Tile) -> tuple[int, int]:
        clock, columns = self.clock, self.machine.columns
        # Units of two row-beats: p of a batch is read once and serves both.
        units = GROUP // 2 * self.program.approximate_beats
        first_issue, first = -1, 0
        for unit in self._blocks(tile.pixels):
            pixels = min(unit.busy // 2 * columns, tile.pixels - first)
            gates = {"rpu": self._usable(tile.pixel + first + pixels - 1)}
            start = self.weights.run(units, self._load, unit, gates, self.ahead, self._starved)
            first_issue = start if first_issue < 0 else first_issue
            self.ahead = 2
            first += pixels
        self.selected[index] = clock.now - 1 + self.contract.to_indices
        self._roughly[tile.pixels, tile.channels] += 1
        return first_issue, clock.now - 1

    def exact(self, index: int, tile: Tile) -> tuple[int, int]:
        # Without a mask, tiles of equal pixels and width ask for the same work.
        key = (tile.pixel, tile.pixels, tile.channels)
        work = self._known.get(key)
        if work is None:
            work = self._work(tile)
            if self.mask is None:
                self._known[key] = work
        self.essential += work.essential
        gates = {} if self.scheme.dense else {"select": self.selected.pop(index)}
        first_issue = -1
        for count, unit in work.runs:
            start = self.weights.run(count, self._load, unit, gates, self.ahead, self._starved)
            first_issue = start if first_issue < 0 else first_issue
            self.ahead, gates = unit.last, {}
        self._exactly[work, tile.pixels, tile.channels] += 1
        return first_issue, self.clock.now - 1

    def _blocks(self, pixels: int) -> list[Unit]:
        """The unit of each sub-block of APPROXIMATE of so many pixels, two issues a batch."""
        if pixels not in self._cut:
            batches = ceil_div(pixels, self.machine.columns)
            sizes = self.program.approximate_blocks(batches).sizes
            self._cut[pixels] = [Unit(busy=2 * depth, last=2) for depth in sizes]
        return self._cut[pixels]

    def _count_approximate(self, pixels: int, channels: int, times: int) -> None:
        """Count the events of APPROXIMATE of `times` tiles."""
        machine, counts, columns = self.machine, self.counts, self.machine.columns
        beats = self.program.approximate_beats
        units, lanes = GROUP // 2 * beats, self._lanes(channels)
        depths = [unit.busy // 2 for unit in self._blocks(pixels)]
        useful = pixels * channels * beats
        issues = 2 * sum(depths) * units
        idle_pixels = (sum(depths) * columns - pixels) * machine.lanes * GROUP * beats
        slots = machine.vpus * issues
        missing = slots - useful - idle_pixels
        self._slots(slots * times, useful * times, idle_pixels * times, missing * times)
        # Both halves hold two row-beats; a lane without a group loads nothing. Word 0 of a
        # row-beat goes to each VPU, the others to all VPUs of a lane at once.
        words = _ROW_WORDS * lanes * GROUP * beats * len(depths)
        for name, count in (
            ("weights.read", words),
            ("group_buffer.write", words),
            ("group_buffer.read", useful + (_ROW_WORDS - 1) * lanes * issues),
            ("p.read", units * pixels),
            ("mvu.mac4", 16 * machine.pses * useful),
            ("accumulator.update", useful),
            ("parameters.read", lanes * GROUP),
        ):
            counts[name] += count * times
        if self.program.computes_exactly:
            counts["select.rank"] += pixels * channels * times
            counts["masks.write"] += ceil_div(pixels, columns) * times
        self._write_back(pixels * channels * times)

    def _count_exact(self, work: _Work, pixels: int, channels: int, times: int) -> None:
        """Count the events of EXACT of `times` tiles of equal work."""
        machine, counts, beats = self.machine, self.counts, self.program.beats * times
        lanes, useful = self._lanes(channels), work.essential * beats
        slots = machine.vpus * work.busy * beats
        self._slots(slots, useful, work.idle_pixels * beats, work.idle_channels * beats)
        for name, count in (
            ("weights.read", lanes * GROUP * beats),
            ("group_buffer.write", lanes * GROUP * beats),
            ("group_buffer.read", useful),
            ("x.read", work.words * times),
            ("crossbar.word", work.words * times),
            ("mvu.mac16", machine.pses * useful),
            ("accumulator.update", useful),
            ("parameters.read", lanes * GROUP * times),
        ):
            counts[name] += count
        if not self.scheme.dense:
            counts["masks.read"] += beats * ceil_div(pixels, machine.columns)
        self._write_back(work.essential * times)

    def _lanes(self, channels: int) -> int:
        """Lanes with channels, of a tile of so many."""
        return min(self.machine.lanes, ceil_div(channels, GROUP))

    def _work(self, tile: Tile) -> _Work:
        """Count what EXACT of a tile asks for, a beat.

        All VPUs advance together: a batch takes as long as its fullest group.
        """
        machine, layer, part = self.machine, self.layer, self.part
        columns, lanes = machine.columns, machine.lanes
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
        else:
            deepest, sums = self._groups()
            supergroup = tile.channel // machine.channels_side_by_side
            depth = deepest[chosen, supergroup]
            essential = int(sums[chosen, supergroup].sum())
            idle_channels = 0
            if tile.channels < machine.channels_side_by_side:
                missing = np.maximum(depth[:, None] - widths, 0).sum(1)
                idle_channels = int((missing * pixels).sum())
        geometry = batches(
            layer, part.row * layer.w_out, part.rows * layer.w_out, columns, machine.pses
        )
        runs = groupby(units_of(depth, geometry.conflicts[chosen]))
        return _Work(
            runs=[(geometry.beats * len(list(equal)), unit) for unit, equal in runs],
            busy=int(depth.sum()),
            essential=essential,
            idle_pixels=int(((columns - pixels) * depth).sum()) * lanes,
            idle_channels=idle_channels,
            words=int(geometry.words[chosen][depth > 0].sum()) * geometry.beats,
        )

    def _groups(self) -> tuple[Counts, Counts]:
        """Of the part, by batch and supergroup: essential channels of the fullest group, and of all
        groups; made once for all its tiles."""
        if self._grouped is None:
            part, machine = self.part, self.machine
            columns, lanes = machine.columns, machine.lanes
            first, pixels = part.row * self.layer.w_out, part.rows * self.layer.w_out
            count = ceil_div(pixels, columns)
            supergroups = ceil_div(self.layer.c_out, machine.channels_side_by_side)
            mask = np.zeros((count * columns, supergroups * lanes * GROUP), dtype=bool)
            mask[:pixels, : self.layer.c_out] = self.mask[first : first + pixels]
            # A bool is a byte of 0 or 1: eight of them summed by one multiplication.
            eights = mask.view(np.uint64) * np.uint64(0x0101010101010101) >> np.uint64(56)
            groups = eights.astype(np.int64).reshape(count, columns, supergroups, lanes)
            self._grouped = groups.max((1, 3)), groups.sum((1, 3))
        return self._grouped
