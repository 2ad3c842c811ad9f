"""Queue of descriptors: a ring the host fills, and the unit that fetches and checks them."""

from __future__ import annotations

from typing import Literal

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..common.contract import CONTRACT, Contract
from ..common.descriptor import (
    COMPUTE,
    TRANSFER,
    Fault,
    Target,
    compute_fields,
    memory_depth,
    slot_words,
    target_memory,
    transfer_fields,
)
from ..common.machine import Machine
from ..common.rules import (
    DEPTH,
    DIGIT,
    Multiply,
    Rule,
    fetch_cycles,
    flag_needs,
    schedule,
)
from .fields import compute_layout, transfer_layout
from .share import shared
from .sram import Sram

__all__ = ["COUNT_BITS", "DescriptorQueue", "Kind"]

Kind = Literal["compute", "transfer"]

#: Bits of the counts of descriptors since START.
COUNT_BITS = 16


class _State(enum.Enum, shape=unsigned(2)):
    IDLE = 0
    FETCH = 1
    OFFER = 2
    STOPPED = 3


class DescriptorQueue(wiring.Component):
    """A ring of `slots` descriptors, given out in order, each fetched and checked first.

    The host writes a descriptor word by word into the slot (its number since the start) modulo
    `slots`, word i at address slot * `slot_words` + i, and then moves `tail`, the number of
    descriptors it has announced. The queue fetches descriptor number `head` a word a cycle and
    checks header, range of each field, sum, and the rules over several fields
    (:mod:`sinai.common.rules`). It offers a good one, `valid` with `fields`, until the engine is
    done with it and asserts `take`; fields stay the same until then, and nothing is fetched ahead.
    A bad one stops the queue: `error` keeps its code and `head` its number until `abort`.

    The first fault wins in this order: RING, HEADER, the fields in order, SUM, COMBINATION. Range
    faults are seen with the word; so `error` comes :attr:`fetch_cycles` cycles after cycle 0 at the
    latest.

    Cycle 0 is the first in which the queue has a descriptor and nothing else to do: the one after a
    move of `tail` was seen on the port, or after `take`. `valid` rises in cycle
    :attr:`fetch_cycles`.

    Source: the paper leaves control open; descriptors are ours (docs/rtl.md).

    Parameters
    ----------
    machine : Machine
        Gives fields and rules.
    kind : {"compute", "transfer"}
        Of descriptors.
    slots : int
        Power of two, 1 to 1024.
    contract : Contract
        Gives `fetch`.

    Members
    -------
    write_en : ``In(1)``, write_address : ``In(range(slots * slot_words))``, write_data : ``In(32)``
        Host's writes. A slot between `head` and `tail` must not be written.
    tail : ``In(16)``
        Descriptors announced since `abort`, modulo 2**16.
    head : ``Out(16)``
        Descriptors done since `abort`, modulo 2**16: the number of the one that is worked on.
    valid : ``Out(1)``
        A checked descriptor is offered.
    fields : ``Out(compute_layout(machine))`` or ``Out(transfer_layout(machine))``
        Its fields, while `valid`.
    take : ``In(1)``
        The engine is done with it. Only with `valid`.
    busy : ``Out(1)``
        There are announced descriptors that are not done, or a bad one.
    hold : ``In(1)``
        Begin no further fetch.
    abort : ``In(1)``
        Forget everything but the memory; `head` and `error` become 0. The host sets `tail` to 0 in
        the same cycle.
    error : ``Out(8)``
        A `Fault`, or 16 and the number of a field out of range; 0 while all is well.

    Raises
    ------
    ValueError
        If `kind` or `slots` is out of range, or `contract.fetch` less than 2.
    """

    def __init__(self, machine: Machine, kind: Kind, *, slots: int, contract: Contract = CONTRACT):
        if kind not in ("compute", "transfer"):
            raise ValueError(f"Kind of queue must be compute or transfer, not {kind!r}")
        if not 1 <= slots <= 1024 or slots & (slots - 1):
            raise ValueError(f"Slots must be a power of two between 1 and 1024, not {slots!r}")
        if contract.fetch < 2:
            raise ValueError(f"Cycles to fetch must be at least 2, not {contract.fetch!r}")
        self.machine = machine
        self.kind = kind
        self.slots = slots
        self.contract = contract
        compute = kind == "compute"
        self.header = COMPUTE if compute else TRANSFER
        self.table = compute_fields(machine) if compute else transfer_fields(machine)
        super().__init__(
            {
                "write_en": In(1),
                "write_address": In(ceil_log2(slots * self.slot_words)),
                "write_data": In(32),
                "tail": In(COUNT_BITS),
                "head": Out(COUNT_BITS),
                "valid": Out(1),
                "fields": Out((compute_layout if compute else transfer_layout)(machine)),
                "take": In(1),
                "busy": Out(1),
                "hold": In(1),
                "abort": In(1),
                "error": Out(8),
            }
        )

    @property
    def words(self) -> int:
        """Words of a descriptor."""
        return len(self.table) + 2

    @property
    def slot_words(self) -> int:
        """Words from a slot to the next: a power of two."""
        return slot_words(self.table)

    @property
    def fetch_cycles(self) -> int:
        """Cycles from cycle 0 to `valid`."""
        return fetch_cycles(self.machine, self.kind, self.contract)

    def elaborate(self, platform):
        m = Module()
        state = Signal(_State)
        cycle = Signal(range(self.fetch_cycles))
        judge = self.fetch_cycles - 1

        # Words come a cycle after their address: word i in cycle i + 1.
        memory = Sram(32, self.slots * self.slot_words)
        m.submodules.memory = shared(memory, platform)
        word = memory.read_data
        waiting, asked = Signal(COUNT_BITS), Signal()
        slot_bits = ceil_log2(self.slots)
        m.d.comb += [
            waiting.eq(self.tail - self.head),
            memory.write_en.eq(self.write_en),
            memory.write_address.eq(self.write_address),
            memory.write_data.eq(self.write_data),
            memory.read_en.eq(asked | ((state == _State.FETCH) & (cycle < self.words))),
            memory.read_address.eq(Cat(cycle[: ceil_log2(self.slot_words)], self.head[:slot_bits])),
            self.valid.eq(state == _State.OFFER),
            self.busy.eq(waiting != 0),
        ]

        total = Signal(32)
        out_of_range = self._range_check(m, word, cycle)
        contradiction = self._rule_check(m, cycle, asked)
        fault = Signal(self.error.shape())
        with m.If(cycle == 1):
            m.d.comb += fault.eq(Mux(word == self.header, Fault.NONE, Fault.HEADER))
        with m.Elif(out_of_range):
            m.d.comb += fault.eq(14 + cycle)  # field n comes in cycle n + 2
        with m.Elif(cycle == judge):
            m.d.comb += fault.eq(
                Mux(total != 0, Fault.SUM, Mux(contradiction, Fault.COMBINATION, Fault.NONE))
            )

        with m.Switch(state):
            with m.Case(_State.IDLE):
                with m.If((waiting != 0) & ~self.hold):
                    m.d.comb += asked.eq(1)
                    m.d.sync += [cycle.eq(1), total.eq(0), state.eq(_State.FETCH)]
                    with m.If(waiting > self.slots):
                        m.d.sync += [self.error.eq(Fault.RING), state.eq(_State.STOPPED)]
            with m.Case(_State.FETCH):
                m.d.sync += cycle.eq(cycle + 1)
                with m.If(cycle <= self.words):
                    m.d.sync += total.eq(total + word)
                with m.If(fault != 0):
                    m.d.sync += [self.error.eq(fault), state.eq(_State.STOPPED)]
                with m.Elif(cycle == judge):
                    m.d.sync += state.eq(_State.OFFER)
                with m.If((fault != 0) | (cycle == judge)):
                    m.d.sync += cycle.eq(0)
            with m.Case(_State.OFFER):
                with m.If(self.take):
                    m.d.sync += [self.head.eq(self.head + 1), state.eq(_State.IDLE)]
        with m.If(self.abort):
            m.d.sync += [
                state.eq(_State.IDLE),
                cycle.eq(0),
                self.head.eq(0),
                self.error.eq(Fault.NONE),
            ]
        return m

    def _range_check(self, m: Module, word: Signal, cycle: Signal) -> Signal:
        """Keep each field as its word comes; return whether that is out of range."""
        low, high = Signal(signed(32)), Signal(signed(32))
        is_field, outside = Signal(), Signal()
        with m.Switch(cycle):
            for index, field in enumerate(self.table):
                with m.Case(index + 2):
                    m.d.sync += self.fields[field.name].eq(word)
                    m.d.comb += [is_field.eq(1), low.eq(field.low), high.eq(field.high)]
        # A word with bit 31 is out of range in either reading where it is not meant as negative.
        value = word.as_signed()
        m.d.comb += outside.eq(is_field & ((value < low) | (value > high)))
        return outside

    def _rule_check(self, m: Module, cycle: Signal, start: Signal) -> Signal:
        """Run the steps of the rules; return, from the cycle of judgement on, whether one fails."""
        table = schedule(self.machine, self.kind)
        rules = {step_of[0] for step_of in table.values()}
        total = Signal(signed(max(self._bits(rule) for rule in rules)))
        before, term = Signal.like(total), Signal.like(total)
        factor, digit = Signal(max(len(self.fields[f.name]) for f in self.table)), Signal(DIGIT)
        minus, applies, equal, broken, failed = (Signal() for _ in range(5))

        with m.Switch(cycle):
            for at, (_, step, _) in table.items():
                with m.Case(at):
                    if isinstance(step, Multiply):
                        digits = Value.cast(self.fields[step.b])
                        m.d.comb += [
                            before.eq(0 if step.first else total << DIGIT),
                            factor.eq(self.fields[step.a]),
                            digit.eq(digits[DIGIT * step.digit : DIGIT * (step.digit + 1)]),
                        ]
                    else:
                        m.d.comb += [
                            before.eq(0 if step.first else total),
                            term.eq(self._operand(step.field) << step.shift),
                            minus.eq(step.sign < 0),
                        ]
        m.d.sync += total.eq(before + factor * digit + Mux(minus, -term, term))

        # The total of a rule is there in the cycle after its last step.
        with m.Switch(cycle):
            for at, (rule, _, is_last) in table.items():
                if is_last:
                    with m.Case(at + 1):
                        when = [(self._operand(name) & mask) != 0 for name, mask in rule.when]
                        m.d.comb += [applies.eq(Cat(when).all()), equal.eq(rule.equal)]
        m.d.comb += broken.eq(applies & Mux(equal, total != 0, total > 0))
        with m.If(start):
            m.d.sync += failed.eq(0)
        with m.Elif(broken):
            m.d.sync += failed.eq(1)
        return failed | broken | self._illegal()

    def _operand(self, name: str | int) -> Value:
        """A field, a number, or the rows of the memory that the target names."""
        if name != DEPTH:
            return Const(name) if isinstance(name, int) else Value.cast(self.fields[name])
        target = self.fields.target
        depths = Const(0)
        for which in Target:
            depth = memory_depth(self.machine, target_memory(which))
            depths = Mux(target == which.value, depth, depths)
        return depths

    def _bits(self, rule: Rule) -> int:
        """Bits that hold every total on the way to that of `rule`, with its sign."""
        most = sum(((1 << len(self._operand(name))) - 1) << shift for _, name, shift in rule.terms)
        if rule.product:
            a, b = (len(self._operand(name)) for name in rule.product)
            most += 1 << (a + b)
        return most.bit_length() + 1

    def _illegal(self) -> Value:
        """Whether the target does not exist, or a flag lacks another."""
        if self.kind == "transfer":
            return ~Cat(self.fields.target == which.value for which in Target).any()
        flags = self.fields.flags
        return Cat(
            ((flags & need.given).any() if need.given else Const(1)) & ~(flags & need.needed).any()
            for need in flag_needs(self.machine)
        ).any()
