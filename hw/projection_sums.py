"""Running sums of the projection unit, and how they become p."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..common.arithmetic import INT4
from .share import shared
from .sram import Sram

__all__ = ["SUM_BITS", "ProjectionSums"]

#: Width of a sum: 32767 elements of -8 to 15 stay within it.
SUM_BITS = 20

_LOW, _HIGH = INT4


class ProjectionSums(wiring.Component):
    """Several words of sums, one word of terms added a cycle; finished words leave as nibbles.

    In a cycle with `valid` an addition to the word at `address` begins; its `terms` come one cycle
    later. With `first` the word counts as zero; with `last` the sums leave as
    clamp(round(sum >> shift)), -8 to 7, and are not stored. Any word may follow any other, the same
    one included: what has just been formed is taken before it has reached the memory.

    `o_valid` is asserted :attr:`latency` cycles after a `valid` with `last`.

    Parameters
    ----------
    count : int
        Sums of a word.
    term_bits : int
        Width of a term.
    depth : int
        Words; at least 2.

    Members
    -------
    valid, first, last : ``In(1)``
        An addition begins; it starts, it ends the sums of its word.
    address : ``In(range(depth))``
        Its word.
    terms : ``In(term_bits * count)``
        Terms of the addition that began in the cycle before, two's complement.
    shift : ``In(5)``
        Constant while additions are under way.
    o_valid : ``Out(1)``
    o_nibbles : ``Out(4 * count)``
    """

    latency = 2

    def __init__(self, count: int, term_bits: int, depth: int):
        self.count, self.term_bits, self.depth = count, term_bits, depth
        self._memory = Sram(SUM_BITS * count, depth)
        super().__init__(
            {
                "valid": In(1),
                "first": In(1),
                "last": In(1),
                "address": In(self._memory.address_bits),
                "terms": In(term_bits * count),
                "shift": In(5),
                "o_valid": Out(1),
                "o_nibbles": Out(4 * count),
            }
        )

    def elaborate(self, platform):
        m = Module()
        memory = self._memory
        m.submodules.memory = shared(memory, platform)

        # Second cycle: the terms are there, and the word as it was in the memory. A word written in
        # the cycle in which it was read is still in `formed`.
        adding, first, last, repeated = Signal(), Signal(), Signal(), Signal()
        address = Signal.like(self.address)
        formed = Signal(SUM_BITS * self.count, reset_less=True)
        old, total = Signal.like(formed), Signal.like(formed)
        m.d.comb += [
            memory.read_en.eq(self.valid & ~self.first),
            memory.read_address.eq(self.address),
            old.eq(Mux(repeated, formed, memory.read_data)),
            memory.write_en.eq(adding & ~last),
            memory.write_address.eq(address),
            memory.write_data.eq(total),
        ]
        m.d.sync += adding.eq(self.valid)
        with m.If(self.valid):
            m.d.sync += [
                first.eq(self.first),
                last.eq(self.last),
                address.eq(self.address),
                repeated.eq(memory.write_en & (address == self.address)),
            ]
        for n in range(self.count):
            before = old.word_select(n, SUM_BITS).as_signed()
            term = self.terms.word_select(n, self.term_bits).as_signed()
            m.d.comb += total.word_select(n, SUM_BITS).eq(Mux(first, 0, before) + term)

        # Third cycle: round, shift, clamp.
        m.d.sync += self.o_valid.eq(adding & last)
        with m.If(adding):
            m.d.sync += formed.eq(total)
        for n in range(self.count):
            total = formed.word_select(n, SUM_BITS).as_signed()
            m.d.comb += self.o_nibbles.word_select(n, 4).eq(_nibble(m, n, total, self.shift))

        return m


def _nibble(m: Module, n: int, total: Value, shift: Signal) -> Value:
    """clamp(round(total >> shift)): half a step is the last bit shifted out, added to the rest."""
    halves = Signal(signed(SUM_BITS + 1), name=f"halves_{n}")
    rounded = Signal(signed(SUM_BITS + 1), name=f"rounded_{n}")
    m.d.comb += [
        halves.eq(Cat(Const(0, 1), total).as_signed() >> shift),
        rounded.eq((halves + 1) >> 1),
    ]
    return Mux(rounded > _HIGH, _HIGH, Mux(rounded < _LOW, _LOW, rounded))
