"""The stepped engine: a layer as SimPy processes, an event a beat.

Written from the rules of the machine for itself: of the fast engine's recurrences it knows nothing,
only the compiled program, the contract and the names of what is counted are the same. It is far
slower, shows every wait as an interval, and is what the fast engine is held to.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import simpy
from numpy.typing import NDArray

from ..common.contract import STALL_CAUSES, Contract
from ..common.program import Program
from .layer_run import LayerRun
from .stepped_ledger import Ledger
from .stepped_queues import Queues
from .stepped_structured import SteppedStructured
from .stepped_unstructured import SteppedUnstructured

__all__ = ["step_layer"]


def step_layer(
    program: Program,
    mask: NDArray[np.bool_] | None,
    contract: Contract,
    *,
    record: bool = False,
) -> LayerRun:
    """Run a compiled layer on its images, event by event.

    Parameters
    ----------
    program, mask, contract
        As for :func:`sinai.sim.engine.simulate_layer`, whose result this one's equals.
    record : bool
        Whether to keep `spans`, for a timeline.
    """
    env, machine = simpy.Environment(), program.machine
    kind = SteppedUnstructured if machine.unstructured else SteppedStructured
    between = Ledger(env, record)
    units = [
        kind(env, program, index, program.mask_of_part(index, mask), contract, record)
        for index in range(len(program.parts))
    ]
    queues = Queues(env, machine, units, contract, between)
    env.run(env.process(queues.run()))
    ledgers = [between, *(unit.ledger for unit in units)]
    counts: Counter[str] = Counter()
    slots: Counter[str] = Counter()
    for ledger in ledgers:
        counts.update(ledger.counts)
        slots.update(ledger.slots)
    spans = [span for ledger in ledgers for span in ledger.spans if span.begin < queues.ended]
    return LayerRun(
        cycles=queues.ended,
        busy=sum(ledger.busy for ledger in ledgers),
        busy_approximate=sum(ledger.busy_approximate for ledger in ledgers),
        shallow_approximate=sum(ledger.shallow_approximate for ledger in ledgers),
        stalls={cause: sum(ledger.stalls[cause] for ledger in ledgers) for cause in STALL_CAUSES},
        slots=dict(slots),
        essential=sum(ledger.essential for ledger in ledgers),
        projected=sum(ledger.projected for ledger in ledgers),
        cycles_load=queues.cycles["load"],
        cycles_store=queues.cycles["store"],
        counts=dict(counts),
        steps=tuple(step for ledger in ledgers for step in ledger.steps),
        computes=tuple(queues.computes),
        spans=tuple(spans),
    )
