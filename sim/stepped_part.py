"""A part under way in the stepped engine: its processes, from the launch to the last write.

Both machines have a loader of weights, a fetcher of x, an issuer and a projection unit, which run
side by side and wait for each other by marks. The issuer keeps the ledger: a cycle belongs to an
issue, or to the cause it waits for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import simpy
from numpy.typing import NDArray

from ..common.contract import Contract
from ..common.program import Program
from .layer_run import Step
from .stepped_ledger import Gate, Ledger, Mark, Process
from .stepped_projection import Projector

__all__ = ["SteppedPart"]


class SteppedPart(ABC):
    """`loaded` and `left` count units: whose weights have arrived, whose last item has issued.
    `selected` counts tiles whose essential neurons are known, `over` steps."""

    def __init__(
        self,
        env: simpy.Environment,
        program: Program,
        index: int,
        mask: NDArray[np.bool_] | None,
        contract: Contract,
        record: bool,
    ):
        self.env, self.program, self.mask, self.contract = env, program, mask, contract
        self.machine, self.layer, self.scheme = program.machine, program.layer, program.scheme
        self.index, self.part = index, program.parts[index]
        self.ledger = Ledger(env, record)
        numbers = program.tiles_of_part[index]
        self.first_tile = numbers.start
        self.tiles = [program.tiles[number] for number in numbers]
        self.pixel = self.part.row * self.layer.w_out
        self.loaded, self.left, self.over = Mark(env), Mark(env), Mark(env)
        self.selected = Mark(env)
        self.projector = (
            None if self.scheme.dense else Projector(env, program, index, contract, self.ledger)
        )
        self.order = self._order()

    def _order(self) -> list[tuple[str, int]]:
        """Phase and tile, counted within the part, of each step: a tile's EXACT follows the next
        tile's APPROXIMATE."""
        order: list[tuple[str, int]] = []
        for number in range(len(self.tiles) + 1):
            if number < len(self.tiles) and not self.scheme.dense:
                order.append(("A", number))
            if number and self.program.computes_exactly:
                order.append(("E", number - 1))
        return order

    @abstractmethod
    def processes(self, begin: simpy.Event) -> list[Process]:
        """Those besides the issuer, to start at the launch; they wait for `begin` themselves."""

    @abstractmethod
    def issue(self, position: int, phase: str, number: int) -> Process:
        """Issue the step at `position` of the order; returns its first and last cycle."""

    def run(self) -> Process:
        """From the launch of the part to its last write."""
        env, ledger, contract = self.env, self.ledger, self.contract
        self.launched = env.now
        begin = env.timeout(contract.launch(self.machine.columns))
        for process in self.processes(begin):
            env.process(process)
        if self.projector:
            self.projector.start(begin)
        yield from ledger.wait(begin, "fill")
        for position, (phase, number) in enumerate(self.order):
            before, short, since = ledger.busy, ledger.stalls["shallow"], env.now
            first, last = yield from self.issue(position, phase, number)
            if phase == "A":
                ledger.busy_approximate += ledger.busy - before
                ledger.shallow_approximate += ledger.stalls["shallow"] - short
                self._approximated(number)
            self.over.advance(position + 1)
            tile = self.first_tile + number
            if first >= 0:
                since, first, last = first, first - self.launched, last - self.launched
            ledger.span(phase, f"{phase}{tile}", since)
            ledger.steps.append(Step(phase, tile, first, last))
        # The drain counts from the last issue cycle, which is over.
        yield from ledger.wait(env.timeout(contract.drain - 1), "drain")

    def _approximated(self, number: int) -> None:
        """APPROXIMATE of a tile has issued: free its p, and know its essential neurons later."""
        tile, contract = self.tiles[number], self.contract
        to = contract.to_mask if self.machine.unstructured else contract.to_indices
        self.selected.advance_in(to - 1, number + 1)
        if tile.last_of_block and self.part.releases:
            self.projector.freed.advance(tile.pixel + tile.pixels - self.pixel)

    def _projected(self, pixels: int) -> Gate:
        """p of the part's first `pixels` pixels, those before this tile's end."""
        return Gate(self.projector.usable, pixels, "rpu")

    def _selected(self, number: int) -> Gate | None:
        return None if self.scheme.dense else Gate(self.selected, number + 1, "select")

    @property
    def _starved(self) -> str:
        """Cause of a wait for weights."""
        return "shallow" if self.ledger.busy else "fill"

    def _loads(self, unit: int, cycles: int, words: int) -> Process:
        """Load the weights of a unit into the half that the unit before the last has left."""
        if self.left.count < unit - 1:
            yield self.left.reach(unit - 1)
        since = self.env.now
        yield self.env.timeout(cycles)
        self.ledger.counts["weights.read"] += words
        self.ledger.span("weights", "load", since)
        self.loaded.advance(unit + 1)
