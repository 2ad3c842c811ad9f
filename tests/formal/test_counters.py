"""Proof that every cycle of a compute counts exactly once, from any state of the counters."""

import pytest
from amaranth.hdl import Assert, Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from sinai.common.contract import STALL_CAUSES
from sinai.hw import counters
from sinai.hw.counters import COUNTERS
from sinai.hw.pipeline import popcount

STALLS = [f"stall_{name}" for name in STALL_CAUSES]


class CountersProof(wiring.Component):
    """One cycle of any inputs, from any counts: what each counter does."""

    clear: In(1)
    running: In(1)
    busy: In(1)
    approximate: In(1)
    causes: In(len(STALL_CAUSES))
    loading: In(1)
    storing: In(1)
    step: In(1)

    def __init__(self, dut):
        self.dut = dut
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.dut
        inputs = {name: getattr(self, name) for name in self.signature.members}
        m.d.comb += [getattr(dut, name).eq(port) for name, port in inputs.items()]

        # The cycle before: its inputs, its counts, its fault.
        later = Signal()
        was = {name: Signal.like(port, name=f"was_{name}") for name, port in inputs.items()}
        counts = {name: Signal(48, name=f"old_{name}") for name in COUNTERS}
        fault = Signal()
        m.d.sync += [
            later.eq(1),
            fault.eq(dut.fault),
            *(was[name].eq(port) for name, port in inputs.items()),
            *(count.eq(dut.counts[name]) for name, count in counts.items()),
        ]
        more = {name: dut.counts[name] != count for name, count in counts.items()}

        with m.If(later & was["clear"]):
            m.d.comb += Assert(~Cat(dut.counts[name] for name in COUNTERS).any())
        with m.Elif(later):
            for name, count in counts.items():
                wanted = (count + more[name])[:48]
                m.d.comb += Assert(dut.counts[name] == wanted, f"{name} grows by at most 1")
            kinds = [more[name] for name in ("busy", *STALLS)]
            told = was["busy"] | was["causes"].any()
            m.d.comb += [
                Assert(more["cycles"] == was["running"]),
                Assert(fault == (was["running"] & ~told)),
                Assert(popcount(Cat(kinds)) == (was["running"] & told)),
                Assert(more["busy"] == (was["running"] & was["busy"])),
                Assert(more["approximate_busy"] == (more["busy"] & was["approximate"])),
                Assert(more["cycles_load"] == was["loading"]),
                Assert(more["cycles_store"] == was["storing"]),
                Assert(more["steps"] == was["step"]),
            ]
            for index, name in enumerate(STALLS):
                with m.If(more[name]):
                    first = was["causes"][index] & ~was["causes"][:index].any()
                    m.d.comb += Assert(first, f"{name} was not the first cause that held")
        return m


def test_every_cycle_counts_once(holds):
    assert holds(CountersProof(counters.CauseCounters()), cycles=2, free=True)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        pytest.param("stalled & first", "self.running & first", id="busy cycles count twice"),
        pytest.param(
            "& ~self.causes[:index].any()", "| self.causes[:index].any()", id="not the first"
        ),
    ],
)
def test_fault_is_found(holds, planted, right, wrong):
    faulty = planted(counters, right, wrong)
    assert not holds(CountersProof(faulty.CauseCounters()), cycles=2, free=True)
