"""The accumulators of a vector processing unit: storage, adder and the way out."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..common.arithmetic import ACC_BITS
from ..common.contract import CONTRACT, Contract
from .pipeline import delay

__all__ = ["Accumulators"]


class Accumulators(wiring.Component):
    """Several 48-bit running totals, one addition a cycle.

    Each cycle with `valid` adds `term` to the total at `address`. With `first` the stored total
    counts as zero, so none is ever cleared; with `last` the new total leaves through `o_sum` and is
    not stored, so none is ever drained. A term with both touches no storage. Totals are two's
    complement and wrap.

    Latency is :attr:`latency` cycles, from a term with `last` to `o_valid` and from a term to the
    next for the same address; throughput is one term a cycle.

    Source: the paper leaves accumulators open; `first` and `last` are our choice.

    Parameters
    ----------
    term_bits : int
        Width of a term, in bits; 1 to 48.
    depth : int
        Totals; at least 2.
    contract : Contract
        Gives `accumulate`. Past 1, the stored total waits that much longer between its reading and
        the addition.

    Members
    -------
    valid : ``In(1)``
        A term is offered, and taken.
    first, last : ``In(1)``
        It starts, it ends a total.
    address : ``In(range(depth))``
        The total it belongs to.
    term : ``In(signed(term_bits))``
        Its value.
    o_valid : ``Out(1)``
        A total is complete.
    o_address : ``Out(range(depth))``
        Its address.
    o_sum : ``Out(signed(48))``
        Its value.

    Raises
    ------
    ValueError
        If `term_bits`, `depth` or `contract.accumulate` is out of range.
    """

    def __init__(self, term_bits: int, depth: int, *, contract: Contract = CONTRACT):
        if not 1 <= term_bits <= ACC_BITS:
            raise ValueError(f"Term width must be between 1 and {ACC_BITS}, not {term_bits!r}")
        if depth < 2:
            raise ValueError(f"Accumulators must be at least 2, not {depth!r}")
        if contract.accumulate < 1:
            raise ValueError(
                f"Cycles to accumulate must be at least 1, not {contract.accumulate!r}"
            )
        self.term_bits = term_bits
        self.depth = depth
        self.contract = contract
        super().__init__(
            {
                "valid": In(1),
                "first": In(1),
                "last": In(1),
                "address": In(ceil_log2(depth)),
                "term": In(signed(term_bits)),
                "o_valid": Out(1),
                "o_address": Out(ceil_log2(depth)),
                "o_sum": Out(signed(ACC_BITS)),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from a term to its total, stored or given out."""
        return self.contract.accumulate

    def elaborate(self, platform):
        m = Module()

        m.submodules.totals = totals = Memory(shape=signed(ACC_BITS), depth=self.depth, init=[])
        read = totals.read_port(domain="comb")
        write = totals.write_port()

        partial = Signal(signed(ACC_BITS))
        m.d.comb += [
            read.addr.eq(self.address),
            partial.eq(Mux(self.first, 0, read.data)),
        ]
        valid, partial, term, last, address = delay(
            m, self.latency - 1, self.valid, partial, self.term, self.last, self.address
        )

        total = Signal(signed(ACC_BITS))
        m.d.comb += [
            total.eq(partial + term),
            write.addr.eq(address),
            write.data.eq(total),
            write.en.eq(valid & ~last),
        ]
        m.d.sync += self.o_valid.eq(valid & last)
        with m.If(valid & last):
            m.d.sync += [self.o_sum.eq(total), self.o_address.eq(address)]

        return m
