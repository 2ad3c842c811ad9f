"""Proof that the rank selection is the stable top N of a group, for every eight values."""

import pytest
from amaranth.hdl import Assert, Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from sinai.common.contract import CONTRACT
from sinai.hw import ranker
from sinai.hw.pipeline import popcount
from sinai.hw.ranker import GROUP


class RankerProof(wiring.Component):
    """Rows 0 to 7 of slot 0, `gap` cycles apart, in which slot 1 does what it likes.

    Values, N and the number of rows are free, and so is what the ranker holds before. The mask of
    slot 0 comes in its cycle and no earlier, and is `claim`: "top", the existing rows of which
    fewer than N are larger, or equal and before; or "count", exactly min(N, rows) of them.
    """

    z: In(signed(16))
    more: In(3)
    few: In(4)
    other_valid: In(1)
    other_row: In(3)
    other_exists: In(1)

    def __init__(self, dut, claim, *, gap=0):
        self.dut = dut
        self.claim = claim
        self.gap = gap
        super().__init__()

    @property
    def cycles(self):
        """From row 0 to the mask."""
        return (GROUP - 1) * (self.gap + 1) + CONTRACT.rank + 1

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.dut
        end = self.cycles - 1
        cycle = Signal(range(end + 2))
        with m.If(cycle <= end):
            m.d.sync += cycle.eq(cycle + 1)

        # N, 0 to 8, and the rows that exist, 1 to 8: as they are in cycle 0.
        rows, essential = self._held(m, cycle, self.more), self._held(m, cycle, self.few)
        width, count = Signal(4), Signal(4)
        m.d.comb += [
            width.eq(rows + 1),
            count.eq(Mux(essential[3], GROUP, essential)),
            dut.use_rank.eq(1),
            dut.essential.eq(count),
            dut.z.eq(self.z),
        ]

        # A row of slot 0 every gap + 1 cycles, and slot 1 in between.
        values = [Signal(signed(16), name=f"value_{n}") for n in range(GROUP)]
        with m.Switch(cycle):
            for n in range(GROUP):
                with m.Case(n * (self.gap + 1)):
                    m.d.sync += values[n].eq(self.z)
                    m.d.comb += [
                        dut.valid.eq(1),
                        dut.slot.eq(0),
                        dut.row.eq(n),
                        dut.exists.eq(n < width),
                    ]
            with m.Default():
                m.d.comb += [
                    dut.valid.eq(self.other_valid),
                    dut.slot.eq(1),
                    dut.row.eq(self.other_row),
                    dut.exists.eq(self.other_exists),
                ]

        mask = Signal(GROUP)
        for n in range(GROUP):
            before = [(k < width) & (values[k] >= values[n]) for k in range(n)]
            behind = [(k < width) & (values[k] > values[n]) for k in range(n + 1, GROUP)]
            m.d.comb += mask[n].eq((n < width) & (popcount(Cat(before, behind)) < count))
        with m.If(cycle == end):
            m.d.comb += [Assert(dut.o_valid), Assert(dut.o_slot == 0)]
            if self.claim == "top":
                m.d.comb += Assert(dut.o_mask == mask)
            else:
                m.d.comb += Assert(popcount(dut.o_mask) == Mux(count < width, count, width))
        with m.Elif((cycle >= CONTRACT.rank) & (cycle < end)):
            m.d.comb += Assert(~(dut.o_valid & (dut.o_slot == 0)))
        return m

    def _held(self, m, cycle, port):
        """The port in cycle 0, from then on."""
        kept = Signal.like(port)
        with m.If(cycle == 0):
            m.d.sync += kept.eq(port)
        return Mux(cycle == 0, port, kept)


@pytest.mark.parametrize("gap", [0, 1, 2])
def test_mask_is_the_stable_top_of_the_group(holds, gap):
    """All values of 16 bits, all N, all numbers of rows, whatever other slots do in the gaps."""
    proof = RankerProof(ranker.Ranker(2), "top", gap=gap)
    assert holds(proof, cycles=proof.cycles, free=True)


def test_exactly_as_many_as_asked_for(holds):
    proof = RankerProof(ranker.Ranker(2), "count")
    assert holds(proof, cycles=proof.cycles, free=True)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        pytest.param("self.z > old.data[n]", "self.z >= old.data[n]", id="ties go to the later"),
        pytest.param("earlier & ~beats", "~beats", id="later rows count: old contents"),
        pytest.param("self.exists & (self.use_rank", "(self.use_rank", id="rows that do not exist"),
        pytest.param("after.addr.eq(slot)", "after.addr.eq(self.slot)", id="the wrong slot"),
        pytest.param("self.latency // 2, (", "1 + self.latency // 2, (", id="a cycle late"),
    ],
)
def test_fault_is_found(holds, planted, right, wrong):
    faulty = planted(ranker, right, wrong)
    proof = RankerProof(faulty.Ranker(2), "top", gap=1)
    assert not holds(proof, cycles=proof.cycles, free=True)


def test_one_too_many_is_found(holds, planted):
    faulty = planted(
        ranker, "(new.rank < self.essential[:-1])", "(new.rank <= self.essential[:-1])"
    )
    proof = RankerProof(faulty.Ranker(2), "count")
    assert not holds(proof, cycles=proof.cycles, free=True)
