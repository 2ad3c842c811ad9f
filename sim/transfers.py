"""Transfers and computes as SimPy processes: two queues that wait for each other.

Each takes its descriptors in the order of :mod:`sinai.common.order`: it fetches one, waits for what
that one waits for, then works; nothing is prefetched.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import simpy

from ..common.allocation import Move
from ..common.contract import Contract
from ..common.descriptor import transfer_cycles
from ..common.machine import Machine
from ..common.order import Order
from ..common.rules import fetch_cycles

__all__ = ["Schedule", "move_cycles", "run_queues"]

Process = Generator[simpy.Event, object, None]


@dataclass(frozen=True)
class Schedule:
    """Cycles since the descriptors were announced: the first of each part, and the one after the
    last transfer."""

    launched: list[int]
    ended: int


def move_cycles(machine: Machine, moves: Sequence[Move], contract: Contract) -> int:
    """Cycles of transfers one after the other, their descriptors' fetches and waits apart."""
    return sum(transfer_cycles(machine, move.target, move.rows, contract) for move in moves)


def run_queues(
    machine: Machine, order: Order, computes: Sequence[int], contract: Contract
) -> Schedule:
    """Run transfers and computes, part i of which takes `computes[i]` cycles."""
    env = simpy.Environment()
    queues = _Queues(env, machine, order, contract)
    transfers = env.process(queues.transfer())
    launched: list[int] = []
    env.process(queues.compute(computes, launched))
    env.run(transfers)
    return Schedule(launched, int(env.now))


class _Queues:
    def __init__(self, env: simpy.Environment, machine: Machine, order: Order, contract: Contract):
        self.env, self.machine, self.order, self.contract = env, machine, order, contract
        self.moved = [env.event() for _ in order.transfers]
        self.computed = [env.event() for _ in order.needed]

    def transfer(self) -> Process:
        fetch = fetch_cycles(self.machine, "transfer", self.contract)
        for (_, move, wait), moved in zip(self.order.transfers, self.moved, strict=True):
            yield self.env.timeout(fetch)
            if wait:
                yield self.computed[wait - 1]
            yield self.env.timeout(move_cycles(self.machine, [move], self.contract))
            moved.succeed()

    def compute(self, computes: Sequence[int], launched: list[int]) -> Process:
        fetch = fetch_cycles(self.machine, "compute", self.contract)
        for needed, cycles, computed in zip(
            self.order.needed, computes, self.computed, strict=True
        ):
            yield self.env.timeout(fetch)
            if needed:
                yield self.moved[needed - 1]
            yield self.env.timeout(self.contract.start)
            launched.append(int(self.env.now))
            yield self.env.timeout(cycles + self.contract.finish)
            computed.succeed()
