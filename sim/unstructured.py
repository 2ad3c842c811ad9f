"""The unstructured machine: a channel a lane, essential pairs dispatched by windows of pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ..common.layer import ceil_div
from ..common.program import Tile
from .scanner import Scanner
from .stream import Unit
from .vector_unit import VectorUnit
from .work import Counts, Walk, dispatch, dispatch_all, walks

__all__ = ["UnstructuredUnit"]

#: Words of a row-beat of APPROXIMATE: 16 w nibbles.
_ROW_WORDS = 4


class UnstructuredUnit(VectorUnit):
    """APPROXIMATE row by row, EXACT window by window.

    `rows` is the row of each lane's last output, -1 before the first: parameters are read where it
    changes. After APPROXIMATE it is the same for all tiles of a part.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.scanner = Scanner(self.clock)
        self.scanner.hold_until(self.begin)
        self.rows = np.full(self.machine.lanes, -1)
        self._approximated = self._last_rows(self.part.channels)
        self._walks: dict[int, Walk] = {}
        # Tiles of equal size count alike: how many there were, and the walks of each.
        self._roughly: Counter[int] = Counter()
        self._exactly: dict[int, list[Walk]] = {}

    def run(self, steps: Sequence[tuple[str, int]]) -> None:
        super().run(steps)
        for pixels, times in self._roughly.items():
            self._count_approximate(pixels, times)
        for pixels, done in self._exactly.items():
            self._count_exact(pixels, done)

    def approximate(self, index: int, tile: Tile) -> tuple[int, int]:
        clock, rows = self.clock, ceil_div(tile.channels, self.machine.lanes)
        gates = {"rpu": self._usable(tile.pixel + tile.pixels - 1)}
        first = self.weights.run(
            rows * self.program.approximate_beats,
            _ROW_WORDS,
            Unit(busy=tile.pixels),
            gates,
            starved=self._starved,
        )
        self.selected[index] = clock.now - 1 + self.contract.to_mask
        # Each lane passes its rows from 0 on; a lane that is at row 0 has its parameters.
        there = self.rows[: tile.channels]
        self.counts["parameters.read"] += tile.channels - int(np.count_nonzero(there == 0))
        self.rows = self._approximated
        self._roughly[tile.pixels] += 1
        return first, clock.now - 1

    def exact(self, index: int, tile: Tile) -> tuple[int, int]:
        walk = self._walk(tile)
        if not self.scheme.dense:
            selected = self.selected.pop(index)
            self.clock.wait({"select": selected})
            self.scanner.hold_until(selected)
        issued = self.scanner.run(walk.scan, walk.pixels, walk.depth, self.program.beats)
        # The weight port belongs to EXACT until its end.
        self.weights.hold_until(self.clock.now)
        self.rows = walk.after
        self._exactly.setdefault(tile.pixels, []).append(walk)
        return issued

    def _last_rows(self, channels: int) -> Counts:
        """Row of each lane's last channel, -1 without any."""
        lanes = self.machine.lanes
        return (channels - 1 - np.arange(lanes)) // lanes

    def _walk(self, tile: Tile) -> Walk:
        """Walk of a tile. The tiles of a part, which all have the same channels, are dispatched
        together, each filled up to whole windows."""
        machine = self.machine
        lanes, window = machine.lanes, machine.window
        limits = (lanes, window, machine.accumulators, self.contract.scan_bits)
        if self.mask is None:
            dealt = dispatch_all(tile.pixels, tile.channels, *limits)
            return walks(dealt, np.array([0, len(dealt.steps)]), self.rows)[0]
        if not self._walks:
            numbers = self.program.tiles_of_part[self.index]
            tiles = [self.program.tiles[number] for number in numbers]
            counts = [ceil_div(other.pixels, window) for other in tiles]
            first = np.concatenate([[0], np.cumsum(counts)])
            mask = np.zeros((int(first[-1]) * window, tile.channels), dtype=bool)
            channels = slice(tile.channel, tile.channel + tile.channels)
            for at, other in zip((first * window).tolist(), tiles, strict=False):
                pixels = slice(other.pixel, other.pixel + other.pixels)
                mask[at : at + other.pixels] = self.mask[pixels, channels]
            dealt = dispatch(mask, *limits)
            # EXACT of a tile follows APPROXIMATE of another, that of the last one EXACT.
            found = walks(dealt, first, self._approximated)
            self._walks = {other.pixel: walk for other, walk in zip(tiles, found, strict=True)}
        return self._walks[tile.pixel]

    def _count_approximate(self, pixels: int, times: int) -> None:
        """Count the events of APPROXIMATE of `times` tiles of so many pixels."""
        machine, counts, channels = self.machine, self.counts, self.part.channels
        beats, rows = self.program.approximate_beats, ceil_div(channels, machine.lanes)
        outputs = pixels * channels * times
        useful = outputs * beats
        slots = machine.lanes * rows * beats * pixels * times
        self._slots(slots, useful, 0, slots - useful)
        counts["weights.read"] += _ROW_WORDS * channels * beats * times
        counts["row_register.write"] += _ROW_WORDS * channels * beats * times
        counts["p.read"] += rows * beats * pixels * times
        counts["mvu.mac4"] += 16 * machine.pses * useful
        counts["accumulator.update"] += useful
        counts["select.compare"] += outputs
        # A lane writes the bits of a row and window at once, zeros of missing channels included.
        counts["masks.write"] += machine.lanes * rows * ceil_div(pixels, machine.window) * times
        self._write_back(outputs)

    def _count_exact(self, pixels: int, done: list[Walk]) -> None:
        """Count the events of the exact passes of tiles of so many pixels."""
        machine, counts, channels = self.machine, self.counts, self.part.channels
        beats = self.program.beats
        pairs, issues, rows, words, steps, reads = (
            sum(each)
            for each in zip(
                *((w.pairs, w.issues, w.rows, w.words, w.steps, w.reads) for w in done), strict=True
            )
        )
        self.essential += pairs
        useful = pairs * beats
        absent = max(0, machine.lanes - channels) * issues
        self._slots(machine.lanes * issues * beats, useful, 0, absent * beats)
        counts["weights.read"] += rows * beats
        counts["row_register.write"] += rows * beats
        counts["x.read"] += words * beats
        counts["window.write"] += words * beats
        counts["window.read"] += useful
        counts["mvu.mac16"] += machine.pses * useful
        counts["accumulator.update"] += useful
        counts["parameters.read"] += reads
        counts["pairs.write"] += pairs
        counts["pairs.read"] += useful
        counts["select.scan"] += steps
        if not self.scheme.dense:
            height = ceil_div(channels, machine.lanes)
            per_window = machine.lanes * ceil_div(height * machine.window, self.contract.scan_bits)
            counts["masks.read"] += per_window * ceil_div(pixels, machine.window) * len(done)
        self._write_back(pairs)
