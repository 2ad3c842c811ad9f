"""Structured machine: x words on their way from the banks to the columns."""

from __future__ import annotations

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

__all__ = ["Crossbar"]


class Crossbar(wiring.Component):
    """T words of x to T columns, each from any bank, and the operand registers of the columns.

    A word that is read before its batch issues for the first time waits in a register of its
    column; one that is read in that very cycle passes by it.

    Parameters
    ----------
    columns : int
        T.
    width : int
        Bits of a word of x.

    Members
    -------
    data : ``In(width)`` each
        Words of the banks, a cycle after they were read.
    fetched, bank : ``In``
        Which columns take a word in this cycle, and from which bank.
    take : ``In(1)``
        The batch issues for the first time: its operands are due.
    tap : ``In(T)``
        Whether the tap of each column lies inside the input; otherwise its operand is zero.
    x : ``Out(width)`` each
        Operands, from the cycle after `take` on.
    """

    def __init__(self, columns: int, width: int):
        self.columns, self.width = columns, width
        super().__init__(
            {
                "data": In(width).array(columns),
                "fetched": In(columns),
                "bank": In(max(1, ceil_log2(columns))).array(columns),
                "take": In(1),
                "tap": In(columns),
                "x": Out(width).array(columns),
            }
        )

    def elaborate(self, platform):
        m = Module()
        words = Array(list(self.data))
        for t in range(self.columns):
            word = Signal(self.width, name=f"word_{t}")
            early = Signal(self.width, name=f"early_{t}", reset_less=True)
            m.d.comb += word.eq(words[self.bank[t]] if self.columns > 1 else self.data[0])
            with m.If(self.fetched[t]):
                m.d.sync += early.eq(word)
            with m.If(self.take):
                m.d.sync += self.x[t].eq(Mux(self.tap[t], Mux(self.fetched[t], word, early), 0))
        return m
