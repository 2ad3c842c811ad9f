"""Packs pieces of nibbles, one a cycle, into beats of p."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["UNIT", "ProjectionPacker"]

#: Nibbles that are shifted as one: pieces have a multiple of them.
UNIT = 4


class ProjectionPacker(wiring.Component):
    """Joins pieces of equal length, the taps of an output pixel, and cuts them into beats.

    A piece is as long as a beat or shorter. A beat leaves in the cycle in which it is full; that of
    the last piece of a pixel leaves too, full or not, with zeros above. Where the last piece fills
    a beat and begins another, the other leaves in the cycle after; a pixel that does so has several
    pieces, all shorter than a beat, so nothing else leaves then.

    Parameters
    ----------
    longest : int
        Nibbles of the longest piece.
    beat : int
        Nibbles of a beat, at least `longest`.

    Members
    -------
    valid, last : ``In(1)``
        A piece comes; it is the last of its pixel.
    data : ``In(4 * longest)``
        The piece, the first nibble in the low bits.
    units : ``In(range(longest / 4 + 1))``
        Its length, in units of four nibbles; what `data` has above is ignored.
    o_valid, o_last : ``Out(1)``
        A beat leaves; it is the last of its pixel.
    o_data : ``Out(4 * beat)``
    """

    def __init__(self, longest: int, beat: int):
        self.longest, self.beat = longest, beat
        super().__init__(
            {
                "valid": In(1),
                "last": In(1),
                "data": In(4 * longest),
                "units": In(range(longest // UNIT + 1)),
                "o_valid": Out(1),
                "o_last": Out(1),
                "o_data": Out(4 * beat),
            }
        )

    def elaborate(self, platform):
        m = Module()
        full, bits = self.beat // UNIT, 4 * self.beat

        # What is held of the pixel: nothing, once its last beat leaves.
        held, fill = Signal(bits), Signal(range(full))
        flush = Signal()  # it is the last beat, and leaves in this cycle
        before, start = Signal(bits), Signal.like(fill)
        with m.If(~flush):
            m.d.comb += [before.eq(held), start.eq(fill)]

        # The piece behind it: shifted by 1, 2, 4, ... units, as `start` says.
        piece = Signal(4 * self.longest)
        for n in range(self.longest // UNIT):
            with m.If(self.units > n):
                part = self.data.word_select(n, 4 * UNIT)
                m.d.comb += piece.word_select(n, 4 * UNIT).eq(part)
        shifted = piece
        for level in range(len(start)):
            further = Signal(bits + len(piece), name=f"shifted_{level}")
            m.d.comb += further.eq(Mux(start[level], shifted << (4 * UNIT << level), shifted))
            shifted = further
        joined, total = Signal(bits + len(piece)), Signal(range(2 * full + 1))
        m.d.comb += [joined.eq(before | shifted), total.eq(start + self.units)]

        ends = Signal()
        m.d.comb += [
            ends.eq(self.last & (total <= full)),
            self.o_valid.eq(flush | (self.valid & (self.last | (total >= full)))),
            self.o_last.eq(flush | ends),
            self.o_data.eq(Mux(flush, held, joined)),
        ]
        m.d.sync += flush.eq(self.valid & self.last & (total > full))
        with m.If(self.valid & ~ends & (total < full)):
            m.d.sync += [held.eq(joined), fill.eq(total)]
        with m.Elif(self.valid & ~ends):
            m.d.sync += [held.eq(joined[bits:]), fill.eq(total - full)]
        with m.Elif(self.valid | flush):
            m.d.sync += [held.eq(0), fill.eq(0)]

        return m
