"""Transfers and computes as SimPy processes: two queues that wait for each other.

The transfer engine takes the loads of part 0 and of part 1, then after each compute the loads of
the part after the next one, and the stores of the part that is done. The compute engine takes the
parts in order; a part waits for every transfer up to its own loads, and to the stores that free the
places of its outputs. Every engine fetches a descriptor, waits, then works; nothing is prefetched.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import simpy

from ..common.allocation import Move
from ..common.contract import Contract
from ..common.descriptor import transfer_cycles
from ..common.machine import Machine
from ..common.parts import Part
from ..common.rules import fetch_cycles

__all__ = ["Schedule", "move_cycles", "run_queues"]

Process = Generator[simpy.Event, object, None]


@dataclass(frozen=True)
class Schedule:
    """Cycles since START: when each part was launched, and when the last store was done."""

    launched: list[int]
    ended: int


def move_cycles(machine: Machine, moves: Sequence[Move], contract: Contract) -> int:
    """Cycles of transfers one after the other, their descriptors' fetches and waits apart."""
    return sum(transfer_cycles(machine, move.target, move.rows, contract) for move in moves)


def run_queues(
    machine: Machine, parts: Sequence[Part], computes: Sequence[int], contract: Contract
) -> Schedule:
    """Run transfers and computes, part i of which takes `computes[i]` cycles."""
    env = simpy.Environment()
    queues = _Queues(env, machine, parts, contract)
    transfers = env.process(queues.transfer())
    launched: list[int] = []
    env.process(queues.compute(computes, launched))
    env.run(transfers)
    return Schedule(launched, int(env.now))


class _Queues:
    def __init__(
        self,
        env: simpy.Environment,
        machine: Machine,
        parts: Sequence[Part],
        contract: Contract,
    ):
        self.env, self.machine, self.contract = env, machine, contract
        count = len(parts)
        # (part whose compute must be done or -1, transfer)
        self.transfers: list[tuple[int, Move]] = []
        self.needed: list[int] = []  # index of the last transfer that each part waits for
        for index in range(min(2, count)):
            self.transfers += [(-1, move) for move in parts[index].place.loads]
            self.needed.append(len(self.transfers) - 1)
        for index in range(count):
            if index + 2 < count:
                self.transfers += [(index, move) for move in parts[index + 2].place.loads]
            self.transfers += [(index, move) for move in parts[index].place.stores]
            if index + 2 < count:
                self.needed.append(len(self.transfers) - 1)
        self.moved = [env.event() for _ in self.transfers]
        self.computed = [env.event() for _ in parts]

    def transfer(self) -> Process:
        fetch = fetch_cycles(self.machine, "transfer", self.contract)
        for (part, move), moved in zip(self.transfers, self.moved, strict=True):
            yield self.env.timeout(fetch)
            if part >= 0:
                yield self.computed[part]
            yield self.env.timeout(move_cycles(self.machine, [move], self.contract))
            moved.succeed()

    def compute(self, computes: Sequence[int], launched: list[int]) -> Process:
        fetch = fetch_cycles(self.machine, "compute", self.contract)
        for needed, cycles, computed in zip(self.needed, computes, self.computed, strict=True):
            yield self.env.timeout(fetch)
            if needed >= 0:
                yield self.moved[needed]
            launched.append(int(self.env.now))
            yield self.env.timeout(cycles)
            computed.succeed()
