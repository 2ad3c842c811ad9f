"""The unstructured machine: a channel a lane, essential pairs dispatched by windows of pixels."""

from __future__ import annotations

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

    def approximate(self, index: int, tile: Tile) -> tuple[int, int]:
        machine, counts, clock = self.machine, self.counts, self.clock
        beats = self.program.approximate_beats
        rows = ceil_div(tile.channels, machine.lanes)
        gates = {"rpu": self._usable(tile.pixel + tile.pixels - 1)}
        unit = Unit(busy=tile.pixels)
        first = self.weights.run(rows * beats, _ROW_WORDS, unit, gates, starved=self._starved)
        useful = tile.pixels * tile.channels * beats
        slots = machine.lanes * rows * beats * tile.pixels
        self._slots(slots, useful, 0, slots - useful)
        self.selected[index] = clock.now - 1 + self.contract.to_mask
        outputs = tile.pixels * tile.channels
        counts["weights.read"] += _ROW_WORDS * tile.channels * beats
        counts["row_register.write"] += _ROW_WORDS * tile.channels * beats
        counts["p.read"] += rows * beats * tile.pixels
        counts["mvu.mac4"] += 16 * machine.pses * useful
        counts["accumulator.update"] += useful
        # Each lane passes its rows from 0 on; a lane that is at row 0 has its parameters.
        there = self.rows[: tile.channels]
        counts["parameters.read"] += tile.channels - int(np.count_nonzero(there == 0))
        self.rows = self._approximated
        counts["select.compare"] += outputs
        # A lane writes the bits of a row and window at once, zeros of missing channels included.
        counts["masks.write"] += machine.lanes * rows * ceil_div(tile.pixels, machine.window)
        self._write_back(outputs)
        return first, clock.now - 1

    def exact(self, index: int, tile: Tile) -> tuple[int, int]:
        walk, beats = self._walk(tile), self.program.beats
        if not self.scheme.dense:
            selected = self.selected.pop(index)
            self.clock.wait({"select": selected})
            self.scanner.hold_until(selected)
        issued = self.scanner.run(walk.scan, walk.pixels, walk.depth, beats)
        # The weight port belongs to EXACT until its end.
        self.weights.hold_until(self.clock.now)
        self.rows = walk.after
        self._count(walk, tile, beats)
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

    def _count(self, walk: Walk, tile: Tile, beats: int) -> None:
        """Count the events of the exact passes of a tile."""
        machine, counts = self.machine, self.counts
        self.essential += walk.pairs
        useful = walk.pairs * beats
        absent = max(0, machine.lanes - tile.channels) * walk.issues
        self._slots(machine.lanes * walk.issues * beats, useful, 0, absent * beats)
        counts["weights.read"] += walk.rows * beats
        counts["row_register.write"] += walk.rows * beats
        counts["x.read"] += walk.words * beats
        counts["window.write"] += walk.words * beats
        counts["window.read"] += useful
        counts["mvu.mac16"] += machine.pses * useful
        counts["accumulator.update"] += useful
        counts["parameters.read"] += walk.reads
        counts["pairs.write"] += walk.pairs
        counts["pairs.read"] += useful
        counts["select.scan"] += walk.steps
        if not self.scheme.dense:
            rows = ceil_div(tile.channels, machine.lanes)
            words = ceil_div(rows * machine.window, self.contract.scan_bits)
            counts["masks.read"] += machine.lanes * words * ceil_div(tile.pixels, machine.window)
        self._write_back(walk.pairs)
