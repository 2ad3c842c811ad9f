"""Projection `tap`: p of an output pixel, copied together from the projected input pixels."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..common.contract import CONTRACT
from ..common.descriptor import MAX_KERNEL, MAX_PIXELS, MAX_SIDE
from ..common.machine import TAP_NIBBLES, TAP_PIXELS, Machine
from .fields import compute_layout
from .pipeline import delay
from .projection_gather import COORDINATE
from .projection_packer import UNIT, ProjectionPacker
from .share import shared
from .sram import Sram

__all__ = ["ProjectionCopy"]


class ProjectionCopy(wiring.Component):
    """The tap memory, the walk over output pixels and their taps, and the packing into beats.

    Input pixel number n (row * w_in + column) lies at n mod `TAP_PIXELS`. An output row is copied
    when `rows` has reached its bottom, the end of the input rows it needs. Groups of min(hold, rest
    of the row) pixels begin when they fit. A group of n pixels takes kernel**2 * n cycles, a tap
    each; one outside the input gives zeros. Groups may follow each other without a gap.

    A beat of p leaves :attr:`latency` cycles after the tap that fills it, or one more where the
    last tap of a pixel fills one beat and begins another.

    Parameters
    ----------
    machine : Machine
    linear : int
        Bits of the number of a pixel, at least 11.

    Members
    -------
    start, config : ``In``
        As for the unit; `start` for `tap` alone.
    origin, turn : ``In(linear)``
        Number of the input pixel at tap 0 of pixel 0; pixels from the last output of a row to the
        first of the next.
    write, write_address, write_data : ``In``
        Write port of the tap memory, a part of a row of P's p at a time.
    rows : ``In``
        Input rows before this one are projected, as far as they are needed.
    fits : ``In(1)``
        The ring has room for `pixels`.
    bottom : ``Out``
        End of the input rows that the output row under way needs.
    take, pixels : ``Out(1)``, ``Out``
        A group begins, of so many pixels.
    done : ``Out(1)``
        It ends: its last tap is read. `pixels` still counts it.
    walks : ``Out(1)``
        A tap is read in this cycle, or lies outside the input.
    o_valid, o_last, o_data : ``Out``
        A beat; it is the last of its pixel.
    """

    latency = CONTRACT.sram_read

    def __init__(self, machine: Machine, linear: int):
        self.machine, self.linear = machine, linear
        longest = min(TAP_NIBBLES, 16 * machine.pses)
        self._packer = ProjectionPacker(longest, 16 * machine.pses)
        self._memory = Sram(4 * longest, TAP_PIXELS, granularity=4 * min(longest, machine.rpu.rows))
        super().__init__(
            {
                "start": In(1),
                "config": In(compute_layout(machine)),
                "origin": In(linear),
                "turn": In(linear),
                "write": In(len(self._memory.write_en)),
                "write_address": In(self._memory.address_bits),
                "write_data": In(4 * longest),
                "rows": In(range(MAX_SIDE + 1)),
                "fits": In(1),
                "bottom": Out(range(MAX_SIDE + 1)),
                "take": Out(1),
                "pixels": Out(range(machine.rpu.hold + 1)),
                "done": Out(1),
                "walks": Out(1),
                "o_valid": Out(1),
                "o_last": Out(1),
                "o_data": Out(64 * machine.pses),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, hold = self.config, self.machine.rpu.hold
        memory, packer = self._memory, self._packer
        m.submodules.memory = shared(memory, platform)
        m.submodules.packer = packer

        # Pixel: place in the input and number of its first tap; it is the first of `columns` of its
        # row and of `rest` of the part.
        y, x = Signal(COORDINATE), Signal(COORDINATE)
        linear = Signal(self.linear)
        rest, columns = Signal(range(MAX_PIXELS + 1)), Signal(range(MAX_SIDE + 1))
        # Tap: place in the window and number of its pixel.
        kr, kc = Signal(range(MAX_KERNEL)), Signal(range(MAX_KERNEL))
        tap_linear = Signal(self.linear)
        # Group: pixels, and how many of them are left.
        active, on = Signal(), Signal()
        count, left, left_now = (
            Signal(range(hold + 1), name=name) for name in ("count", "left", "left_now")
        )

        end = Signal(COORDINATE)
        m.d.comb += [
            end.eq(y + config.q_kernel),
            self.bottom.eq(Mux(end < config.q_h_in, end, config.q_h_in)),
            self.take.eq(~active & (rest != 0) & (self.rows >= self.bottom) & self.fits),
            on.eq(active | self.take),
            self.walks.eq(on),
            self.pixels.eq(Mux(active, count, Mux(columns < hold, columns, hold))),
            left_now.eq(Mux(active, left, self.pixels)),
        ]

        row, column = Signal(COORDINATE), Signal(COORDINATE)
        inside, last_tap = Signal(), Signal()
        m.d.comb += [
            row.eq(y + kr),
            column.eq(x + kc),
            inside.eq(
                (row >= 0) & (row < config.q_h_in) & (column >= 0) & (column < config.q_w_in)
            ),
            last_tap.eq((kc + 1 == config.q_kernel) & (kr + 1 == config.q_kernel)),
            self.done.eq(on & last_tap & (left_now == 1)),
            memory.read_en.eq(on & inside),
            memory.read_address.eq(tap_linear),
            memory.write_en.eq(self.write),
            memory.write_address.eq(self.write_address),
            memory.write_data.eq(self.write_data),
        ]

        # The walk.
        after = Signal(self.linear)
        m.d.comb += after.eq(linear + Mux(columns == 1, self.turn, config.q_stride))
        with m.If(on):
            m.d.sync += [active.eq(~self.done), count.eq(self.pixels), left.eq(left_now - last_tap)]
            with m.If(kc + 1 != config.q_kernel):
                m.d.sync += [kc.eq(kc + 1), tap_linear.eq(tap_linear + 1)]
            with m.Else():
                m.d.sync += [kc.eq(0), kr.eq(kr + 1)]
                m.d.sync += tap_linear.eq(tap_linear + config.q_w_in - config.q_kernel + 1)
            with m.If(last_tap):
                m.d.sync += [kr.eq(0), linear.eq(after), tap_linear.eq(after), rest.eq(rest - 1)]
                m.d.sync += [x.eq(x + config.q_stride), columns.eq(columns - 1)]
                with m.If(columns == 1):
                    m.d.sync += [x.eq(config.q_column0), y.eq(y + config.q_stride)]
                    m.d.sync += columns.eq(Mux(rest <= config.w_out, rest - 1, config.w_out))
        with m.If(self.start):
            few = config.pixels < config.w_out
            m.d.sync += [
                y.eq(config.q_row0),
                x.eq(config.q_column0),
                linear.eq(self.origin),
                tap_linear.eq(self.origin),
                rest.eq(config.pixels),
                columns.eq(Mux(few, config.pixels, config.w_out)),
            ]
            m.d.sync += [r.eq(0) for r in (kr, kc, active)]

        # What is read, into beats.
        valid, kept, last = delay(m, self.latency, on, inside, last_tap)
        m.d.comb += [
            packer.valid.eq(valid),
            packer.last.eq(last),
            packer.data.eq(Mux(kept, memory.read_data, 0)),
            packer.units.eq(config.p_rows // UNIT),
            self.o_valid.eq(packer.o_valid),
            self.o_last.eq(packer.o_last),
            self.o_data.eq(packer.o_data),
        ]

        return m
