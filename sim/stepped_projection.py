"""The projection unit of the stepped engine: gatherer, adders and the copier of projection `tap`.

x^Q of a group of pixels passes the adders in slots, one for each element tile: all row tiles of P
over the group's pixels. While a slot computes, the gatherer fills the other half of its buffer for
the next one. One event is the gathering of a pixel, a tile of P over a group, or the copies of a
pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import simpy
from numpy.typing import NDArray

from ..common.blocks import p_room
from ..common.contract import Contract
from ..common.geometry import Feed, is_tap, row_tiles, xq_feed
from ..common.layer import ceil_div
from ..common.program import Program
from .stepped_ledger import Ledger, Mark, Process

__all__ = ["Projector"]


class _Slot(NamedTuple):
    """An element tile of a group: its first vector and their number, and the pixels of the part
    that are projected when the group is done (0: the group has no room to wait for)."""

    tile: int
    vector: int
    size: int
    done: int


class Projector:
    """Projects the pixels of a part in order.

    `usable` and `freed` count pixels of the part: those whose p may be issued, and those whose p
    nobody needs any more.
    """

    def __init__(self, env: simpy.Environment, program: Program, index: int, contract: Contract,
                 ledger: Ledger):  # fmt: skip
        layer, machine, part = program.layer, program.machine, program.parts[index]
        self.env, self.ledger, self.contract = env, ledger, contract
        self.layer, self.machine, self.part = layer, machine, part
        self.slices = ceil_div(program.layer.k, program.machine.rpu.rows)
        self.pixels = part.rows * layer.w_out
        self.usable = Mark(env, 0 if part.projects else self.pixels)
        self.freed = Mark(env)
        self.room = p_room(layer, machine)
        self.tap = is_tap(layer)
        self.feed = xq_feed(layer, machine, part.row, part.rows)
        self.row_tiles = row_tiles(layer, machine)
        self.load, self.hold = machine.rpu.load_cycles, machine.rpu.hold
        # x^Q words of a vector: of an input pixel (tap), of a window (patch).
        words = self.feed.words if self.tap else self.feed.beats
        together = machine.rpu.elements // machine.rpu.word
        self.tiles = [min(together, words - at) for at in range(0, words, together)]
        self.single = len(self.tiles) * self.row_tiles == 1
        inside = _inside(self.feed, part.rows, layer.w_out)
        self.inside = inside.sum(1).tolist()
        if not self.tap:
            # x^Q words that are read for each window, element tile by element tile.
            of_word = np.repeat(inside, self.feed.words, axis=1).astype(int)
            self.reads = np.add.reduceat(of_word, range(0, words, together), axis=1).tolist()
        # Half of the gather buffer: slots gathered, and slots begun, of all slots so far.
        self.gathered, self.begun = Mark(env), Mark(env)
        self.slots_before = 0

    def start(self, begin: simpy.Event) -> None:
        if self.part.projects:
            self.env.process(self._tap(begin) if self.tap else self._patch(begin))

    def _groups(self, pixels: int) -> Iterator[tuple[int, int]]:
        """(first, size) of the groups of so many pixels."""
        return ((at, min(self.hold, pixels - at)) for at in range(0, pixels, self.hold))

    def _patch(self, begin: simpy.Event) -> Process:
        yield begin
        slots = [
            _Slot(tile, first, size, first + size)
            for first, size in self._groups(self.pixels)
            for tile in range(len(self.tiles))
        ]
        yield from self._run(slots, self.load)

    def _tap(self, begin: simpy.Event) -> Process:
        yield begin
        feed, layer, ledger, env = self.feed, self.layer, self.ledger, self.env
        fill, first_load, projected = self.contract.rpu_fill, self.load, 0
        for row in range(self.part.rows):
            top = feed.row0 + row * feed.stride
            needed = [y for y in range(top, top + feed.kernel) if projected <= y < feed.h_in]
            slots = [
                _Slot(tile, y * feed.w_in + first, size, 0)
                for y in needed
                for first, size in self._groups(feed.w_in)
                for tile in range(len(self.tiles))
            ]
            if slots:
                projected = needed[-1] + 1
                yield from self._run(slots, first_load)
                first_load = 0
                # What has been projected last is on its way to the tap memory.
                yield env.timeout(fill - 1)
            for first, size in self._groups(layer.w_out):
                done = row * layer.w_out + first + size
                yield from self._room(done)
                since = env.now
                for pixel in range(done - size, done):
                    yield env.timeout(layer.taps)
                    ledger.counts["tap.read"] += self.inside[pixel]
                    ledger.counts["p.write"] += self.slices
                ledger.span("projection", f"copies of row {row}", since)
                self.usable.advance_in(fill - 1, done)

    def _room(self, done: int) -> Process:
        """Wait until the p memory has room for the first `done` pixels of the part."""
        if self.freed.count < done - self.room:
            yield self.freed.reach(done - self.room)

    def _run(self, slots: list[_Slot], load: int) -> Process:
        """Gather and compute slots one after the other; `load` of the first tile of P, 0 where it
        is there."""
        env, counts = self.env, self.ledger.counts
        base = self.slots_before
        self.slots_before += len(slots)
        env.process(self._gather(slots, base))
        if load:
            if self.single:
                counts["projection.read"] += load
            yield env.timeout(load)
        for number, slot in enumerate(slots):
            if self.gathered.count <= base + number:
                yield self.gathered.reach(base + number + 1)
            if slot.tile == 0:
                yield from self._room(slot.done)
            self.begun.advance(base + number + 1)
            since = env.now
            for _ in range(self.row_tiles):
                # The next tile of P loads while this one works.
                yield env.timeout(slot.size if self.single else max(slot.size, self.load))
                self._count(slot)
            self.ledger.span("projection", f"P x vectors {_names(slot)}", since)
            if slot.tile == len(self.tiles) - 1:
                self.ledger.projected += slot.size
                if slot.done:
                    self.usable.advance_in(self.contract.rpu_fill - 1, slot.done)

    def _count(self, slot: _Slot) -> None:
        """Count a tile of P passing over the vectors of a slot."""
        counts = self.ledger.counts
        if not self.single:
            counts["projection.read"] += self.load
        counts["gather.read"] += slot.size
        if slot.tile > 0:
            counts["sums.read"] += slot.size
        if slot.tile < len(self.tiles) - 1:
            counts["sums.write"] += slot.size
        else:
            counts["tap.write" if self.tap else "p.write"] += slot.size

    def _gather(self, slots: list[_Slot], base: int) -> Process:
        """Fill one half of the buffer for a slot while the slot before is under way."""
        env, counts, tiles = self.env, self.ledger.counts, self.tiles
        for number, slot in enumerate(slots):
            if self.begun.count < base + number:
                yield self.begun.reach(base + number)
            words = tiles[slot.tile]
            since = env.now
            for vector in range(slot.vector, slot.vector + slot.size):
                yield env.timeout(words)
                counts["gather.write"] += words
                counts["xq.read"] += words if self.tap else self.reads[vector][slot.tile]
            self.ledger.span("gather", f"x^Q of vectors {_names(slot)}", since)
            self.gathered.advance(base + number + 1)


def _names(slot: _Slot) -> str:
    return f"{slot.vector} to {slot.vector + slot.size - 1}"


def _inside(feed: Feed, rows: int, w_out: int) -> NDArray[np.bool_]:
    """(output pixels, taps): whether the tap lies inside the input."""
    reach = np.arange(feed.kernel)
    row = feed.row0 + np.arange(rows)[:, None] * feed.stride + reach
    column = feed.column0 + np.arange(w_out)[:, None] * feed.stride + reach
    row, column = (row >= 0) & (row < feed.h_in), (column >= 0) & (column < feed.w_in)
    return (row[:, None, :, None] & column[None, :, None, :]).reshape(rows * w_out, -1)
