"""Unstructured machine: x words of the window's pixels, fetched a beat ahead of their issue."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..common.descriptor import MAX_PIXELS, memory_depth
from ..common.machine import Machine
from .fields import compute_layout
from .ports import read_port
from .positions import POSITION, first_position, inside, step_pixel
from .scanner import pass_layout

__all__ = ["Window"]


class Window(wiring.Component):
    """Two halves of W x words: one is read by the lanes, the other is being filled.

    For each beat of each pass, the words of the pixels that have a pair in it enter one a cycle. A
    table of 4 R positions, filled a pixel a cycle ahead of need, tells where pixels lie in x.

    Members
    -------
    config : ``In(compute_layout(machine))``
    start, stop : ``In(1)``
        Work from the next cycle on; forget everything.
    passes : ``In(pass_layout(machine))`` each of two, publishes : ``In(1)``
        As the scanner gives them.
    tile_pixel : ``In``
        First pixel of the oldest tile whose passes are not all over.
    begun, ended : ``In(1)``
        The oldest beat issues for the first, for the last time in this cycle.
    ready : ``Out(1)``
        A beat that has not begun is there.
    x : read port
    half : ``In(1)``, pixel : ``In`` each of V
        What the lanes ask for.
    words : ``Out(16 w)`` each of V
        They, in the same cycle.
    """

    def __init__(self, machine: Machine):
        self.machine = machine
        word, lanes = 16 * machine.pses, machine.lanes
        super().__init__(
            {
                "config": In(compute_layout(machine)),
                "start": In(1),
                "stop": In(1),
                "passes": In(pass_layout(machine)).array(2),
                "publishes": In(1),
                "tile_pixel": In(MAX_PIXELS.bit_length()),
                "begun": In(1),
                "ended": In(1),
                "ready": Out(1),
                "x": Out(read_port(word, memory_depth(machine, "x"))),
                "half": In(1),
                "pixel": In(max(1, ceil_log2(machine.window))).array(lanes),
                "words": Out(word).array(lanes),
            }
        )

    def elaborate(self, platform):
        m = Module()
        machine, config = self.machine, self.config
        width = machine.window
        pixel_bits = MAX_PIXELS.bit_length()

        # Positions of the pixels.
        entries = 4 * machine.accumulators
        m.submodules.positions = positions = Memory(shape=POSITION, depth=entries, init=[])
        write, read = positions.write_port(), positions.read_port(domain="comb")
        walker, walked = Signal(POSITION), Signal(POSITION)
        pixel = Signal(pixel_bits)
        walking = Signal()
        ahead = Signal(pixel_bits)
        m.d.comb += [
            *(walked[name].eq(value) for name, value in step_pixel(config, walker).items()),
            ahead.eq(pixel - self.tile_pixel),
            write.addr.eq(pixel),
            write.data.eq(walker),
            write.en.eq(walking & (ahead < 3 * machine.accumulators)),
        ]
        with m.If(write.en):
            m.d.sync += [walker.eq(walked), pixel.eq(pixel + 1)]
            m.d.sync += walking.eq(pixel + 1 != config.pixels)

        # The fetch of a beat.
        parity, half = Signal(), Signal()
        unfetched = Signal(2)  # passes published of which not every beat has been fetched
        held, waiting = Signal(2), Signal(2)
        tap_row, tap_column, word = Signal(4), Signal(4), Signal(16)
        tap_linear, word_row = Signal(22), Signal(22)
        fresh = Signal(init=1)
        todo, now, rest = Signal(width), Signal(width), Signal(width)
        chosen = Signal(max(1, ceil_log2(width)))
        current = Array(list(self.passes))[parity]
        fetch, fetched, pass_fetched = Signal(), Signal(), Signal()
        lowest = now & -now
        m.d.comb += [
            fetch.eq(unfetched.any() & (held < 2)),
            now.eq(Mux(fresh, current.needed, todo)),
            rest.eq(now & (now - 1)),
            chosen.eq(
                Cat(
                    Cat(lowest[i] for i in range(width) if i >> bit & 1).any()
                    for bit in range(len(chosen))
                )
                if width > 1
                else 0
            ),
            fetched.eq(fetch & (rest == 0)),
            read.addr.eq(current.pixel + chosen),
        ]
        tap = Signal()
        words_end = word + 1 == config.x_words
        tap_ends = tap_column + 1 == config.kernel
        row_ends = tap_row + 1 == config.kernel
        linear = Signal(22)
        m.d.comb += [
            tap.eq(inside(config, read.data, tap_row, tap_column)),
            linear.eq(read.data.linear + tap_linear),
            self.x.en.eq(fetch & tap),
            self.x.address.eq(config.x_base + word_row + linear),
            pass_fetched.eq(fetched & words_end & tap_ends & row_ends),
            self.ready.eq(waiting != 0),
        ]
        with m.If(fetch):
            m.d.sync += [todo.eq(rest), fresh.eq(rest == 0)]
        with m.If(fetched):
            m.d.sync += [half.eq(~half), word.eq(word + 1), word_row.eq(word_row + config.x_plane)]
            with m.If(words_end):
                m.d.sync += [
                    word.eq(0),
                    word_row.eq(0),
                    tap_column.eq(tap_column + 1),
                    tap_linear.eq(tap_linear + 1),
                ]
                with m.If(tap_ends):
                    m.d.sync += [
                        tap_column.eq(0),
                        tap_row.eq(tap_row + 1),
                        tap_linear.eq(tap_linear + config.w_in - config.kernel + 1),
                    ]
                    with m.If(row_ends):
                        m.d.sync += [tap_row.eq(0), tap_linear.eq(0), parity.eq(~parity)]
        m.d.sync += [
            held.eq(held + fetched - self.ended),
            waiting.eq(waiting + fetched - self.begun),
            unfetched.eq(unfetched + self.publishes - pass_fetched),
        ]

        # A cycle later the word is there, or zero for the padding.
        enters, enters_half, enters_tap = Signal(), Signal(), Signal()
        enters_at = Signal.like(chosen)
        m.d.sync += [
            enters.eq(fetch),
            enters_half.eq(half),
            enters_tap.eq(tap),
            enters_at.eq(chosen),
        ]
        halves = [
            [Signal(len(self.x.data), name=f"x_{h}_{p}", reset_less=True) for p in range(width)]
            for h in range(2)
        ]
        for h in range(2):
            for p in range(width):
                with m.If(enters & (enters_half == h) & (enters_at == p)):
                    m.d.sync += halves[h][p].eq(Mux(enters_tap, self.x.data, 0))
        active = []
        for p in range(width):
            shown = Signal(len(self.x.data), name=f"shown_{p}")
            m.d.comb += shown.eq(Mux(self.half, halves[1][p], halves[0][p]))
            active.append(shown)
        for v in range(machine.lanes):
            asked = Array(active)[self.pixel[v]] if width > 1 else active[0]
            m.d.comb += self.words[v].eq(asked)

        with m.If(self.start | self.stop):
            m.d.sync += [
                *(walker[name].eq(value) for name, value in first_position(config).items()),
                pixel.eq(0),
                walking.eq(self.start),
                parity.eq(0),
                half.eq(0),
                unfetched.eq(0),
                held.eq(0),
                waiting.eq(0),
                fresh.eq(1),
                tap_row.eq(0),
                tap_column.eq(0),
                word.eq(0),
                tap_linear.eq(0),
                word_row.eq(0),
                enters.eq(0),
            ]
        return m
