"""Structured machine: a lane's weights and parameters, and what each of its VPUs takes of them."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..common.machine import Machine
from ..common.scheme import GROUP
from .group_loader import SETS
from .post import PARAMETERS

__all__ = ["GroupBuffer"]


class GroupBuffer(wiring.Component):
    """Two halves of eight weight words and four sets of eight parameters, for the T VPUs of a lane.

    Each VPU takes the word of the channel it computes; in an approximate issue all take the four
    words of a row-beat.

    Parameters
    ----------
    machine : Machine
        Structured.

    Members
    -------
    weights : ``In(16 w)`` each of beta, parameters : ``In(128)`` each of beta
        Words read a cycle ago.
    fill, fill_half, fill_words, fill_parameters, fill_set : ``In``
        Where they go; as :class:`GroupLoader` gives them.
    take : ``In(1)``
        Operands are due; the next three say which.
    half : ``In(1)``, wide : ``In(1)``, odd : ``In(1)``
        Half; whether a row-beat of four words is asked for, and whether the second.
    index : ``In(3)`` each of T
        Channel of each VPU.
    low : ``Out(16 w)`` each of T, high : ``Out(48 w)``
        Operands, from the next cycle on: word 0 of each VPU; words 1 to 3, the same for all.
    set, scale : ``In``
        Set and, for each VPU, channel of the parameters wanted.
    scales : ``Out(PARAMETERS)`` each of T
        They, from the next cycle on.
    """

    def __init__(self, machine: Machine):
        self.machine = machine
        word, columns, beta = 16 * machine.pses, machine.columns, machine.weight_words
        super().__init__(
            {
                "weights": In(word).array(beta),
                "parameters": In(128).array(beta),
                "fill": In(1),
                "fill_half": In(1),
                "fill_words": In(3),
                "fill_parameters": In(1),
                "fill_set": In(ceil_log2(SETS)),
                "take": In(1),
                "half": In(1),
                "wide": In(1),
                "odd": In(1),
                "index": In(3).array(columns),
                "low": Out(word).array(columns),
                "high": Out(3 * word),
                "set": In(ceil_log2(SETS)),
                "scale": In(3).array(columns),
                "scales": Out(PARAMETERS).array(columns),
            }
        )

    #: Name of its Verilog module.
    module_name = "sinai_group_buffer"

    def elaborate(self, platform):
        m = Module()
        beta = self.machine.weight_words
        halves = [
            [
                Signal(16 * self.machine.pses, name=f"word_{h}_{i}", reset_less=True)
                for i in range(GROUP)
            ]
            for h in range(2)
        ]
        sets = [
            [Signal(128, name=f"parameters_{s}_{i}", reset_less=True) for i in range(GROUP)]
            for s in range(SETS)
        ]
        for i in range(GROUP):
            here = self.fill_words == i // beta
            for h in range(2):
                with m.If(self.fill & here & (self.fill_half == h)):
                    m.d.sync += halves[h][i].eq(self.weights[i % beta])
            for s in range(SETS):
                with m.If(self.fill_parameters & here & (self.fill_set == s)):
                    m.d.sync += sets[s][i].eq(self.parameters[i % beta])

        words = []
        for i in range(GROUP):
            word = Signal(16 * self.machine.pses, name=f"active_{i}")
            m.d.comb += word.eq(Mux(self.half, halves[1][i], halves[0][i]))
            words.append(word)
        with m.If(self.take):
            for t in range(self.machine.columns):
                m.d.sync += self.low[t].eq(Array(words)[self.index[t]])
            with m.If(self.wide):
                m.d.sync += self.high.eq(Mux(self.odd, Cat(words[5:8]), Cat(words[1:4])))

        chosen = []
        for i in range(GROUP):
            row = Signal(128, name=f"chosen_{i}")
            m.d.comb += row.eq(Array([sets[s][i] for s in range(SETS)])[self.set])
            chosen.append(row)
        for t in range(self.machine.columns):
            m.d.sync += self.scales[t].eq(Array(chosen)[self.scale[t]])
        return m
