"""Unstructured machine: a lane's walk over its mask words, one essential pair a cycle."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..common.contract import CONTRACT, Contract
from ..common.descriptor import MAX_CHANNELS, memory_depth
from ..common.machine import Machine

__all__ = ["LaneScanner", "pair_bits"]


def pair_bits(machine: Machine) -> tuple[int, int]:
    """Bits of the row and of the pixel of a pair."""
    rows = -(-MAX_CHANNELS // machine.lanes)
    return ceil_log2(rows), ceil_log2(machine.window)


class LaneScanner(wiring.Component):
    """Turns the mask of a window into lists of (row, pixel), row by row, at most R a pass.

    A word holds 64 / W rows of W pixels. Per cycle of `scan` the lane takes the lowest bit that is
    left of its word, or passes a word that has none; so a word with n bits takes max(1, n) cycles.
    It stops with R pairs, or behind the last word of the window.

    Members
    -------
    clear : ``In(1)``
        Forget all pairs.
    begin : ``In(1)``, first : ``In``
        Go to the mask word at address `first`, which starts a tile.
    again : ``In(1)``
        Read the present word once more; it may have been written meanwhile.
    scan : ``In(1)``
        Work in this cycle, if there is anything left to do in this pass.
    new_pass, new_window : ``In(1)``
        With this cycle the pass, and the window, are over: lists change places.
    dense : ``In(1)``
        Every pair that exists is essential; no mask is read.
    rows : ``In``
        Rows of this lane.
    words : ``In``
        Mask words of a window.
    pixels : ``In(range(W + 1))``
        Pixels of the window.
    en, address : ``Out``, data : ``In(64)``
        Read port of the lane's bank of masks.
    stops : ``Out(1)``
        Nothing is left to do in this pass after this cycle.
    ended : ``Out(1)``
        Nothing is left to do in this window after this cycle.
    takes : ``Out(1)``, pixel : ``Out(range(W))``
        A pair is taken in this cycle, and its pixel.
    count : ``Out(range(R + 1))``
        Pairs of the pass after this cycle.
    half : ``In(1)``, slot : ``In(range(R))``
        Place in the lists to read.
    pair : ``Out``
        The pair there: pixel in the low bits, then row.
    """

    def __init__(self, machine: Machine, *, contract: Contract = CONTRACT):
        self.machine, self.contract = machine, contract
        row, pixel = pair_bits(machine)
        address = ceil_log2(memory_depth(machine, "masks"))
        super().__init__(
            {
                "clear": In(1),
                "begin": In(1),
                "first": In(address),
                "again": In(1),
                "scan": In(1),
                "new_pass": In(1),
                "new_window": In(1),
                "dense": In(1),
                "rows": In(row + 1),
                "words": In(row + 1),
                "pixels": In(pixel + 1),
                "en": Out(1),
                "address": Out(address),
                "data": In(contract.scan_bits),
                "stops": Out(1),
                "ended": Out(1),
                "takes": Out(1),
                "pixel": Out(max(1, pixel)),
                "count": Out(ceil_log2(machine.accumulators + 1)),
                "half": In(1),
                "slot": In(ceil_log2(machine.accumulators)),
                "pair": Out(row + pixel),
            }
        )

    #: Name of its Verilog module.
    module_name = "sinai_lane_scanner"

    def elaborate(self, platform):
        m = Module()
        machine, bits = self.machine, self.contract.scan_bits
        width = machine.window
        rows_a_word = bits // width
        row_bits, pixel_bits = pair_bits(machine)
        depth = memory_depth(machine, "masks")

        # What exists of the present word.
        word = Signal(row_bits + 1)  # within the window
        exists = Signal(bits)
        real = [pixel < self.pixels for pixel in range(width)]
        for r in range(rows_a_word):
            here = Signal(name=f"row_{r}_exists")
            m.d.comb += here.eq(word * rows_a_word + r < self.rows)
            m.d.comb += exists[r * width : (r + 1) * width].eq(Cat(bit & here for bit in real))

        taken = Signal(bits)
        left, lowest = Signal(bits), Signal(bits)
        position = Signal(ceil_log2(bits))
        count = Signal.like(self.count)
        over = Signal()  # behind the last word
        works, passes_on = Signal(), Signal()
        full = count == machine.accumulators
        m.d.comb += [
            left.eq(Mux(self.dense, exists, self.data & exists) & ~taken),
            lowest.eq(left & -left),
            position.eq(
                Cat(
                    Cat(lowest[i] for i in range(bits) if i >> bit & 1).any()
                    for bit in range(len(position))
                )
            ),
            works.eq(self.scan & ~over & ~full),
            self.takes.eq(works & left.any()),
            self.pixel.eq(position[:pixel_bits] if pixel_bits else 0),
            passes_on.eq(works & (left == lowest)),
            self.ended.eq(over | (passes_on & (word + 1 == self.words))),
            self.count.eq(count + self.takes),
            self.stops.eq(self.ended | (self.count == machine.accumulators)),
        ]

        m.submodules.pairs = pairs = Memory(
            shape=row_bits + pixel_bits, depth=2 * machine.accumulators, init=[]
        )
        write, read = pairs.write_port(), pairs.read_port(domain="comb")
        filling = Signal()
        row = Signal(row_bits)
        m.d.comb += [
            row.eq(word * rows_a_word + (position >> pixel_bits)),
            write.en.eq(self.takes),
            write.addr.eq(Cat(count[: len(self.slot)], filling)),
            write.data.eq(Cat(position[:pixel_bits], row)),
            read.addr.eq(Cat(self.slot, self.half)),
            self.pair.eq(read.data),
        ]

        at, following = Signal.like(self.address), Signal.like(self.address)
        m.d.comb += [
            following.eq(Mux(at == depth - 1, 0, at + 1)),
            self.address.eq(Mux(self.begin, self.first, Mux(passes_on, following, at))),
            self.en.eq((self.begin | passes_on | self.again) & ~self.dense),
        ]
        m.d.sync += at.eq(self.address)
        with m.If(works):
            m.d.sync += [count.eq(self.count), taken.eq(taken | lowest)]
            with m.If(passes_on):
                m.d.sync += [taken.eq(0), word.eq(word + 1), over.eq(self.ended)]
        with m.If(self.new_pass):
            m.d.sync += [count.eq(0), filling.eq(~filling)]
        with m.If(self.new_window):
            m.d.sync += [over.eq(0), word.eq(0)]
        with m.If(self.begin):
            m.d.sync += [over.eq(0), word.eq(0), taken.eq(0)]
        with m.If(self.clear):
            m.d.sync += [count.eq(0), filling.eq(0)]
        return m
