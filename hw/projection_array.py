"""The data path of the projection unit: x^Q buffer, tiles of P, adder rows and sums."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..common.contract import CONTRACT, Contract
from ..common.machine import Rpu
from .pipeline import delay
from .projection_row import ELEMENT_BITS, TernaryRow
from .projection_sums import ProjectionSums
from .share import shared
from .sram import Sram

__all__ = ["ProjectionArray"]


class ProjectionArray(wiring.Component):
    """`rows` sums of `elements` ternary products a cycle, from buffered x^Q and P.

    x^Q of two slots of `hold` pixels is buffered, and two tiles of P. A pass adds the products of
    one tile with the x^Q of one pixel to one word of the sums; after the last addition the word
    leaves as p. A pass of cycle t reads the buffer in t + 1, so that it may use what is written to
    the buffer in t and what is loaded of P in t. Another may begin in each cycle.

    `o_valid` is asserted :attr:`latency` cycles after a pass with `last`.

    Parameters
    ----------
    rpu : Rpu
        Rows, elements, hold, port and depth.
    contract : Contract
        `sram_read` must be 1; `rpu` at least 4, and past that the products wait.

    Members
    -------
    load, load_half, load_word, load_data : ``In``
        Word `load_word` of a tile of P goes to tile `load_half`.
    fill, fill_half, fill_pixel, fill_data : ``In``
        x^Q of a pixel goes to the words of `elements` nibbles that `fill` selects.
    valid : ``In(1)``
        A pass begins.
    half, pixel, tile : ``In``
        x^Q it reads, and P.
    first, last, address : ``In``
        It starts, it ends the sums of its word.
    unsigned, shift : ``In``
        Form of x^Q, and p_shift; constant while passes are under way.
    o_valid, o_nibbles : ``Out(1)``, ``Out(4 * rows)``
    """

    def __init__(self, rpu: Rpu, *, contract: Contract = CONTRACT):
        self.rpu, self.contract = rpu, contract
        word_bits = 4 * rpu.word
        self._sums = ProjectionSums(
            rpu.rows,
            ELEMENT_BITS + ceil_log2(rpu.elements),
            max(2, rpu.hold * rpu.depth // rpu.rows),
        )
        super().__init__(
            {
                "load": In(1),
                "load_half": In(1),
                "load_word": In(range(rpu.load_cycles)),
                "load_data": In(rpu.port_bits),
                "fill": In(rpu.elements // rpu.word),
                "fill_half": In(1),
                "fill_pixel": In(range(rpu.hold)),
                "fill_data": In(word_bits),
                "valid": In(1),
                "half": In(1),
                "pixel": In(range(rpu.hold)),
                "tile": In(1),
                "first": In(1),
                "last": In(1),
                "address": In(len(self._sums.address)),
                "unsigned": In(1),
                "shift": In(5),
                "o_valid": Out(1),
                "o_nibbles": Out(4 * rpu.rows),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from a last pass to its p."""
        return self.contract.sram_read + self.contract.rpu - 1

    def elaborate(self, platform):
        m = Module()
        rpu = self.rpu

        # x^Q, the halves one behind the other.
        buffer = Sram(4 * rpu.elements, 2 * rpu.hold, granularity=4 * rpu.word)
        m.submodules.buffer = shared(buffer, platform)
        valid, half, pixel, *rest = delay(
            m,
            1,
            self.valid,
            self.half,
            self.pixel,
            self.tile,
            self.first,
            self.last,
            self.address,
        )
        m.d.comb += [
            buffer.write_en.eq(self.fill),
            buffer.write_address.eq(self.fill_half * rpu.hold + self.fill_pixel),
            buffer.write_data.eq(self.fill_data.replicate(len(self.fill))),
            buffer.read_en.eq(valid),
            buffer.read_address.eq(half * rpu.hold + pixel),
        ]
        valid, tile, *rest = delay(m, 1, valid, *rest)
        x = Signal(ELEMENT_BITS * rpu.elements)
        for e in range(rpu.elements):
            nibble = buffer.read_data.word_select(e, 4)
            sign = nibble[3] & ~self.unsigned
            m.d.comb += x.word_select(e, ELEMENT_BITS).eq(Cat(nibble, sign))

        # P: a port word has several rows, or a row several port words.
        chunk = min(rpu.port_bits, 2 * rpu.elements)
        at_once, words = rpu.port_bits // chunk, 2 * rpu.elements // chunk
        loads = Signal(rpu.load_cycles)
        m.d.comb += loads.eq(Const(1, rpu.load_cycles) << self.load_word)
        sums = []
        for r in range(rpu.rows):
            row = TernaryRow(rpu.elements, chunk)
            m.submodules[f"row_{r}"] = shared(row, platform)
            start = r // at_once * words
            m.d.comb += [
                row.load.eq(loads[start : start + words] & self.load.replicate(words)),
                row.load_half.eq(self.load_half),
                row.load_data.eq(self.load_data.word_select(r % at_once, chunk)),
                row.valid.eq(valid),
                row.half.eq(tile),
                row.x.eq(x),
            ]
            sums.append(row.sum)

        # Terms are there a cycle after the passes they belong to; both wait as the contract asks.
        terms, added = Signal(sum(map(len, sums))), Signal()
        m.d.comb += terms.eq(Cat(*sums))
        m.d.sync += added.eq(valid)
        late = self.contract.rpu - 4
        _, terms = delay(m, late, added, terms)
        valid, first, last, address = delay(m, late, valid, *rest)
        m.submodules.sums = self._sums
        m.d.comb += [
            self._sums.valid.eq(valid),
            self._sums.first.eq(first),
            self._sums.last.eq(last),
            self._sums.address.eq(address),
            self._sums.terms.eq(terms),
            self._sums.shift.eq(self.shift),
            self.o_valid.eq(self._sums.o_valid),
            self.o_nibbles.eq(self._sums.o_nibbles),
        ]

        return m
