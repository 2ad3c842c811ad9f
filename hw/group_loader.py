"""Structured machine: the weight stream, words of a lane's group into one of two halves."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..common.descriptor import memory_depth
from ..common.machine import Machine
from ..common.scheme import GROUP
from .fields import compute_layout
from .steps import Steps

__all__ = ["SETS", "GroupLoader"]

#: Sets of parameters of a lane: the step that is loaded, the one that issues and two whose outputs
#: are on their way.
SETS = 4


class GroupLoader(wiring.Component):
    """Reads weights ahead of the issue, a unit of eight words a lane at a time.

    A unit is a beat of EXACT or two row-beats of APPROXIMATE. Its words take 8 / beta cycles into
    the half that the unit before the last has left; with the first unit of a step come the
    parameters of the step's channels. All lanes read the same address.

    Members
    -------
    config : ``In(compute_layout(machine))``
    start, stop : ``In(1)``
        Load the first words in the next cycle; forget everything.
    begun, ended : ``In(1)``
        A unit issues for the first, for the last time in this cycle.
    ready : ``Out(1)``
        A unit that has not begun is loaded.
    weights_en, weights_address : ``Out``
        Read of all banks of the weight memory.
    parameters_en, parameters_address : ``Out``
        Read of all banks of the parameter memory.
    fill, fill_half, fill_words : ``Out``
        A cycle after the read: its data belong to that half, at words beta * fill_words and up.
    fill_parameters, fill_set : ``Out``
        Likewise for parameters, into that set.
    """

    def __init__(self, machine: Machine):
        self.machine = machine
        self.cycles = GROUP // machine.weight_words
        super().__init__(
            {
                "config": In(compute_layout(machine)),
                "start": In(1),
                "stop": In(1),
                "begun": In(1),
                "ended": In(1),
                "ready": Out(1),
                "weights_en": Out(1),
                "weights_address": Out(ceil_log2(memory_depth(machine, "weights"))),
                "parameters_en": Out(1),
                "parameters_address": Out(ceil_log2(memory_depth(machine, "parameters"))),
                "fill": Out(1),
                "fill_half": Out(1),
                "fill_words": Out(3),
                "fill_parameters": Out(1),
                "fill_set": Out(ceil_log2(SETS)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        log_beta = (self.machine.weight_words).bit_length() - 1

        m.submodules.steps = steps = Steps(self.machine)
        m.d.comb += [
            steps.config.eq(config),
            steps.start.eq(self.start),
            steps.stop.eq(self.stop),
        ]

        # What a pass over the words of a tile reads; APPROXIMATE passes once for each sub-block.
        units, passes = Signal(20), Signal(10)
        m.d.comb += [
            units.eq(Mux(steps.exact, config.beats, config.rough_beats << 2)),
            passes.eq(
                Mux(
                    steps.exact,
                    1,
                    Mux(steps.deep, config.sub_count_deep, config.sub_count),
                )
            ),
        ]
        unit, done_passes = Signal(20), Signal(10)
        word, offset = Signal(3), Signal(len(self.weights_address))
        half, chosen_set = Signal(), Signal(ceil_log2(SETS))
        exact_base, rough_base = Signal(len(offset)), Signal(len(offset))

        loaded = Signal()
        held, waiting = Signal(2), Signal(2)  # units loaded and not ended, not begun
        last_word, last_unit, last_pass = Signal(), Signal(), Signal()
        load = Signal()
        m.d.comb += [
            load.eq(steps.valid & (held < 2)),
            last_word.eq(word == self.cycles - 1),
            last_unit.eq(unit + 1 == units),
            last_pass.eq(done_passes + 1 == passes),
            loaded.eq(load & last_word),
            self.ready.eq(waiting != 0),
            self.weights_en.eq(load),
            self.weights_address.eq(Mux(steps.exact, exact_base, rough_base) + offset),
            self.parameters_en.eq(load & (unit == 0) & (done_passes == 0)),
            self.parameters_address.eq(
                config.parameters_base + (steps.group << (3 - log_beta)) + word
            ),
            steps.advance.eq(loaded & last_unit & last_pass),
        ]
        m.d.sync += [
            held.eq(held + loaded - self.ended),
            waiting.eq(waiting + loaded - self.begun),
            self.fill.eq(load),
            self.fill_half.eq(half),
            self.fill_words.eq(word),
            self.fill_parameters.eq(self.parameters_en),
            self.fill_set.eq(chosen_set),
        ]
        with m.If(load):
            m.d.sync += [word.eq(word + 1), offset.eq(offset + 1)]
            with m.If(last_word):
                m.d.sync += [word.eq(0), half.eq(~half), unit.eq(unit + 1)]
                with m.If(last_unit):
                    m.d.sync += [unit.eq(0), offset.eq(0), done_passes.eq(done_passes + 1)]
        with m.If(steps.advance):
            m.d.sync += [done_passes.eq(0), chosen_set.eq(chosen_set + 1)]
            for exact, base, origin, beats in (
                (1, exact_base, config.weights_base, config.beats),
                (0, rough_base, config.rough_base, config.rough_beats << 2),
            ):
                with m.If(steps.exact == exact):
                    following = base + (beats << (3 - log_beta))
                    m.d.sync += base.eq(Mux(steps.last_group, origin, following))
        with m.If(self.start | self.stop):
            m.d.sync += [
                word.eq(0),
                offset.eq(0),
                unit.eq(0),
                done_passes.eq(0),
                half.eq(0),
                chosen_set.eq(0),
                held.eq(0),
                waiting.eq(0),
                self.fill.eq(0),
                self.fill_parameters.eq(0),
                exact_base.eq(config.weights_base),
                rough_base.eq(config.rough_base),
            ]
        return m
