"""The vector unit walking the steps of a part: what both machines share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..common.contract import Contract
from ..common.program import Program, Tile
from .layer_run import Step
from .projection import ProjectionUnit
from .stream import Clock, Stream

__all__ = ["VectorUnit"]


class VectorUnit(ABC):
    """A part under way: the clock, the weight stream, and what has been counted.

    `slots` holds useful, idle_pixels, idle_channels and idle_imbalance; `selected` the time at
    which each tile's essential neurons are known.
    """

    def __init__(
        self,
        program: Program,
        index: int,
        mask: NDArray[np.bool_] | None,
        contract: Contract,
    ):
        self.program, self.mask, self.contract = program, mask, contract
        self.machine, self.layer, self.scheme = program.machine, program.layer, program.scheme
        self.index, self.part = index, program.parts[index]
        self.counts: Counter = Counter()
        self.slots: Counter = Counter()
        self.steps: list[Step] = []
        self.busy_approximate = self.shallow_approximate = 0
        self.essential = 0
        self.selected: dict[int, int] = {}
        self.clock = Clock()
        self.begin = contract.launch(self.machine.columns)
        self.weights = Stream(self.clock)
        self.weights.hold_until(self.begin)
        self.projection = (
            None if self.scheme.dense else ProjectionUnit(program, self.part, contract, self.counts)
        )

    @abstractmethod
    def approximate(self, index: int, tile: Tile) -> tuple[int, int]:
        """APPROXIMATE of a tile; first and last issue."""

    @abstractmethod
    def exact(self, index: int, tile: Tile) -> tuple[int, int]:
        """EXACT of a tile; its first issue, and its last cycle."""

    def run(self, steps: Sequence[tuple[str, int]]) -> None:
        """Walk the steps of the part, then wait for the last write."""
        clock, first_pixel = self.clock, self.part.row * self.layer.w_out
        clock.wait({"fill": self.begin})
        for phase, index in steps:
            tile = self.program.tiles[index]
            if phase == "A":
                before, short = clock.busy, clock.stalls["shallow"]
                issued = self.approximate(index, tile)
                self.busy_approximate += clock.busy - before
                self.shallow_approximate += clock.stalls["shallow"] - short
                if tile.last_of_block and self.part.releases:
                    self.projection.release(tile.pixel + tile.pixels - first_pixel, clock.now)
            else:
                issued = self.exact(index, tile)
            self.steps.append(Step(phase, index, *issued))
        clock.wait({"drain": clock.now - 1 + self.contract.drain})

    @property
    def _starved(self) -> str:
        """Cause of a wait for the first weights, or for later ones."""
        return "shallow" if self.clock.busy else "fill"

    def _usable(self, last_pixel: int) -> int:
        return self.projection.usable(last_pixel - self.part.row * self.layer.w_out)

    def _slots(self, slots: int, useful: int, idle_pixels: int, idle_channels: int) -> None:
        self.slots["useful"] += useful
        self.slots["idle_pixels"] += idle_pixels
        self.slots["idle_channels"] += idle_channels
        self.slots["idle_imbalance"] += slots - useful - idle_pixels - idle_channels

    def _write_back(self, outputs: int) -> None:
        """`outputs` values leave, each with an access of its own."""
        counts, layer = self.counts, self.layer
        counts["post.requantise"] += outputs
        counts["post.merge"] += outputs
        counts["y.write"] += outputs
        if layer.residual:
            counts["residual.read"] += outputs
        if layer.joined:
            counts["residual.write"] += outputs
