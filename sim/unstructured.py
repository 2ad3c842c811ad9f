"""The unstructured machine: a channel a lane, essential pairs dispatched by windows of pixels."""

from __future__ import annotations

import numpy as np

from ..common.layer import ceil_div
from ..common.program import Tile
from .feeds import Process
from .stream import Clock
from .vector_unit import VectorUnit
from .work import Passes, dispatch

__all__ = ["UnstructuredUnit", "walk"]


class UnstructuredUnit(VectorUnit):
    """APPROXIMATE row by row, EXACT window by window.

    `scanned` is the time at which the scanner is done with the last window, `fifo_free` the issue
    time from which on the output FIFOs are empty.
    """

    scanned = 0
    fifo_free = 0

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._dispatched: tuple[int, dict[int, Passes]] = (-1, {})

    def outputs_left(self) -> int:
        return max(self.clock.now, self.fifo_free)

    def approximate(self, index: int, tile: Tile, gates: dict[str, int]) -> Process:
        machine, counts = self.machine, self.counts
        beats = self.program.approximate_beats
        ready = yield self.projection.event(tile.part, tile.pixel + tile.pixels - 1)
        rows = ceil_div(tile.channels, machine.lanes)
        # EXACT owns the weight port until its last issue; approximate outputs need the whole width
        # of the sub-banks, so the FIFOs must have drained.
        self.stream.run(
            rows * beats,
            ceil_div(4, machine.weight_words),
            tile.pixels,
            max(0, self.contract.accumulate - tile.pixels),
            {**gates, "rpu": ready + self.contract.feed, "writeback": self.fifo_free},
            "shallow",
        )
        useful = tile.pixels * tile.channels * beats
        slots = machine.lanes * rows * beats * tile.pixels
        self._slots(slots, useful, 0, slots - useful)
        self.selected[index] = self.clock.now + self.contract.to_mask
        outputs = tile.pixels * tile.channels
        counts["weights.read"] += 4 * tile.channels * beats
        counts["row_register.write"] += 4 * tile.channels * beats
        counts["p.read"] += rows * beats * tile.pixels
        counts["mvu.mac4"] += 16 * machine.pses * useful
        counts["accumulator.update"] += useful
        counts["parameters.read"] += tile.channels
        counts["select.compare"] += outputs
        counts["masks.write"] += ceil_div(outputs, machine.word_bits("masks"))
        self._write_back(outputs, ceil_div(outputs, 4))

    def exact(self, index: int, tile: Tile, gates: dict[str, int]) -> Process:
        machine, clock, contract = self.machine, self.clock, self.contract
        beats = self.program.beats
        passes = self._passes(index)
        rows = ceil_div(tile.channels, machine.lanes)
        scan = 0 if self.scheme.dense else contract.scan(machine.window, rows)
        if not self.scheme.dense:
            selected = self.selected.pop(index)
            gates = {**gates, "select": selected}
            self.scanned = max(self.scanned, selected)
        clock.wait(gates)
        self.scanned, self.fifo_free = walk(
            clock, passes, beats, scan, self.scanned, self.fifo_free, contract.accumulate
        )
        self.stream.hold_until(clock.now)
        self._count(passes, tile, beats)
        if not self.scheme.dense:
            words = (
                passes.windows * machine.window * ceil_div(rows, contract.scan_bits) * machine.lanes
            )
            self.counts["select.scan"] += words
            self.counts["masks.read"] += words
        return
        yield  # a generator, like the other steps

    def _passes(self, index: int) -> Passes:
        """Passes of a tile. The tiles of its part, which all have the same channels, are dispatched
        together, each filled up to whole windows."""
        tile, window = self.program.tiles[index], self.machine.window
        if self._dispatched[0] != tile.part:
            tiles = [other for other in self.program.tiles if other.part == tile.part]
            counts = [ceil_div(other.pixels, window) for other in tiles]
            first = np.concatenate([[0], np.cumsum(counts)])
            mask = np.zeros((int(first[-1]) * window, tile.channels), dtype=bool)
            channels = slice(tile.channel, tile.channel + tile.channels)
            for at, other in zip((first * window).tolist(), tiles, strict=False):
                pixels = slice(other.pixel, other.pixel + other.pixels)
                mask[at : at + other.pixels] = (
                    True if self.mask is None else self.mask[pixels, channels]
                )
            dealt = dispatch(mask, self.machine.lanes, window, self.machine.accumulators)
            bounds = zip(first[:-1].tolist(), counts, strict=True)
            self._dispatched = (
                tile.part,
                {
                    other.pixel: dealt.part(*bound)
                    for other, bound in zip(tiles, bounds, strict=True)
                },
            )
        return self._dispatched[1][tile.pixel]

    def _count(self, passes: Passes, tile: Tile, beats: int) -> None:
        """Count the events of the exact passes of a tile."""
        machine, counts = self.machine, self.counts
        pairs = int(passes.pairs.sum())
        self.essential += pairs
        useful = pairs * beats
        slots = machine.lanes * int(passes.depth.sum()) * beats
        resident = np.arange(machine.lanes) < tile.channels
        absent = int((~resident).sum()) * int(passes.depth.sum()) * beats
        self._slots(slots, useful, 0, absent)
        distinct = int(passes.rows.sum())
        counts["weights.read"] += distinct * beats
        counts["row_register.write"] += distinct * beats
        x_words = int(passes.pixels.sum()) * beats
        counts["x.read"] += x_words
        counts["window.write"] += x_words
        counts["window.read"] += useful
        counts["mvu.mac16"] += machine.pses * useful
        counts["accumulator.update"] += useful
        counts["parameters.read"] += distinct
        counts["fifo.word"] += pairs
        self._write_back(pairs, pairs)


def walk(
    clock: Clock,
    passes: Passes,
    beats: int,
    scan: int,
    scanned: int,
    fifo_free: int,
    accumulate: int,
) -> tuple[int, int]:
    """Issue the passes of a tile on `clock`; return the new (scanned, fifo_free).

    Window i, of scan time `scan` and compute time c_i:

        se[i] = max(se[i-1], ce[i-2]) + scan        scanned, two windows on their way
        ce[i] = max(ce[i-1], se[i]) + c_i

    A pass takes B * max(X, max L) cycles, X for the x words to enter the window. Its last beat puts
    one output of each pair into the FIFO of its lane; four lanes share a sub-bank that takes one
    output a cycle, and a FIFO holds one pass, so that beat waits until the pass before has left.
    """
    ended = before = 0  # ce[i-1], ce[i-2]
    bounds = np.searchsorted(passes.window, np.arange(passes.windows + 1)).tolist()
    depths, widths, drains = passes.depth.tolist(), passes.pixels.tolist(), passes.drain.tolist()
    for window in range(passes.windows):
        scanned = max(scanned, before) + scan
        end = max(ended, scanned)
        for at in range(bounds[window], bounds[window + 1]):
            clock.wait({"scan": scanned})
            depth = depths[at]
            idle = max(0, max(widths[at], accumulate) - depth)
            clock.issue((beats - 1) * depth)
            clock.stall("xbank", (beats - 1) * idle)
            clock.wait({"writeback": fifo_free})
            fifo_free = clock.now + drains[at]
            clock.issue(depth)
            clock.stall("xbank", idle)
            end = clock.now
        before, ended = ended, end
    # The scanner must have seen the last window before the sequencer moves on.
    clock.wait({"scan": ended})
    return scanned, fifo_free
