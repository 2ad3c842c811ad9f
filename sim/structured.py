"""The structured machine: groups of 8 channels a lane, batches of T pixels, weights shared by them.

A batch's x words pass the crossbar once a beat and serve the N essential channels of every group;
all VPUs advance together. While a batch issues, the words of the next one are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from ..common.layer import ceil_div
from ..common.program import Tile
from ..common.scheme import GROUP
from .stream import Unit
from .vector_unit import VectorUnit
from .work import Counts, batches

__all__ = ["StructuredUnit"]

#: Words of a row-beat of APPROXIMATE: 16 w nibbles.
_ROW_WORDS = 4


class _Work(NamedTuple):
    """What EXACT of a tile asks for.

    runs: (beats, unit) of equal beats in a row. busy: issue cycles a beat. essential: neurons.
    idle_pixels, idle_channels: slots a beat without a pixel, without a channel. words: x words of
    the tile.
    """

    runs: tuple[tuple[int, Unit], ...]
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
        self._works: dict[tuple[int, int], _Work] = {}
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
        if not self._works:
            self._works = self._all_work()
        work = self._works[tile.pixel, tile.channel]
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

    def _all_work(self) -> dict[tuple[int, int], _Work]:
        """What EXACT asks for of each tile of the part, by its first pixel and channel.

        All VPUs advance together: a batch takes as long as its fullest group, n, and one without
        any essential channel reads nothing and takes a cycle without issue.
        """
        machine, layer, part = self.machine, self.layer, self.part
        columns, span = machine.columns, machine.channels_side_by_side
        first_pixel, pixels = part.row * layer.w_out, part.rows * layer.w_out
        sizes = np.array(self.program.blocks[self.index].sizes)
        ends = sizes.cumsum()
        starts = ends - sizes
        count = int(ends[-1])
        filled = np.minimum(columns, pixels - np.arange(count) * columns)[:, None]
        geometry = batches(layer, first_pixel, pixels, columns, machine.pses)
        channels = np.arange(part.channel, part.channel + part.channels, span)
        widths = np.clip(
            (part.channel + part.channels - channels)[:, None] - GROUP * np.arange(machine.lanes),
            0,
            GROUP,
        )
        column = np.arange(len(widths))
        if self.mask is None:  # supergroups of equal width ask for the same
            widths, column = np.unique(widths, axis=0, return_inverse=True)
        issues, essential = self._groups(widths, filled)
        taken = np.maximum(issues, 1)
        # (batches, segments, supergroups)
        fetches = np.maximum(geometry.conflicts, 1)[..., None]
        fetches = np.where(issues[:, None] > 0, fetches, 1)
        late = np.zeros_like(fetches)
        np.maximum(fetches[1:] - taken[:-1, None], 0, out=late[1:])
        late[starts] = 0  # before a beat's first batch it is the unit's own fetch

        def of_blocks(values: Counts) -> list:
            return np.add.reduceat(values, starts, axis=0).tolist()

        missing = np.maximum(issues[..., None] - widths, 0).sum(2)
        rows = zip(
            of_blocks(late.transpose(0, 2, 1)),
            fetches[starts].transpose(0, 2, 1).tolist(),
            of_blocks(issues),
            of_blocks((issues == 0).astype(np.int64)),
            taken[ends - 1].tolist(),
            of_blocks(essential),
            of_blocks((columns - filled) * issues * machine.lanes),
            of_blocks(missing * filled),
            of_blocks(geometry.words.sum(1)[:, None] * geometry.beats * (issues > 0)),
            strict=True,
        )
        known: dict[tuple, tuple[tuple[int, Unit], ...]] = {}

        def runs(lates: list[int], fetch: list[int], *ends: int) -> tuple[tuple[int, Unit], ...]:
            key = (*lates, *fetch, *ends)
            if key not in known:
                busy, bubbles, last = ends
                known[key] = tuple(
                    (geometry.beats * len(list(equal)), Unit(busy, bubbles, *pair, last))
                    for pair, equal in groupby(zip(lates, fetch, strict=True))
                )
            return known[key]

        found = {}
        firsts = (first_pixel + starts * columns).tolist()
        of_channel = list(zip(channels.tolist(), column.ravel().tolist(), strict=True))
        for pixel, row in zip(firsts, rows, strict=True):
            works = [
                _Work(runs(*asked[:5]), asked[2], *asked[5:]) for asked in zip(*row, strict=True)
            ]
            found |= {(pixel, channel): works[index] for channel, index in of_channel}
        return found

    def _groups(self, widths: Counts, filled: Counts) -> tuple[Counts, Counts]:
        """Of the part, by batch and supergroup: essential channels of the fullest group, and of all
        groups. `widths` (supergroups, lanes) are channels of groups, `filled` (batches, 1) pixels.
        """
        machine, part = self.machine, self.part
        if self.mask is None:
            keep = GROUP if self.scheme.dense else self.scheme.essential_of_group
            kept = np.minimum(widths, keep)
            return np.repeat(kept.max(1)[None], len(filled), 0), kept.sum(1) * filled
        first, pixels = part.row * self.layer.w_out, part.rows * self.layer.w_out
        shape = (len(filled), machine.columns, len(widths), machine.lanes)  # of groups
        mask = np.zeros((shape[0] * shape[1], shape[2] * shape[3] * GROUP), dtype=bool)
        mask[:pixels, : part.channels] = self.mask[
            first : first + pixels, part.channel : part.channel + part.channels
        ]
        # A bool is a byte of 0 or 1: eight of them summed by one multiplication.
        eights = mask.view(np.uint64) * np.uint64(0x0101010101010101) >> np.uint64(56)
        groups = eights.astype(np.int64).reshape(shape)
        return groups.max((1, 3)), groups.sum((1, 3))
