"""The event simulation of one layer: DMA, projection unit and vector unit as SimPy processes.

Time is counted in clock cycles from the start of the layer. The processes meet where state is
shared: data of a part on chip, p memory space, p ready. Between those points the vector unit passes
whole runs of beats by the recurrences of `stream`, which give the same cycles as beat-by-beat
stepping. Nothing here knows an energy; events are counted under the names of `counts`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import simpy
from numpy.typing import NDArray

from ..common.contract import Contract
from ..common.layer import ceil_div
from ..common.program import Program
from .structured import StructuredUnit
from .unstructured import UnstructuredUnit

__all__ = ["LayerRun", "simulate_layer"]


@dataclass(frozen=True)
class LayerRun:
    """Result of one layer and image: cycles, their causes, slots, MACs and event counts.

    cycles = busy + all stalls; V * T * busy = the sum of slots. `projected` counts the vectors
    multiplied by P: im2col rows (`patch`) or input pixels (`tap`).
    """

    cycles: int
    busy: int
    busy_approximate: int
    stalls: dict[str, int]
    slots: dict[str, int]
    essential: int
    projected: int
    cycles_load: int
    cycles_store: int
    counts: dict[str, int]


def simulate_layer(
    program: Program, mask: NDArray[np.bool_] | None, contract: Contract
) -> LayerRun:
    """Run a compiled layer on one image.

    `mask` is (P, C_out) in placement order, True where essential; None where the program alone
    decides the work (dense, structured).
    """
    env = simpy.Environment()
    kind = UnstructuredUnit if program.machine.unstructured else StructuredUnit
    unit = kind(env, program, mask, contract)
    env.run(env.process(unit.run()))
    width = program.machine.dma.bytes_per_cycle
    return LayerRun(
        cycles=unit.clock.now,
        busy=unit.clock.busy,
        busy_approximate=unit.busy_approximate,
        stalls=unit.clock.stalls,
        slots=dict(unit.slots),
        essential=unit.essential,
        projected=unit.projection.projected if unit.projection else 0,
        cycles_load=ceil_div(sum(part.load_bytes for part in program.parts), width),
        cycles_store=ceil_div(sum(part.store_bytes for part in program.parts), width),
        counts=dict(unit.counts),
    )
