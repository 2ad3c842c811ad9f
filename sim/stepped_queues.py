"""The queues of the stepped engine: transfers, a row of a memory an event, beside the computes.

Each engine takes its descriptors in order: it fetches one, waits for what that one waits for, then
works. Nothing is prefetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import simpy

from ..common.allocation import Move, loaded_words, places
from ..common.contract import Contract
from ..common.descriptor import Target, transfer_row_bits
from ..common.layer import ceil_div
from ..common.machine import Machine
from ..common.rules import fetch_cycles
from .stepped_ledger import Ledger, Mark, Process
from .stepped_part import SteppedPart

__all__ = ["Queues"]


class _Transfer(NamedTuple):
    """A transfer of part `part`, which waits until `wait` parts are done."""

    part: int
    move: Move
    wait: int


class Queues:
    """Runs the parts of a layer and their transfers; `ledger` has what lies between the parts.

    `ended` is the cycle in which the layer is done, `computes` what each part takes, `cycles` what
    the transfers take, "load" and "store".
    """

    def __init__(
        self,
        env: simpy.Environment,
        machine: Machine,
        parts: Sequence[SteppedPart],
        contract: Contract,
        ledger: Ledger,
    ):
        self.env, self.machine, self.contract, self.ledger = env, machine, contract, ledger
        self.parts = parts
        self.ended = 0
        self.computes: list[int] = []
        self.cycles = {"load": 0, "store": 0}
        self.moved, self.computed = Mark(env), Mark(env)
        self.transfers: list[_Transfer] = []
        self.needed: list[int] = []
        turns = places(machine)
        for index, unit in enumerate(parts):
            # What a part reads and writes has one or two places in turn: with two, load i + 2 and
            # store i follow compute i.
            done = index - turns
            self._put(index, unit.part.place.loads, max(0, done + 1))
            if done >= 0:
                self._put(done, parts[done].part.place.stores, done + 1)
            self.needed.append(len(self.transfers))
        for index in range(max(0, len(parts) - turns), len(parts)):
            self._put(index, parts[index].part.place.stores, index + 1)

    def _put(self, part: int, moves: Sequence[Move], wait: int) -> None:
        self.transfers += [_Transfer(part, move, wait) for move in moves]

    def run(self) -> Process:
        """With resident accounting from the launch of the first part to the end of the last, and
        the transfers after that, whose cycles lie outside; else from the announcement of the
        descriptors to the last store."""
        if self.machine.resident:
            for index in range(len(self.parts)):
                if index:
                    yield from self._next()
                yield from self._run(index)
            self.ended = self.env.now
            for part, move, _ in self.transfers:
                yield from self._move(part, move)
            return
        transfers = self.env.process(self._transfer())
        yield from self._compute()
        if transfers.is_alive:
            yield from self.ledger.wait(transfers, "dma")
        self.ended = self.env.now

    def _compute(self) -> Process:
        env, ledger = self.env, self.ledger
        fetch = fetch_cycles(self.machine, "compute", self.contract)
        for index, needed in enumerate(self.needed):
            yield from ledger.wait(env.timeout(fetch), "dma")
            if self.moved.count < needed:
                yield from ledger.wait(self.moved.reach(needed), "dma")
            yield from ledger.wait(env.timeout(self.contract.start), "dma")
            yield from self._run(index)
            yield from ledger.wait(env.timeout(self.contract.finish), "dma")
            self.computed.advance(index + 1)

    def _next(self) -> Process:
        """From the end of a compute to the launch of the next, where no transfer holds it up."""
        contract = self.contract
        for cycles in (
            contract.finish,
            fetch_cycles(self.machine, "compute", contract),
            contract.start,
        ):
            yield from self.ledger.wait(self.env.timeout(cycles), "dma")

    def _run(self, index: int) -> Process:
        since = self.env.now
        yield from self.parts[index].run()
        self.computes.append(self.env.now - since)
        if len(self.parts) > 1 or not self.machine.resident:
            self.ledger.span("parts", f"part {index}", since)

    def _transfer(self) -> Process:
        fetch = fetch_cycles(self.machine, "transfer", self.contract)
        for done, (part, move, wait) in enumerate(self.transfers, 1):
            yield self.env.timeout(fetch)
            if self.computed.count < wait:
                yield self.computed.reach(wait)
            yield from self._move(part, move)
            self.moved.advance(done)

    def _move(self, part: int, move: Move) -> Process:
        """A LOAD or STORE: its start, then row by row as the words of the stream allow."""
        env, machine, counts, since = self.env, self.machine, self.ledger.counts, self.env.now
        stores = move.target >= Target.STORE_Y
        yield env.timeout(self.contract.store if stores else self.contract.load)
        bits, width = transfer_row_bits(machine, move.target), 8 * machine.dma.bytes_per_cycle
        words = 0
        for row in range(1, move.rows + 1):
            needed = ceil_div(row * bits, width)
            yield env.timeout(max(1, needed - words))
            words = needed
            if stores:
                counts["y.read"] += machine.vpus
                if move.target == Target.STORE_YQ:
                    counts["post.quantise"] += machine.vpus
        for name, written in ({} if stores else loaded_words(machine, [move])).items():
            counts[f"{name}.write"] += written
        self.cycles["store" if stores else "load"] += env.now - since
        self.ledger.span("transfers", f"{move.target.name} of part {part}", since)
