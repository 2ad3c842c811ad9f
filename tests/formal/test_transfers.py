"""Proofs about transfers: no word is lost, doubled, moved or waits for ever, however streams stall.

A row narrower than the stream, as wide, and wider; up to four rows in two runs. One word, free to
choose, is followed from its source to its place; since it may be any, all are where they belong.
"""

import pytest
from amaranth.hdl import Assert, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from sinai.common.descriptor import Target
from sinai.common.machine import PRESETS
from sinai.hw import dma

#: Stream words of 64 bits. Rows of weights have two; of residuals and y one; of masks half of one.
MACHINE = PRESETS["structured-small"]

#: Most rows of a transfer of the proofs, and cycles in which nothing need move at an open stream.
ROWS, PATIENCE = 4, 5


class _TransferProof(wiring.Component):
    """What both directions share: the descriptor, free but steady, and when the transfer is over.

    `rows` is the number of rows the transfer has asked for or written, `words` that of stream words
    that went by.
    """

    inner: In(2)
    outer: In(1)
    base: In(6)
    stride: In(6)
    stall: In(1)
    payload: In(64)
    word: In(3)

    def __init__(self, dut, target):
        self.dut = dut
        self.target = target
        self.row_bits = dut.row_bits[target]
        self.words_of_row = max(1, self.row_bits // dut.width)
        self.rows_of_word = max(1, dut.width // self.row_bits)
        super().__init__()

    def _transfer(self, m):
        """Drive the descriptor; return signals for rows, words, the chosen word and `moving`."""
        dut = self.dut
        m.submodules.dut = dut
        started, over = Signal(), Signal()
        m.d.sync += started.eq(1)
        kept = {}
        for name in ("inner", "outer", "base", "stride", "word"):
            port = getattr(self, name)
            held = Signal.like(port, name=f"held_{name}")
            with m.If(~started):
                m.d.sync += held.eq(port)
            kept[name] = Mux(started, held, port)
        runs, length, total = Signal(2), Signal(2), Signal(3)
        chosen, address = Signal(3), Signal.like(dut.load_address)
        rows, words = Signal(4), Signal(5)
        m.d.comb += [
            runs.eq(kept["outer"] + 1),
            length.eq(kept["inner"][0] + 1),
            total.eq(Mux(kept["outer"], length << 1, length)),
            chosen.eq(kept["word"]),
            dut.valid.eq(~over),
            dut.fields.target.eq(self.target.value),
            dut.fields.base.eq(kept["base"]),
            dut.fields.stride.eq(kept["stride"]),
            dut.fields.inner.eq(length),
            dut.fields.outer.eq(runs),
            # Row n is row n modulo `length` of run n div `length`.
            address.eq(
                kept["base"]
                + Mux(length == 1, Mux(rows[0], kept["stride"], 0), Mux(rows[1], kept["stride"], 0))
                + Mux(length == 1, 0, rows[0])
            ),
        ]
        with m.If(dut.take):
            m.d.sync += over.eq(1)

        # Counts at the end of the transfer: every row, and no word more than they fill.
        row_moves, word_moves = self._moves()
        rows_after, words_after = Signal(4), Signal(5)
        filled = (total + self.rows_of_word - 1) // self.rows_of_word * self.words_of_row
        m.d.comb += [rows_after.eq(rows + row_moves), words_after.eq(words + word_moves)]
        m.d.sync += [rows.eq(rows_after), words.eq(words_after)]
        m.d.comb += [Assert(rows_after <= total), Assert(words_after <= filled)]
        with m.If(dut.take):
            m.d.comb += [Assert(rows_after == total), Assert(words_after == filled)]

        # While the stream is open something moves every few cycles, until the transfer is over.
        idle = Signal(range(PATIENCE + 2))
        with m.If(self.stall | row_moves | word_moves | dut.take | over):
            m.d.sync += idle.eq(0)
        with m.Else():
            m.d.sync += idle.eq(idle + 1)
        m.d.comb += Assert(idle <= PATIENCE)
        return rows, words, chosen, address

    def _first_row(self, chosen):
        """Number of the first row in word `chosen`, or of the row that word is part of."""
        return chosen * self.rows_of_word if self.words_of_row == 1 else chosen // self.words_of_row


class LoadProof(_TransferProof):
    """Rows are written whole, in order, at their addresses."""

    def _moves(self):
        return self.dut.load_en, self.dut.i.valid & self.dut.i.ready

    def elaborate(self, platform):
        m = Module()
        dut = self.dut
        rows, words, chosen, address = self._transfer(m)
        content = Signal(64)
        m.d.comb += [dut.i.valid.eq(~self.stall), dut.i.payload.eq(self.payload)]
        with m.If(dut.i.valid & dut.i.ready & (words == chosen)):
            m.d.sync += content.eq(self.payload)
        with m.If(dut.load_en):
            m.d.comb += [
                Assert(dut.load_address == address),
                Assert(dut.load_target == self.target.value),
                Assert(words > rows // self.rows_of_word * self.words_of_row),
            ]
            if self.words_of_row > 1:
                part = chosen % self.words_of_row
                m.d.comb += Assert(words >= (rows + 1) * self.words_of_row)
                with m.If(rows == self._first_row(chosen)):
                    m.d.comb += Assert(dut.load_row.word_select(part, 64) == content)
            else:
                part = rows % self.rows_of_word
                here = dut.load_row[: self.row_bits]
                with m.If(rows // self.rows_of_word == chosen):
                    m.d.comb += Assert(here == content.word_select(part, self.row_bits))
        return m


class StoreProof(_TransferProof):
    """Rows are read in order, and leave in words that hold while the stream waits."""

    def _moves(self):
        return self.dut.store_en, self.dut.o.valid & self.dut.o.ready

    def elaborate(self, platform):
        m = Module()
        dut = self.dut
        rows, words, chosen, address = self._transfer(m)
        m.d.comb += [dut.o.ready.eq(~self.stall), dut.store_row.eq(self.payload)]

        # What the memory gives for the rows of the chosen word; its data comes a cycle later.
        content = Signal(64)
        asked, number = Signal(), Signal.like(rows)
        m.d.sync += [asked.eq(dut.store_en), number.eq(rows)]
        with m.If(dut.store_en):
            m.d.comb += [
                Assert(dut.store_address == address),
                Assert(dut.store_target == self.target.value),
            ]
        with m.If(asked & (number // self.rows_of_word == chosen)):
            part = number % self.rows_of_word
            row = self.payload[: self.row_bits]
            with m.If(part == 0):
                m.d.sync += content.eq(row)
            with m.Else():
                m.d.sync += content.word_select(part, self.row_bits).eq(row)
        with m.If(dut.o.valid & (words == chosen)):
            m.d.comb += Assert(dut.o.payload == content)

        # The stream's rule: what was offered and not taken is offered again.
        waited, offered = Signal(), Signal(64)
        m.d.sync += [waited.eq(dut.o.valid & ~dut.o.ready), offered.eq(dut.o.payload)]
        with m.If(waited):
            m.d.comb += [Assert(dut.o.valid), Assert(dut.o.payload == offered)]
        return m


LOADS = [Target.WEIGHTS, Target.RESIDUAL, Target.MASKS]
STORES = [Target.STORE_Y, Target.STORE_MASKS]


@pytest.mark.parametrize("target", LOADS)
def test_load(holds, target):
    assert holds(LoadProof(dma.Dma(MACHINE), target), cycles=16)


@pytest.mark.parametrize("target", STORES)
def test_store(holds, target):
    assert holds(StoreProof(dma.Dma(MACHINE), target), cycles=14)


@pytest.mark.parametrize(
    ("target", "right", "wrong"),
    [
        pytest.param(
            Target.RESIDUAL,
            "active & ((left == 0) | ((left == 1) & ~at_last))",
            "active & (left < 2)",
            id="a word too many",
        ),
        pytest.param(
            Target.RESIDUAL,
            "address.eq(run + fields.stride)",
            "address.eq(address + 1)",
            id="address",
        ),
        pytest.param(
            Target.MASKS, "Mux(at_last, 0, left - 1)", "left - 1", id="rows nobody asked for"
        ),
        pytest.param(Target.WEIGHTS, "part.eq(part + 1)", "part.eq(part)", id="parts in one place"),
        pytest.param(
            Target.STORE_Y, "_IN_FLIGHT = 4", "_IN_FLIGHT = 0", id="never asks: waits for ever"
        ),
        pytest.param(Target.STORE_Y, "with m.If(free):", "with m.If(0):", id="a word twice"),
        pytest.param(
            Target.STORE_Y, "free.eq(~self.o.valid | self.o.ready)", "free.eq(1)", id="a word lost"
        ),
    ],
)
def test_fault_is_found(holds, planted, target, right, wrong):
    faulty = planted(dma, right, wrong)
    proof, cycles = (LoadProof, 16) if target in LOADS else (StoreProof, 14)
    assert not holds(proof(faulty.Dma(MACHINE), target), cycles=cycles)
