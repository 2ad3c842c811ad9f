"""Structured selection: which of the eight channels of a group are essential."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.data import ArrayLayout, StructLayout
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..common.contract import CONTRACT, Contract
from .pipeline import delay, popcount
from .threshold import reaches

__all__ = ["GROUP", "Ranker"]

#: Channels of a group, G.
GROUP = 8

#: A value's place in its group: `rank` larger ones so far; `keep` if it may be essential at all.
_PLACE = StructLayout({"rank": ceil_log2(GROUP), "keep": 1})


class Ranker(wiring.Component):
    """Ranks the approximate values of a group as they come; the mask follows the last of them.

    A group has a slot while its rows 0 to 7 arrive, in this order; rows of other slots may come
    between. Each new value is compared with the rows of its slot that came before: it ranks behind
    those that are at least as large, and each smaller one of them moves back by one. With
    `use_rank` the `essential` first are essential, otherwise those with z >= theta. A row that does
    not exist is never essential; no existing one may follow it.

    The mask leaves :attr:`latency` cycles after row 7; throughput is one value a cycle, of any
    slot: values of one slot in consecutive cycles see each other. Bit for bit
    :func:`sinai.common.arithmetic.select_rank` and `select_threshold`.

    Source: paper, section 3.5 (structured selection of N of 8); ranking while the values arrive
    is ours.

    Parameters
    ----------
    slots : int
        Z, groups under way at once; 1 to 16.
    contract : Contract
        Gives `rank`, the register stages. Of two, one is behind the comparisons and one behind the
        mask; more or fewer are spread evenly, the later ones first.

    Members
    -------
    valid : ``In(1)``
        A value is offered, and taken.
    z : ``In(signed(16))``
        The value.
    slot : ``In(range(slots))``
        Its group.
    row : ``In(range(8))``
        Its place in the group.
    exists : ``In(1)``
        Whether the group has this row.
    use_rank : ``In(1)``
        Of the layer; held while values are under way, as are the next two.
    essential : ``In(range(9))``
        N.
    theta : ``In(signed(17))``
        Threshold, -32768 to 32768.
    o_valid : ``Out(1)``
        A mask is complete.
    o_slot : ``Out(range(slots))``
        Its slot.
    o_mask : ``Out(8)``
        Bit i is set if row i is essential.

    Raises
    ------
    ValueError
        If `slots` is out of range.
    """

    def __init__(self, slots: int, *, contract: Contract = CONTRACT):
        if not 1 <= slots <= 16:
            raise ValueError(f"Slots must be between 1 and 16, not {slots!r}")
        self.slots = slots
        self.contract = contract
        bits = max(1, ceil_log2(slots))
        super().__init__(
            {
                "valid": In(1),
                "z": In(signed(16)),
                "slot": In(bits),
                "row": In(range(GROUP)),
                "exists": In(1),
                "use_rank": In(1),
                "essential": In(range(GROUP + 1)),
                "theta": In(signed(17)),
                "o_valid": Out(1),
                "o_slot": Out(bits),
                "o_mask": Out(GROUP),
            }
        )

    @property
    def module_name(self) -> str:
        """Name of its Verilog module: sinai_ranker_SLOTS."""
        return f"sinai_ranker_{self.slots}"

    @property
    def latency(self) -> int:
        """Cycles from row 7 of a group to its mask."""
        return self.contract.rank

    def elaborate(self, platform):
        m = Module()
        depth = max(2, self.slots)
        behind = [self.latency // 2, (self.latency + 1) // 2]

        # Values so far, and the new one compared with those of its slot.
        m.submodules.values = values = Memory(
            shape=ArrayLayout(signed(16), GROUP), depth=depth, init=[]
        )
        old = values.read_port(domain="comb")
        store = values.write_port(granularity=1)
        here = Signal(GROUP)
        larger, at_least = Signal(GROUP), Signal(GROUP)
        keep = Signal()
        m.d.comb += [
            here.bit_select(self.row, 1).eq(1),
            old.addr.eq(self.slot),
            store.addr.eq(self.slot),
            store.data.eq(Cat(self.z for _ in range(GROUP))),
            store.en.eq(Mux(self.valid, here, 0)),
            keep.eq(self.exists & (self.use_rank | reaches(self.z, self.theta))),
        ]
        for n in range(GROUP):
            earlier = here[n + 1 :].any()
            beats = Signal(name=f"beats_{n}")
            m.d.comb += [
                beats.eq(self.z > old.data[n]),
                larger[n].eq(self.exists & beats),  # of later rows too: they begin anew
                at_least[n].eq(earlier & ~beats),
            ]
        valid, slot, here, larger, at_least, keep = delay(
            m, behind[0], self.valid, self.slot, here, larger, at_least, keep
        )

        # Places so far: read, brought up to date and written in one cycle.
        m.submodules.places = places = Memory(
            shape=ArrayLayout(_PLACE, GROUP), depth=depth, init=[]
        )
        before = places.read_port(domain="comb")
        after = places.write_port()
        own = Signal(ceil_log2(GROUP))
        mask, done = Signal(GROUP), Signal()
        m.d.comb += [
            before.addr.eq(slot),
            after.addr.eq(slot),
            after.en.eq(valid),
            own.eq(popcount(at_least)),
            done.eq(valid & here[-1]),
        ]
        for n in range(GROUP):
            was, new = before.data[n], after.data[n]
            first = Signal(name=f"first_{n}")
            m.d.comb += [
                new.rank.eq(Mux(here[n], own, was.rank + larger[n])),
                new.keep.eq(Mux(here[n], keep, was.keep)),
                first.eq(self.essential[-1] | (new.rank < self.essential[:-1])),
                mask[n].eq(new.keep & (first | ~self.use_rank)),
            ]

        done, slot, mask = delay(m, behind[1], done, slot, mask)
        m.d.comb += [self.o_valid.eq(done), self.o_slot.eq(slot), self.o_mask.eq(mask)]

        return m
