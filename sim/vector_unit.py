"""The vector unit walking the steps of a program: what both machines share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter

import numpy as np
import simpy
from numpy.typing import NDArray

from ..common.contract import Contract
from ..common.layer import Layer, ceil_div
from ..common.program import Program, Tile
from .feeds import Process, ProjectionUnit, Store
from .stream import Clock, WeightStream

__all__ = ["VectorUnit"]


class VectorUnit(ABC):
    """A layer under way: the clock, the weight stream, and what has been counted.

    `slots` holds useful, idle_pixels, idle_channels and idle_imbalance; `selected` the time at
    which each tile's essential neurons are known.
    """

    def __init__(
        self,
        env: simpy.Environment,
        program: Program,
        mask: NDArray[np.bool_] | None,
        contract: Contract,
    ):
        self.env, self.program, self.mask, self.contract = env, program, mask, contract
        self.machine, self.layer, self.scheme = program.machine, program.layer, program.scheme
        self.clock = Clock()
        self.stream = WeightStream(self.clock)
        self.counts: Counter = Counter()
        self.slots: Counter = Counter()
        self.busy_approximate = 0
        self.essential = 0
        self.selected: dict[int, int] = {}
        self.store = Store(env, program)
        self.projection = (
            None
            if self.scheme.dense
            else ProjectionUnit(env, program, contract, self.store, self.counts)
        )

    @abstractmethod
    def approximate(self, index: int, tile: Tile, gates: dict[str, int]) -> Process:
        """APPROXIMATE of a tile, not before the gates (cause to time)."""

    @abstractmethod
    def exact(self, index: int, tile: Tile, gates: dict[str, int]) -> Process:
        """EXACT of a tile, not before the gates."""

    def outputs_left(self) -> int:
        """Issue time after which no output waits for a write port."""
        return self.clock.now

    def run(self) -> Process:
        """The process: walk the steps, then wait for the last write."""
        begin = self.contract.descriptor + self.contract.feed
        self.stream.hold_until(begin)
        here = -1
        last_step_of_part = {
            self.program.tiles[tile].part: n for n, (_, tile) in enumerate(self.program.steps)
        }
        for number, (phase, index) in enumerate(self.program.steps):
            tile = self.program.tiles[index]
            gates = {"fill": begin}
            if tile.part > here:
                here = tile.part
                ready = yield self.store.ready[here]
                if ready:
                    gates["dma"] = ready + self.contract.feed
                    self.stream.hold_until(ready + self.contract.feed)
            before = self.clock.busy
            step = self.approximate if phase == "A" else self.exact
            yield from step(index, tile, gates)
            if phase == "A":
                self.busy_approximate += self.clock.busy - before
            # The other processes see this one only where it frees space or ends a part.
            frees = phase == "A" and tile.last_of_block and self.program.parts[tile.part].releases
            ends = number == last_step_of_part[tile.part]
            if frees or ends:
                yield self.env.timeout(max(0, self.clock.now - self.env.now))
            if frees:
                yield self.projection.space.put(tile.pixels)
            if ends:
                self.store.computed[tile.part].succeed()
        self.clock.wait({"drain": self.outputs_left() + self.contract.drain})
        stored = 0
        for event in self.store.stored:
            stored = yield event
        self.clock.wait({"dma": stored})
        self._charge_load()

    def _slots(self, slots: int, useful: int, idle_pixels: int, idle_channels: int) -> None:
        self.slots["useful"] += useful
        self.slots["idle_pixels"] += idle_pixels
        self.slots["idle_channels"] += idle_channels
        self.slots["idle_imbalance"] += slots - useful - idle_pixels - idle_channels

    def _write_back(self, outputs: int, lines: int) -> None:
        """`outputs` values leave through `lines` write accesses, masked or whole."""
        counts, layer = self.counts, self.layer
        counts["post.requantise"] += outputs
        counts["post.merge"] += outputs
        counts["y.write"] += lines
        if layer.residual:
            counts["residual.read"] += lines
        if layer.joined:
            counts["residual.write"] += lines
        if not self.scheme.dense:
            counts["xq.write"] += lines

    def _charge_load(self) -> None:
        """Every weight, P, parameter and input word is written once a layer and image."""
        layer, machine, counts = self.layer, self.machine, self.counts
        words = layer.c_out * self.program.beats
        if not self.scheme.dense:
            words += 4 * layer.c_out * self.program.approximate_beats
            entries = layer.k * (layer.d if layer.projection == "patch" else layer.c_in)
            if layer.projection == "tap":
                entries //= layer.taps
            counts["projection.write"] += ceil_div(2 * entries, machine.word_bits("projection"))
            counts["xq.write"] += ceil_div(
                4 * layer.h_in * layer.w_in * layer.c_in, machine.word_bits("xq")
            )
        counts["weights.write"] += words
        counts["parameters.write"] += layer.c_out
        counts["x.write"] += _input_words(layer, machine.pses)


def _input_words(layer: Layer, words: int) -> int:
    """x words of the layer's input: im2col rows where it is narrower than a word."""
    if layer.c_in < words:
        return layer.pixels * layer.beats(words)
    return layer.h_in * layer.w_in * ceil_div(layer.c_in, words)
