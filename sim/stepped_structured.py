"""The structured machine of the stepped engine: an event is a batch at a beat.

A unit is what one half of the group buffer holds: a beat of EXACT, eight words a lane; two rows of
a beat of APPROXIMATE, four words each. Its items are the batches of the tile or of the sub-block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import simpy
from numpy.typing import NDArray

from ..common.geometry import x_feed
from ..common.layer import ceil_div
from ..common.program import Tile
from ..common.scheme import GROUP
from .stepped_ledger import Gate, Mark, Process
from .stepped_part import SteppedPart

__all__ = ["SteppedStructured"]


@dataclass(frozen=True, slots=True)
class _Unit:
    """f and n of each batch, n = 0 for a bubble; what the unit counts; what its first fetch waits
    for. `outputs` are written by its last beat."""

    fetches: list[int]
    issues: list[int]
    slots: dict[str, int]
    counts: dict[str, int]
    outputs: int = 0
    gate: Gate | None = None


class SteppedStructured(SteppedPart):
    """`started` and `fetched` count items: whose first cycle was issued, whose words are there."""

    def processes(self, begin: simpy.Event) -> list[Process]:
        self.started, self.fetched = Mark(self.env), Mark(self.env)
        self.items = self.units = 0
        self._made: dict[int, list[_Unit]] = {}
        return [self._load(begin), self._fetch(begin)]

    def _load(self, begin: simpy.Event) -> Process:
        yield begin
        unit = 0
        for position, (_, number) in enumerate(self.order):
            words = self._lanes(self.tiles[number]) * GROUP
            for _ in self._units(position):
                yield from self._loads(unit, GROUP // self.machine.weight_words, words)
                self.ledger.counts["group_buffer.write"] += words
                unit += 1

    def _fetch(self, begin: simpy.Event) -> Process:
        """Fetch the words of an item from the cycle after the first issue of the item before; the
        last of its f cycles may be that of its own first issue."""
        yield begin
        env, started, fetched = self.env, self.started, self.fetched
        item, opened = 0, 0
        for position in range(len(self.order)):
            for unit in self._units(position):
                gate = unit.gate
                for cycles in unit.fetches:
                    if started.count < item:
                        yield started.reach(item)
                    if gate:
                        yield env.timeout(opened)
                        if gate.mark.count < gate.need:
                            yield gate.mark.reach(gate.need)
                        if cycles > 1:
                            yield env.timeout(cycles - 1)
                        gate = None
                    elif cycles + opened > 1:
                        yield env.timeout(cycles - 1 + opened)
                    item, opened = item + 1, 1
                    fetched.advance(item)

    def issue(self, position: int, phase: str, number: int) -> Process:
        env, ledger, fetched = self.env, self.ledger, self.fetched
        first = -1
        tile = self.tiles[number]
        names = [phase] * self._lanes(tile)
        for unit in self._units(position):
            if unit.gate and unit.gate.mark.count < unit.gate.need:
                yield from ledger.wait(unit.gate.mark.reach(unit.gate.need), unit.gate.cause)
            loaded, since = False, -1
            for cycles in unit.issues:
                if fetched.count <= self.items:
                    yield from ledger.wait(fetched.reach(self.items + 1), "xbank")
                if not loaded and self.loaded.count <= self.units:
                    yield from ledger.wait(self.loaded.reach(self.units + 1), self._starved)
                loaded = True
                if since < 0:
                    since = env.now
                if first < 0:
                    first = env.now
                self.items += 1
                self.started.advance(self.items)
                if cycles:
                    yield env.timeout(cycles)
                    ledger.busy += cycles
                else:
                    yield from ledger.wait(env.timeout(1), "scan")
            self.units += 1
            self.left.advance(self.units)
            if ledger.record:
                ledger.lanes(names, since)
            ledger.slots.update(unit.slots)
            ledger.counts.update(unit.counts)
            if unit.outputs:
                ledger.outputs(unit.outputs, self.layer)
        ledger.counts["parameters.read"] += self._lanes(tile) * GROUP
        del self._made[position]
        return first, env.now - 1

    def _units(self, position: int) -> list[_Unit]:
        """Units of a step; made once, for loader, fetcher and issuer."""
        if position not in self._made:
            phase, number = self.order[position]
            tile = self.tiles[number]
            units = self._rough(tile) if phase == "A" else self._exact(tile, number)
            self._made[position] = list(units)
        return self._made[position]

    def _lanes(self, tile: Tile) -> int:
        """Lanes with channels."""
        return min(self.machine.lanes, ceil_div(tile.channels, GROUP))

    def _widths(self, tile: Tile) -> NDArray[np.intp]:
        """Channels of each lane's group."""
        return np.clip(tile.channels - GROUP * np.arange(self.machine.lanes), 0, GROUP)

    def _rough(self, tile: Tile) -> Iterator[_Unit]:
        machine, columns, beats = self.machine, self.machine.columns, self.program.approximate_beats
        ranks, lanes, widths = self.program.computes_exactly, self._lanes(tile), self._widths(tile)
        done = 0
        for depth in self.program.approximate_blocks(ceil_div(tile.pixels, columns)).sizes:
            pixels = min(depth * columns, tile.pixels - done)
            done += pixels
            gate: Gate | None = self._projected(tile.pixel + done - self.pixel)
            cycles, absent = 2 * depth, 2 * machine.lanes * (depth * columns - pixels)
            for row in range(0, GROUP, 2):
                useful = int(np.clip(widths - row, 0, 2).sum()) * pixels
                for beat in range(beats):
                    last = beat == beats - 1
                    counts = {
                        # The first word of four goes to each VPU, the others to all of a lane.
                        "group_buffer.read": useful + 3 * lanes * cycles,
                        "p.read": pixels,
                        "mvu.mac4": 16 * machine.pses * useful,
                        "accumulator.update": useful,
                        "select.rank": useful if last and ranks else 0,
                        "masks.write": depth if last and ranks and row == GROUP - 2 else 0,
                    }
                    slots = _slots(machine.vpus * cycles, useful, absent)
                    outputs = useful if last else 0
                    yield _Unit([1] * depth, [2] * depth, slots, counts, outputs, gate)
                    gate = None

    def _exact(self, tile: Tile, number: int) -> Iterator[_Unit]:
        machine, columns = self.machine, self.machine.columns
        fetches, words = self._banks
        first = (tile.pixel - self.pixel) // columns
        count = ceil_div(tile.pixels, columns)
        essential, widths = self._essential(tile, count), self._widths(tile)
        depth = essential.max((1, 2))
        pixels = np.minimum(columns, tile.pixels - columns * np.arange(count))
        useful = int(essential.sum())
        absent = int(((columns - pixels) * depth).sum()) * machine.lanes
        missing = np.maximum(depth[:, None] - widths, 0).sum(1)
        narrow = int((missing * pixels).sum())
        slots = _slots(machine.vpus * int(depth.sum()), useful, absent, narrow)
        issues = depth.tolist()
        gate, taps = self._selected(number), fetches.shape[1]
        for tap in range(taps):
            taken = np.where(depth > 0, fetches[first : first + count, tap], 1).tolist()
            read = int(words[first : first + count, tap][depth > 0].sum())
            counts = {
                "group_buffer.read": useful,
                "x.read": read,
                "crossbar.word": read,
                "mvu.mac16": machine.pses * useful,
                "accumulator.update": useful,
                "masks.read": 0 if self.scheme.dense else count,
            }
            for word in range(self._feed.words):
                last = tap == taps - 1 and word == self._feed.words - 1
                yield _Unit(taken, issues, slots, counts, useful if last else 0, gate)
                gate = None
        self.ledger.essential += useful

    def _essential(self, tile: Tile, count: int) -> NDArray[np.intp]:
        """(batches, T, V): essential channels of each group."""
        machine = self.machine
        groups = np.zeros((count * machine.columns, machine.lanes), dtype=int)
        if self.mask is None:
            keep = GROUP if self.scheme.dense else self.scheme.essential_of_group
            groups[: tile.pixels] = np.minimum(self._widths(tile), keep)
        else:
            channels = slice(tile.channel, tile.channel + tile.channels)
            chosen = np.zeros((tile.pixels, machine.lanes * GROUP), dtype=bool)
            chosen[:, : tile.channels] = self.mask[tile.pixel :, channels][: tile.pixels]
            groups[: tile.pixels] = chosen.reshape(tile.pixels, machine.lanes, GROUP).sum(2)
        return groups.reshape(count, machine.columns, machine.lanes)

    @cached_property
    def _feed(self):
        return x_feed(self.layer, self.machine, self.part.row, self.part.rows)

    @cached_property
    def _banks(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """(batches, taps) of the part: f, the reads of the fullest bank, and all reads."""
        feed, columns, width = self._feed, self.machine.columns, self.layer.w_out
        pixels = self.part.rows * width
        fetches, words = [], []
        for first in range(0, pixels, columns):
            batch = np.arange(first, min(first + columns, pixels))
            for tap in range(feed.kernel**2):
                row = feed.row0 + batch // width * feed.stride + tap // feed.kernel
                column = feed.column0 + batch % width * feed.stride + tap % feed.kernel
                inside = (row >= 0) & (row < feed.h_in) & (column >= 0) & (column < feed.w_in)
                bank = ((row * feed.w_in + column) % columns)[inside]
                fetches.append(max(1, np.bincount(bank, minlength=1).max()))
                words.append(len(bank))
        shape = -1, feed.kernel**2
        return np.array(fetches).reshape(shape), np.array(words).reshape(shape)


def _slots(total: int, useful: int, absent: int, narrow: int | None = None) -> dict[str, int]:
    """Slots of a unit; without `narrow`, the rest is for want of a channel."""
    rest = total - useful - absent
    narrow = rest if narrow is None else narrow
    return {
        "useful": useful,
        "idle_pixels": absent,
        "idle_channels": narrow,
        "idle_imbalance": rest - narrow,
    }
