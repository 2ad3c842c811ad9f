"""The order of the steps: A0 A1 E0 A2 E1 ..., so that selection hides behind the next tile."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..common.descriptor import MAX_CHANNELS, MAX_PIXELS, Flag
from ..common.machine import Machine
from .fields import compute_layout, flag

__all__ = ["Steps"]

_GROUP = MAX_CHANNELS.bit_length()
_BATCH = MAX_PIXELS.bit_length()


class Steps(wiring.Component):
    """Walks the steps of a part, one for each `advance`.

    A tile is a block of batches by a supergroup of channels (structured) or by all channels
    (unstructured); tiles run through the supergroups of a block before the next block. Every tile
    has an approximate step (A) and an exact one (E); a dense part has only E, a part without
    essential neurons only A.

    Parameters
    ----------
    machine : Machine

    Members
    -------
    config : ``In(compute_layout(machine))``
    start : ``In(1)``
        Take the first step in the next cycle.
    advance : ``In(1)``
        Take the next one in the next cycle.
    stop : ``In(1)``
        Forget all steps.
    valid : ``Out(1)``
        There is a step.
    exact : ``Out(1)``
        It is an E.
    first : ``Out``
        First batch of its tile, from the part's first.
    depth : ``Out``
        Batches of its tile.
    deep : ``Out(1)``
        The tile is of the deeper kind.
    group : ``Out``
        Its supergroup; 0 on the unstructured machine.
    last_group : ``Out(1)``
        No later tile of the block.
    last : ``Out(1)``
        No later step.
    """

    def __init__(self, machine: Machine):
        self.machine = machine
        depth = ceil_log2(machine.accumulators + 2)
        super().__init__(
            {
                "config": In(compute_layout(machine)),
                "start": In(1),
                "advance": In(1),
                "stop": In(1),
                "valid": Out(1),
                "exact": Out(1),
                "first": Out(_BATCH),
                "depth": Out(depth),
                "deep": Out(1),
                "group": Out(_GROUP),
                "last_group": Out(1),
                "last": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        approximate = flag(config, Flag.APPROXIMATE)
        both = approximate & flag(config, Flag.EXACT)

        groups = Signal(_GROUP)
        m.d.comb += groups.eq(1 if self.machine.unstructured else config.groups)

        # The tile whose A, and the tile whose E, comes next or is under way.
        tiles = {}
        for name in ("rough", "exact"):
            block = Signal(_BATCH, name=f"{name}_block")
            group = Signal(_GROUP, name=f"{name}_group")
            first = Signal(_BATCH, name=f"{name}_first")
            deep = Signal(name=f"{name}_deep")
            depth = Signal(self.depth.shape(), name=f"{name}_depth")
            last_group = Signal(name=f"{name}_last_group")
            last = Signal(name=f"{name}_last")
            step = Signal(name=f"{name}_step")
            m.d.comb += [
                deep.eq(block < config.tile_more),
                depth.eq(config.tile_depth + deep),
                last_group.eq(group + 1 == groups),
                last.eq(last_group & (block + 1 == config.tiles)),
            ]
            with m.If(self.start):
                m.d.sync += [block.eq(0), group.eq(0), first.eq(0)]
            with m.Elif(step):
                with m.If(last_group):
                    m.d.sync += [group.eq(0), block.eq(block + 1), first.eq(first + depth)]
                with m.Else():
                    m.d.sync += group.eq(group + 1)
            tiles[name] = (first, depth, deep, group, last_group, last, step)

        # The first A is followed by another A; `started` is set once it is over.
        exact, started, rough_over = Signal(), Signal(), Signal()
        a_last, a_step = tiles["rough"][5:]
        e_last, e_step = tiles["exact"][5:]
        m.d.comb += [
            self.exact.eq(exact),
            a_step.eq(self.advance & ~exact),
            e_step.eq(self.advance & exact),
            self.last.eq(Mux(exact, e_last, a_last & ~both)),
        ]
        for at, port in enumerate((self.first, self.depth, self.deep, self.group, self.last_group)):
            m.d.comb += port.eq(Mux(exact, tiles["exact"][at], tiles["rough"][at]))
        with m.If(self.stop):
            m.d.sync += self.valid.eq(0)
        with m.Elif(self.start):
            m.d.sync += [
                self.valid.eq(1),
                exact.eq(~approximate),
                started.eq(0),
                rough_over.eq(~approximate),
            ]
        with m.Elif(self.advance):
            with m.If(self.last):
                m.d.sync += self.valid.eq(0)
            with m.Elif(~exact):
                m.d.sync += [started.eq(1), rough_over.eq(a_last)]
                m.d.sync += exact.eq(both & (started | a_last))
            with m.Else():
                m.d.sync += exact.eq(rough_over)
        return m
