"""The fast engine, for one layer: its parts by recurrences, their transfers as SimPy processes.

A part is a compute of its own: launched, drained, nothing of it overlaps with the part before or
after but transfers. So the cycles of a part follow from the part alone, by the recurrences of
`stream`, `scanner` and `projection`, which give the same cycles as stepping would; the queues of
transfers and computes are event-driven. Nothing here knows an energy; events are counted under the
names of `counts`.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..common.allocation import loaded_words, places
from ..common.contract import STALL_CAUSES, Contract
from ..common.descriptor import Target
from ..common.order import Order, order
from ..common.program import Program
from ..common.rules import between_computes
from .layer_run import LayerRun, Step
from .structured import StructuredUnit
from .transfers import move_cycles, run_queues
from .unstructured import UnstructuredUnit
from .vector_unit import VectorUnit

__all__ = ["LayerRun", "simulate_layer", "steps_of"]


def steps_of(program: Program, part: int) -> list[tuple[str, int]]:
    """Steps of a part in the order of execution: A0 A1 E0 A2 E1 ..., as ("A" or "E", tile)."""
    tiles = program.tiles_of_part[part]
    if program.scheme.dense:
        return [("E", tile) for tile in tiles]
    if not program.computes_exactly:
        return [("A", tile) for tile in tiles]
    steps = [("A", tiles[0])]
    for before, tile in pairwise(tiles):
        steps += [("A", tile), ("E", before)]
    return [*steps, ("E", tiles[-1])]


def simulate_layer(
    program: Program,
    mask: NDArray[np.bool_] | None,
    contract: Contract,
    queue: Order | None = None,
) -> LayerRun:
    """Run a compiled layer on its images.

    `mask` is (images, P, C_out) in placement order, True where essential, or (P, C_out) of one
    image; None where the program alone decides the work (dense, structured). `queue` has the
    transfers, those of the parts by default.
    """
    machine, parts = program.machine, program.parts
    units, steps = [], []
    known: dict[tuple[object, ...], tuple[VectorUnit, int]] = {}
    for index, part in enumerate(parts):
        first = program.tiles_of_part[index].start
        # Without masks, parts of equal rows and width take the same cycles.
        key = (part.row, part.rows, part.channels, part.projects, part.releases)
        unit, origin = known.get(key, (None, 0))
        if unit is None:
            unit, origin = _run_part(program, index, mask, contract), first
            if mask is None:
                known[key] = unit, origin
        units.append(unit)
        shift = first - origin
        steps += [Step(phase, tile + shift, *ends) for phase, tile, *ends in unit.steps]
    stalls = {cause: sum(unit.clock.stalls[cause] for unit in units) for cause in STALL_CAUSES}
    cycles = sum(unit.clock.now for unit in units)
    queue = queue or order(parts, places(machine))
    if machine.resident:
        # Transfers take no time; the descriptors of later computes do.
        between = (len(parts) - 1) * between_computes(machine, contract)
        stalls["dma"] += between
        cycles += between
    else:
        ended = run_queues(machine, queue, [unit.clock.now for unit in units], contract).ended
        # Whatever the computes do not take is spent on transfers.
        stalls["dma"] += ended - cycles
        cycles = ended
    moves = [queued.move for queued in queue.transfers]
    loads = [move for move in moves if move.target < Target.STORE_Y]
    stores = [move for move in moves if move.target >= Target.STORE_Y]
    counts: Counter = Counter()
    slots: Counter = Counter()
    for unit, times in Counter(units).items():
        for total, one in ((counts, unit.counts), (slots, unit.slots)):
            for name, count in one.items():
                total[name] += count * times
    counts.update({f"{name}.write": words for name, words in loaded_words(machine, loads).items()})
    for move in stores:
        if move.target not in (Target.STORE_Y, Target.STORE_YQ):
            continue
        counts["y.read"] += move.rows * machine.vpus
        if move.target == Target.STORE_YQ:
            counts["post.quantise"] += move.rows * machine.vpus
    return LayerRun(
        cycles=cycles,
        busy=sum(unit.clock.busy for unit in units),
        busy_approximate=sum(unit.busy_approximate for unit in units),
        shallow_approximate=sum(unit.shallow_approximate for unit in units),
        stalls=stalls,
        slots=dict(slots),
        essential=sum(unit.essential for unit in units),
        projected=sum(unit.projection.projected for unit in units if unit.projection),
        cycles_load=move_cycles(machine, loads, contract),
        cycles_store=move_cycles(machine, stores, contract),
        counts=dict(counts),
        steps=tuple(steps),
        computes=tuple(unit.clock.now for unit in units),
    )


def _run_part(
    program: Program, index: int, mask: NDArray[np.bool_] | None, contract: Contract
) -> VectorUnit:
    kind = UnstructuredUnit if program.machine.unstructured else StructuredUnit
    unit = kind(program, index, program.mask_of_part(index, mask), contract)
    unit.run(steps_of(program, index))
    return unit
