"""One row of the projection unit: ternary weights of a tile and the adder tree over them."""

from __future__ import annotations

from amaranth.hdl import Array, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .pipeline import balanced_sum

__all__ = ["TernaryRow"]

#: An element of x^Q, -8 to 15, and its negative.
ELEMENT_BITS = 5


class TernaryRow(wiring.Component):
    """Sum of elements times weights of -1, 0 or 1; the weights of two tiles are held.

    A weight has two bits: 1 is plus, 3 is minus, 0 and 2 are zero. No addition is skipped for a
    zero. Each cycle with `valid` forms the sum over all elements with the weights of tile `half`;
    `sum` has it in the next cycle and keeps it until the next `valid`. A chunk loaded in a cycle
    counts from the next one on.

    Source: paper, section 3.2 (P has entries -1, 0 and 1, so that projecting only adds).

    Parameters
    ----------
    elements : int
        Weights of a row; at least 1.
    chunk : int
        Bits loaded at a time; divides 2 * `elements`.

    Members
    -------
    load : ``In(2 * elements / chunk)``
        Chunks that take `load_data`.
    load_half : ``In(1)``
        Tile they belong to.
    load_data : ``In(chunk)``
        Weights, the first in the low bits.
    valid, half : ``In(1)``
        Form a sum; tile to use.
    x : ``In(5 * elements)``
        Elements, five bits each, two's complement.
    sum : ``Out(signed(5 + ceil_log2(elements)))``
        The sum.

    Raises
    ------
    ValueError
        If `chunk` does not divide a row.
    """

    latency = 1

    def __init__(self, elements: int, chunk: int):
        if elements < 1 or chunk < 1 or 2 * elements % chunk:
            raise ValueError(
                f"A row needs elements, and a chunk that divides their bits, not {elements!r} and"
                f" {chunk!r}"
            )
        self.elements, self.chunk = elements, chunk
        super().__init__(
            {
                "load": In(2 * elements // chunk),
                "load_half": In(1),
                "load_data": In(chunk),
                "valid": In(1),
                "half": In(1),
                "x": In(ELEMENT_BITS * elements),
                "sum": Out(signed(ELEMENT_BITS + ceil_log2(elements))),
            }
        )

    @property
    def module_name(self) -> str:
        return f"sinai_ternary_row_{self.elements}x{self.chunk}"

    def elaborate(self, platform):
        m = Module()

        tiles = [Signal(2 * self.elements, name=f"tile_{n}", reset_less=True) for n in range(2)]
        for n, tile in enumerate(tiles):
            for c in range(len(self.load)):
                with m.If(self.load[c] & (self.load_half == n)):
                    m.d.sync += tile.word_select(c, self.chunk).eq(self.load_data)

        weights = Signal(2 * self.elements)
        m.d.comb += weights.eq(Array(tiles)[self.half])
        terms = []
        for e in range(self.elements):
            x = self.x.word_select(e, ELEMENT_BITS).as_signed()
            taken, minus = weights[2 * e], weights[2 * e + 1]
            term = Signal(signed(ELEMENT_BITS), name=f"term_{e}")
            m.d.comb += term.eq(Mux(taken, Mux(minus, -x, x), 0))
            terms.append(term)
        with m.If(self.valid):
            m.d.sync += self.sum.eq(balanced_sum(terms))

        return m
