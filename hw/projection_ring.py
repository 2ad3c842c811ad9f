"""The ring of p: where the next pixel goes, and how many still fit."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..common.descriptor import MAX_BEATS, MAX_PIXELS, memory_depth
from ..common.machine import Machine

__all__ = ["ProjectionRing"]


class ProjectionRing(wiring.Component):
    """Places of pixels in the p memory, a ring of `room` slots of a batch of T pixels.

    Pixel i of a part lies in bank i mod T, in slot (base_slot + i div T) mod room; slot s has
    `beats` rows from s * `beats` on. A part begins with the slot behind the part before, or with
    slot 0 if the ring has no such slot. `begin` drops whatever is still in the ring.

    Room counts pixels. What is taken counts from the next cycle on, and so does what is freed: a
    group that waits for pixels freed in cycle t fits in t + 1.

    Parameters
    ----------
    machine : Machine

    Members
    -------
    begin : ``In(1)``
        A projected part begins; nothing is in flight.
    room, beats : ``In``
        p_room and rough_beats; constant from `begin` on.
    wanted, fits : ``In``, ``Out(1)``
        Pixels, and whether the ring has room for them.
    take : ``In(1)``
        `wanted` pixels are taken.
    freed : ``In``
        Pixels given back.
    step : ``In(1)``
        Go to the next pixel.
    rewind : ``In(1)``
        With `step`: go back to the first pixel behind the last `commit`.
    commit : ``In(1)``
        With `step`: the group of pixels is complete.
    column, row : ``Out``
        Bank and first row of the pixel.
    base_slot : ``Out``
        Slot of the first pixel of the part, from `begin` on, that cycle included.
    """

    def __init__(self, machine: Machine):
        self.machine = machine
        depth = memory_depth(machine, "p")
        slots, pixels = ceil_log2(depth), MAX_PIXELS.bit_length()
        super().__init__(
            {
                "begin": In(1),
                "room": In(range(depth + 1)),
                "beats": In(range(MAX_BEATS + 1)),
                "wanted": In(pixels),
                "fits": Out(1),
                "take": In(1),
                "freed": In(pixels),
                "step": In(1),
                "rewind": In(1),
                "commit": In(1),
                "column": Out(range(machine.columns)),
                "row": Out(slots),
                "base_slot": Out(slots),
            }
        )

    def elaborate(self, platform):
        m = Module()
        columns, bits = self.machine.columns, len(self.row)

        # Room.
        used = Signal(len(self.freed) + 1)
        m.d.comb += self.fits.eq(used + self.wanted <= self.room * columns)
        m.d.sync += used.eq(used + Mux(self.take, self.wanted, 0) - self.freed)

        # Place of the next pixel, and of the first of the group under way.
        place = StructLayout({"column": len(self.column), "slot": bits, "row": bits})
        here, group, after = Signal(place), Signal(place), Signal(place)
        m.d.comb += [
            after.slot.eq(here.slot),
            after.row.eq(here.row),
            after.column.eq(here.column + 1),
            self.column.eq(here.column),
            self.row.eq(here.row),
        ]
        with m.If(here.column == columns - 1):
            m.d.comb += after.column.eq(0)
            with m.If(here.slot + 1 >= self.room):
                m.d.comb += [after.slot.eq(0), after.row.eq(0)]
            with m.Else():
                m.d.comb += [after.slot.eq(here.slot + 1), after.row.eq(here.row + self.beats)]
        with m.If(self.step):
            m.d.sync += here.eq(Mux(self.rewind, group, after))
            with m.If(self.commit):
                m.d.sync += group.eq(after)

        # A part begins on a fresh batch.
        fresh = Signal(bits + 1)
        first, base = Signal(bits), Signal(bits)
        m.d.comb += [
            fresh.eq(here.slot + (here.column != 0)),
            first.eq(Mux(fresh >= self.room, 0, fresh)),
        ]
        with m.If(self.begin):
            start = {"column": 0, "slot": first, "row": first * self.beats}
            m.d.sync += [used.eq(0), base.eq(first)]
            for name, value in start.items():
                m.d.sync += [here[name].eq(value), group[name].eq(value)]
        m.d.comb += self.base_slot.eq(Mux(self.begin, first, base))

        return m
