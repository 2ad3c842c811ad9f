"""The unstructured machine of the stepped engine: an event is a row-beat, a beat of a pass, a cycle
of the scanner or the x words of a beat.

The scanner publishes passes; for each beat of a pass the fetcher reads the x words of its pixels
into the half of the window that is free, and the issuer passes the lanes' lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import simpy

from ..common.layer import ceil_div
from ..common.program import Tile
from .stepped_ledger import Mark, Process
from .stepped_part import SteppedPart

__all__ = ["SteppedUnstructured"]

#: Weight words of a row-beat of APPROXIMATE: 16 w nibbles.
_ROW_WORDS = 4


class _Pass(NamedTuple):
    """Rows of each lane's pairs, in order; distinct pixels; L, pairs of the fullest lane."""

    rows: list[list[int]]
    pixels: int
    deepest: int
    pairs: int

    def shares(self, number: int) -> list[str]:
        """Pairs of each lane beside those of the fullest, which all wait for in every beat."""
        return [
            f"pass {number}: {len(own)} of {self.deepest} pairs" if own else "" for own in self.rows
        ]


class SteppedUnstructured(SteppedPart):
    """`published` counts what the scanner has posted: passes, and None at the end of a tile.

    `passes` and `issued` count passes published and issued, `filled` and `emptied` beats of the
    window; `rows` is the row of each lane's last output.
    """

    def processes(self, begin: simpy.Event) -> list[Process]:
        env = self.env
        self.published, self.issued = Mark(env), Mark(env)
        self.filled, self.emptied = Mark(env), Mark(env)
        self.posted: list[_Pass | None] = []
        self.passes = self.taken = self.units = 0
        self.rows = [-1] * self.machine.lanes
        return [self._load(begin), self._scan(begin), self._fetch(begin)]

    def _of_row(self, tile: Tile, row: int) -> int:
        """Lanes with a channel in this row."""
        return min(self.machine.lanes, tile.channels - row * self.machine.lanes)

    def _of_tile(self, tile: Tile) -> int:
        """Rows of a tile."""
        return ceil_div(tile.channels, self.machine.lanes)

    def _load(self, begin: simpy.Event) -> Process:
        """The weight port belongs to EXACT from its first issue to its last."""
        yield begin
        unit, counts = 0, self.ledger.counts
        for position, (phase, number) in enumerate(self.order):
            if phase == "E":
                continue
            after_exact = position > 0 and self.order[position - 1][0] == "E"
            if after_exact and self.over.count < position:
                yield self.over.reach(position)
            tile = self.tiles[number]
            for row in range(self._of_tile(tile)):
                words = _ROW_WORDS * self._of_row(tile, row)
                for _ in range(self.program.approximate_beats):
                    yield from self._loads(unit, _ROW_WORDS, words)
                    counts["row_register.write"] += words
                    unit += 1

    def issue(self, position: int, phase: str, number: int) -> Process:
        if phase == "A":
            return self._approximate(self.tiles[number])
        return self._exact(self.tiles[number], number)

    def _approximate(self, tile: Tile) -> Process:
        env, ledger, machine = self.env, self.ledger, self.machine
        counts, pixels, beats = ledger.counts, tile.pixels, self.program.approximate_beats
        gate = self._projected(tile.pixel + pixels - self.pixel)
        if gate.mark.count < gate.need:
            yield from ledger.wait(gate.mark.reach(gate.need), gate.cause)
        first = -1
        for row in range(self._of_tile(tile)):
            lanes = self._of_row(tile, row)
            useful = lanes * pixels
            since = -1
            for _ in range(beats):
                if self.loaded.count <= self.units:
                    yield from ledger.wait(self.loaded.reach(self.units + 1), self._starved)
                if since < 0:
                    since = env.now
                if first < 0:
                    first = env.now
                yield env.timeout(pixels)
                ledger.busy += pixels
                self.units += 1
                self.left.advance(self.units)
                ledger.slots["useful"] += useful
                ledger.slots["idle_channels"] += (machine.lanes - lanes) * pixels
                counts["p.read"] += pixels
                counts["mvu.mac4"] += 16 * machine.pses * useful
                counts["accumulator.update"] += useful
            if ledger.record:
                ledger.lanes(["A"] * lanes, since)
            for lane in range(lanes):
                self._parameters(lane, row)
            counts["select.compare"] += useful
            counts["masks.write"] += machine.lanes * ceil_div(pixels, machine.window)
            ledger.outputs(useful, self.layer)
        return first, env.now - 1

    def _parameters(self, lane: int, row: int) -> None:
        """An output of a lane: its parameters are read where its row changes."""
        if self.rows[lane] != row:
            self.rows[lane] = row
            self.ledger.counts["parameters.read"] += 1

    def _scan(self, begin: simpy.Event) -> Process:
        """Walk the windows of the tiles; every event is a cycle of all lanes' scanners."""
        yield begin
        for number, tile in enumerate(self.tiles):
            gate = self._selected(number)
            if gate and gate.mark.count < gate.need:
                yield gate.mark.reach(gate.need)
            since = self.env.now
            for moves in self._windows(tile):
                yield from self._walk(moves)
            self.ledger.span("scanner", f"E{self.first_tile + number}", since)
            self._post(None)

    def _walk(self, moves: list[list[tuple[int, int] | None]]) -> Process:
        """Walk a window. `moves` of each lane, a cycle each: a (row, pixel) pair, or None for a
        mask word without any."""
        env, most = self.env, self.machine.accumulators
        at = [0] * len(moves)
        lists: list[list[tuple[int, int]]] = [[] for _ in moves]
        while True:
            walking = [
                lane
                for lane, own in enumerate(moves)
                if at[lane] < len(own) and len(lists[lane]) < most
            ]
            if not walking:
                if any(lists):
                    self._publish(lists)
                    lists = [[] for _ in moves]
                    continue
                return
            if self.issued.count < self.passes - 1:
                yield self.issued.reach(self.passes - 1)
            yield env.timeout(1)
            self.ledger.counts["select.scan"] += len(walking)
            for lane in walking:
                move = moves[lane][at[lane]]
                at[lane] += 1
                if move is not None:
                    lists[lane].append(move)

    def _windows(self, tile: Tile) -> Iterator[list[list[tuple[int, int] | None]]]:
        """What each lane walks in each window of a tile."""
        lanes, width, bits = self.machine.lanes, self.machine.window, self.contract.scan_bits
        together = bits // width
        words = ceil_div(self._of_tile(tile), together)
        for first in range(0, tile.pixels, width):
            count = min(width, tile.pixels - first)
            padded = np.zeros((words * together * lanes, width), dtype=bool)
            if self.scheme.dense:
                padded[: tile.channels, :count] = True
            else:
                channels = slice(tile.channel, tile.channel + tile.channels)
                start = tile.pixel + first
                padded[: tile.channels, :count] = self.mask[start : start + count, channels].T
                self.ledger.counts["masks.read"] += lanes * words
            yield [
                self._moves(padded[lane::lanes].reshape(words, -1), together, width)
                for lane in range(lanes)
            ]

    @staticmethod
    def _moves(words: np.ndarray, together: int, width: int) -> list[tuple[int, int] | None]:
        moves: list[tuple[int, int] | None] = []
        for number, word in enumerate(words):
            found = np.flatnonzero(word).tolist()
            moves += [(number * together + bit // width, bit % width) for bit in found] or [None]
        return moves

    def _publish(self, lists: list[list[tuple[int, int]]]) -> None:
        pairs = sum(map(len, lists))
        self.ledger.counts["pairs.write"] += pairs
        self.passes += 1
        self._post(
            _Pass(
                rows=[[row for row, _ in own] for own in lists],
                pixels=len({pixel for own in lists for _, pixel in own}),
                deepest=max(map(len, lists)),
                pairs=pairs,
            )
        )

    def _post(self, found: _Pass | None) -> None:
        self.posted.append(found)
        self.published.advance(len(self.posted))

    def _fetch(self, begin: simpy.Event) -> Process:
        """Read the x words of each beat into the half of the window that is free."""
        yield begin
        env, counts, ledger = self.env, self.ledger.counts, self.ledger
        position = unit = 0
        while True:
            if self.published.count <= position:
                yield self.published.reach(position + 1)
            found = self.posted[position]
            position += 1
            if found is None:
                continue
            for _ in range(self.program.beats):
                if self.emptied.count < unit - 1:
                    yield self.emptied.reach(unit - 1)
                since = env.now
                yield env.timeout(found.pixels)
                counts["x.read"] += found.pixels
                counts["window.write"] += found.pixels
                ledger.span("window", "x", since)
                unit += 1
                self.filled.advance(unit)

    def _exact(self, tile: Tile, number: int) -> Process:
        env, ledger = self.env, self.ledger
        gate = self._selected(number)
        if gate and gate.mark.count < gate.need:
            yield from ledger.wait(gate.mark.reach(gate.need), gate.cause)
        entered, first = env.now, -1
        while True:
            if self.published.count <= self.taken:
                yield from ledger.wait(self.published.reach(self.taken + 1), "scan")
            found = self.posted[self.taken]
            self.taken += 1
            if found is None:
                break
            since = -1
            for _ in range(self.program.beats):
                unit = self.emptied.count
                if self.filled.count <= unit:
                    yield from ledger.wait(self.filled.reach(unit + 1), "xbank")
                if since < 0:
                    since = env.now
                if first < 0:
                    first = env.now
                yield env.timeout(found.deepest)
                self.emptied.advance(unit + 1)
                self._count(found, tile)
            self.issued.advance(self.issued.count + 1)
            if ledger.record:
                ledger.lanes(found.shares(self.issued.count), since)
            ledger.essential += found.pairs
            for lane, rows in enumerate(found.rows):
                for row in rows:
                    self._parameters(lane, row)
            ledger.outputs(found.pairs, self.layer)
        if env.now == entered:
            # A step without any pass takes a cycle to be seen as over.
            yield from ledger.wait(env.timeout(1), "scan")
        return first, env.now - 1 if first >= 0 else -1

    def _count(self, found: _Pass, tile: Tile) -> None:
        """Count a beat of a pass."""
        ledger, machine, useful = self.ledger, self.machine, found.pairs
        counts, slots = ledger.counts, ledger.slots
        distinct = sum(len(set(rows)) for rows in found.rows)
        absent = max(0, machine.lanes - tile.channels) * found.deepest
        ledger.busy += found.deepest
        slots["useful"] += useful
        slots["idle_channels"] += absent
        slots["idle_imbalance"] += machine.lanes * found.deepest - useful - absent
        counts["weights.read"] += distinct
        counts["row_register.write"] += distinct
        counts["window.read"] += useful
        counts["mvu.mac16"] += machine.pses * useful
        counts["accumulator.update"] += useful
        counts["pairs.read"] += useful
