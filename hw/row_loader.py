"""Unstructured machine: the weight stream of APPROXIMATE, row-beats of four words a lane."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..common.descriptor import memory_depth
from ..common.machine import Machine
from .fields import compute_layout
from .steps import Steps

__all__ = ["WORDS", "RowLoader"]

#: Words of a row-beat: 16 w nibbles.
WORDS = 4


class RowLoader(wiring.Component):
    """Reads W~ ahead of the issue into one of two halves, a word a cycle and lane.

    The weight port belongs to EXACT from the end of the approximate step before it to its own end:
    the loader then waits for `exact_over`. All lanes read the same address.

    Members
    -------
    config : ``In(compute_layout(machine))``
    start, stop : ``In(1)``
        Load the first word in the next cycle; forget everything.
    begun, ended : ``In(1)``
        A row-beat issues for the first, for the last time in this cycle.
    exact_over : ``In(1)``
        An exact step ends with this cycle.
    ready : ``Out(1)``
        A row-beat that has not begun is loaded.
    en, address : ``Out``
        Read of all banks of the weight memory.
    fill, fill_half, fill_word : ``Out``
        A cycle later: the data are that word of that half.
    """

    def __init__(self, machine: Machine):
        self.machine = machine
        super().__init__(
            {
                "config": In(compute_layout(machine)),
                "start": In(1),
                "stop": In(1),
                "begun": In(1),
                "ended": In(1),
                "exact_over": In(1),
                "ready": Out(1),
                "en": Out(1),
                "address": Out(ceil_log2(memory_depth(machine, "weights"))),
                "fill": Out(1),
                "fill_half": Out(1),
                "fill_word": Out(2),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.steps = steps = Steps(self.machine)
        units = Signal(28)
        m.d.comb += [
            steps.config.eq(config),
            steps.start.eq(self.start),
            steps.stop.eq(self.stop),
            units.eq(config.groups * config.rough_beats),
        ]
        unit, word, half = Signal(28), Signal(2), Signal()
        offset = Signal(len(self.address))
        held, waiting = Signal(2), Signal(2)
        load, loaded, last = Signal(), Signal(), Signal()
        m.d.comb += [
            load.eq(steps.valid & ~steps.exact & (held < 2)),
            loaded.eq(load & (word == WORDS - 1)),
            last.eq(unit + 1 == units),
            steps.advance.eq((loaded & last) | (steps.exact & self.exact_over)),
            self.ready.eq(waiting != 0),
            self.en.eq(load),
            self.address.eq(config.rough_base + offset),
        ]
        m.d.sync += [
            held.eq(held + loaded - self.ended),
            waiting.eq(waiting + loaded - self.begun),
            self.fill.eq(load),
            self.fill_half.eq(half),
            self.fill_word.eq(word),
        ]
        with m.If(load):
            m.d.sync += [word.eq(word + 1), offset.eq(offset + 1)]
        with m.If(loaded):
            m.d.sync += [half.eq(~half), unit.eq(unit + 1)]
            with m.If(last):
                m.d.sync += [unit.eq(0), offset.eq(0)]
        with m.If(self.start | self.stop):
            m.d.sync += [
                unit.eq(0),
                word.eq(0),
                half.eq(0),
                offset.eq(0),
                held.eq(0),
                waiting.eq(0),
                self.fill.eq(0),
            ]
        return m
