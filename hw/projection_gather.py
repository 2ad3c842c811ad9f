"""The walk over x^Q: which word of which pixel the projection unit reads next."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..common.contract import CONTRACT
from ..common.descriptor import MAX_KERNEL, MAX_PIXELS, MAX_SIDE, Flag, memory_depth
from ..common.machine import Machine
from .fields import compute_layout, flag
from .pipeline import delay

__all__ = ["COORDINATE", "ProjectionGather", "slot_layout"]

#: A row or column of an image, in the padding around it or behind it.
COORDINATE = signed((MAX_SIDE + 2 * MAX_KERNEL).bit_length() + 1)


def slot_layout(machine: Machine, linear: int) -> StructLayout:
    """What is known of a slot once its x^Q is gathered.

    half : half of the buffer. pixels : n. first, last : first, last slot of its group. final : last
    of the part. row, row_end : row of x^Q, and whether this is the last slot that reads it (`tap`).
    linear : `linear` bits of the number of the first pixel (`tap`).
    """
    return StructLayout(
        {
            "half": 1,
            "pixels": machine.rpu.hold.bit_length(),
            "first": 1,
            "last": 1,
            "final": 1,
            "row_end": 1,
            "row": COORDINATE.width - 1,
            "linear": linear,
        }
    )


class ProjectionGather(wiring.Component):
    """Reads x^Q, a word a cycle, slot by slot, one slot ahead of the adders.

    A slot is a group of n pixels and a tile of elements: n times as many words as the tile has, all
    pixels of a word first, then the next word. Words run through the channels of a pixel, then the
    columns, then the rows of the window. For `patch` pixels are output pixels and words outside the
    input take their cycle and give zeros. For `tap` pixels are input pixels, the window is 1x1,
    groups end with a row, and only the rows that some output needs are walked.

    The first slot is read from the cycle after `start` on. Slot s + 1 is read from the cycle of the
    `go` of slot s on; for `tap` also not before `limit` is above its row. `gathered` is asserted
    from the cycle after the last read of a slot until its `go`; `slot` describes it.

    Parameters
    ----------
    machine : Machine
    linear : int
        Bits of the number of a pixel, at least those of an address of the x^Q memory.

    Members
    -------
    start, config : ``In``
        As for the unit.
    origin, turn, skip : ``In(linear)``
        Number of the pixel at tap 0 of pixel 0 (`tap`: of its row); pixels of x^Q from the last
        output of a row to the first of the next (`patch`); pixels in rows that no output needs,
        between those of an output row and the next (`tap`).
    limit : ``In``
        Rows before this one may be read (`tap`).
    go : ``In(1)``
        The adders begin with `slot`.
    gathered, slot : ``Out(1)``, ``Out(slot_layout(machine, linear))``
    en, address, data : read port of the x^Q memory
    walks : ``Out(1)``
        A word is read in this cycle, or would be, but lies outside the input.
    fill, fill_half, fill_pixel, fill_data : ``Out``
        Words of a pixel that take `fill_data`, a cycle after the read; half of the buffer; pixel of
        the group.
    """

    latency = CONTRACT.sram_read

    def __init__(self, machine: Machine, linear: int):
        rpu = machine.rpu
        self.machine, self.linear = machine, linear
        super().__init__(
            {
                "start": In(1),
                "config": In(compute_layout(machine)),
                "origin": In(linear),
                "turn": In(linear),
                "skip": In(linear),
                "limit": In(range(MAX_SIDE + 1)),
                "go": In(1),
                "gathered": Out(1),
                "slot": Out(slot_layout(machine, linear)),
                "en": Out(1),
                "address": Out(ceil_log2(memory_depth(machine, "xq"))),
                "data": In(4 * rpu.word),
                "walks": Out(1),
                "fill": Out(rpu.elements // rpu.word),
                "fill_half": Out(1),
                "fill_pixel": Out(range(rpu.hold)),
                "fill_data": Out(4 * rpu.word),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, hold, words = self.config, self.machine.rpu.hold, len(self.fill)
        tap = flag(config, Flag.TAP)

        # Rows that the output row under way needs end at `bottom`; from its first pixel on the part
        # has `outputs` pixels (`tap`).
        y, bottom = Signal(COORDINATE), Signal(COORDINATE)
        outputs = Signal(range(MAX_PIXELS + 1))
        bottom_reached, gap = Signal(), Signal(range(MAX_KERNEL + 1))
        m.d.comb += bottom_reached.eq(y + 1 == bottom)
        with m.If(bottom_reached & (config.q_stride > config.q_kernel)):
            m.d.comb += gap.eq(config.q_stride - config.q_kernel)

        # x^Q as it is walked.
        kernel, stride = Signal(range(MAX_KERNEL + 1)), Signal(range(MAX_KERNEL + 1))
        width, x_first = Signal(range(MAX_SIDE + 1)), Signal(COORDINATE)
        y_turn, linear_turn = Signal(COORDINATE), Signal(self.linear)
        with m.If(tap):
            m.d.comb += [
                kernel.eq(1),
                stride.eq(1),
                width.eq(config.q_w_in),
                x_first.eq(0),
                y_turn.eq(1 + gap),
                linear_turn.eq(Mux(gap.any(), self.skip, 0) + 1),
            ]
        with m.Else():
            m.d.comb += [
                kernel.eq(config.q_kernel),
                stride.eq(config.q_stride),
                width.eq(config.w_out),
                x_first.eq(config.q_column0),
                y_turn.eq(config.q_stride),
                linear_turn.eq(self.turn),
            ]

        # Pixel: its place in the input, how many stand before it in its row, and its number. All
        # pixels of a group are walked for each word.
        place = StructLayout(
            {"y": COORDINATE, "x": COORDINATE, "column": range(MAX_SIDE), "linear": self.linear}
        )
        here, group, after = Signal(place), Signal(place), Signal(place)
        pixel, pixels = Signal(range(hold)), Signal(range(hold + 1))
        rest = Signal(range(MAX_PIXELS + 1))
        m.d.comb += [y.eq(here.y), pixels.eq(Mux(rest < hold, rest, hold))]
        with m.If(here.column + 1 == width):
            m.d.comb += [
                after.y.eq(here.y + y_turn),
                after.x.eq(x_first),
                after.column.eq(0),
                after.linear.eq(here.linear + linear_turn),
            ]
        with m.Else():
            m.d.comb += [
                after.y.eq(here.y),
                after.x.eq(here.x + stride),
                after.column.eq(here.column + 1),
                after.linear.eq(here.linear + stride),
            ]

        # Word: its place in the window, and the address of the word there for pixel number 0, of
        # the first word of that tap, and of that row of taps.
        kr, kc = Signal(range(MAX_KERNEL)), Signal(range(MAX_KERNEL))
        cw, word = Signal(config.q_words.shape()), Signal(range(words))
        offset, tap_offset, row_offset = (
            Signal(self.linear, name=name) for name in ("offset", "tap_offset", "row_offset")
        )
        half, first = Signal(), Signal()
        last_pixel, last_word, last_row, last_group = Signal(), Signal(), Signal(), Signal()
        row_end, slot_end, group_end = Signal(), Signal(), Signal()
        m.d.comb += [
            last_pixel.eq(pixel + 1 == pixels),
            last_word.eq((cw + 1 == config.q_words) & (kc + 1 == kernel) & (kr + 1 == kernel)),
            slot_end.eq(last_pixel & (last_word | (word == words - 1))),
            group_end.eq(last_pixel & last_word),
            row_end.eq(rest == pixels),
            last_row.eq(
                (here.y + y_turn >= config.q_h_in) | (bottom_reached & (outputs <= config.w_out))
            ),
            last_group.eq(row_end & (last_row | ~tap)),
        ]

        # The read, and what is done with the word when it comes.
        row, column = Signal(COORDINATE), Signal(COORDINATE)
        active, more, on, inside = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            self.walks.eq(on),
            on.eq(more & (active | self.go) & (~tap | (here.y < self.limit))),
            row.eq(here.y + kr),
            column.eq(here.x + kc),
            inside.eq(
                (row >= 0) & (row < config.q_h_in) & (column >= 0) & (column < config.q_w_in)
            ),
            self.en.eq(on & inside),
            self.address.eq(offset + here.linear),
        ]
        filling, *filled = delay(m, self.latency, on, word, inside, half, pixel)
        m.d.comb += [
            self.fill.eq(filling << filled[0]),
            self.fill_data.eq(Mux(filled[1], self.data, 0)),
            self.fill_half.eq(filled[2]),
            self.fill_pixel.eq(filled[3]),
        ]

        # The walk.
        with m.If(self.go):
            m.d.sync += [self.gathered.eq(0), active.eq(1)]
        with m.If(on):
            m.d.sync += active.eq(~slot_end)
            m.d.sync += pixel.eq(Mux(last_pixel, 0, pixel + 1))
            m.d.sync += here.eq(Mux(last_pixel & ~last_word, group, after))
            with m.If(last_pixel):
                m.d.sync += word.eq(Mux(slot_end, 0, word + 1))
                with m.If(cw + 1 != config.q_words):
                    m.d.sync += [cw.eq(cw + 1), offset.eq(offset + config.q_plane)]
                with m.Elif(kc + 1 != kernel):
                    m.d.sync += [cw.eq(0), kc.eq(kc + 1)]
                    m.d.sync += [offset.eq(tap_offset + 1), tap_offset.eq(tap_offset + 1)]
                with m.Elif(kr + 1 != kernel):
                    below = row_offset + config.q_w_in
                    m.d.sync += [cw.eq(0), kc.eq(0), kr.eq(kr + 1)]
                    m.d.sync += [offset.eq(below), tap_offset.eq(below), row_offset.eq(below)]
                with m.Else():
                    m.d.sync += [cw.eq(0), kc.eq(0), kr.eq(0)]
                    m.d.sync += [r.eq(config.q_base) for r in (offset, tap_offset, row_offset)]
            with m.If(slot_end):
                m.d.sync += [
                    self.gathered.eq(1),
                    self.slot.half.eq(half),
                    self.slot.pixels.eq(pixels),
                    self.slot.first.eq(first),
                    self.slot.last.eq(last_word),
                    self.slot.final.eq(last_word & last_group),
                    self.slot.row_end.eq(last_word & row_end),
                    self.slot.row.eq(group.y),
                    self.slot.linear.eq(group.linear),
                    half.eq(~half),
                    first.eq(last_word),
                ]
            with m.If(group_end):
                m.d.sync += [group.eq(after), rest.eq(rest - pixels), more.eq(~last_group)]
                with m.If(tap & row_end):
                    m.d.sync += rest.eq(config.q_w_in)
                    with m.If(bottom_reached):
                        m.d.sync += bottom.eq(bottom + config.q_stride)
                        m.d.sync += outputs.eq(outputs - config.w_out)

        with m.If(self.start):
            in_padding = tap & (config.q_row0 < 0)
            begin = {
                "y": Mux(in_padding, 0, config.q_row0),
                "x": x_first,
                "column": 0,
                "linear": Mux(in_padding, 0, self.origin),
            }
            for name, value in begin.items():
                m.d.sync += [here[name].eq(value), group[name].eq(value)]
            m.d.sync += [r.eq(config.q_base) for r in (offset, tap_offset, row_offset)]
            m.d.sync += [r.eq(0) for r in (pixel, word, cw, kc, kr, half, self.gathered)]
            m.d.sync += [
                first.eq(1),
                active.eq(1),
                more.eq(1),
                rest.eq(Mux(tap, config.q_w_in, config.pixels)),
                bottom.eq(config.q_row0 + config.q_kernel),
                outputs.eq(config.pixels),
            ]

        return m
