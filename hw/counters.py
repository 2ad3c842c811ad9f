"""Counters: where the cycles of a program go."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out

from ..common.contract import STALL_CAUSES

__all__ = ["COUNTERS", "COUNTER_BITS", "COUNTS", "CauseCounters"]

#: Width of a counter: at 1 GHz it holds three days.
COUNTER_BITS = 48

#: What is counted, and what that means.
COUNTERS: dict[str, str] = {
    "cycles": "cycles in which descriptors are announced that are not done: busy and all causes",
    "busy": "of those, cycles in which a VPU issues",
    "approximate_busy": "of those, cycles in which it issues for APPROXIMATE",
    **{
        f"stall_{name}": "of those, cycles without a compute under way"
        if name == "dma"
        else f"of those, cycles of computes without issue, of cause {name}"
        for name in STALL_CAUSES
    },
    "cycles_load": "cycles of LOADs, waits for the stream included, waits for computes not",
    "cycles_store": "cycles of STOREs likewise",
    "steps": "steps (a tile, approximate or exact) that are over",
}

#: The counters, side by side.
COUNTS = StructLayout(dict.fromkeys(COUNTERS, COUNTER_BITS))


class CauseCounters(wiring.Component):
    """Counts every cycle of a program once: as busy, or under the first cause that holds.

    While `running`, each cycle counts in `cycles` and either in `busy` or, without it, under the
    first bit of `causes`, in the order of :data:`sinai.common.contract.STALL_CAUSES`. There is no
    remainder: that some cause holds is the duty of the engine, and `fault` says that none did. So
    cycles = busy + the sum of all stalls as long as `fault` stays low.

    Counters have 48 bits and wrap. A cycle counts in the next one.

    Members
    -------
    clear : ``In(1)``
        All counters become 0; the cycle itself does not count.
    running : ``In(1)``
        A program is under way.
    busy, approximate : ``In(1)``
        At least one VPU issues, and it does so for APPROXIMATE.
    causes : ``In(len(STALL_CAUSES))``
        Bit n: cause n holds. Looked at only in a running cycle that is not busy.
    loading, storing : ``In(1)``
        A LOAD, a STORE is under way.
    step : ``In(1)``
        A step is over.
    counts : ``Out(COUNTS)``
        The counters, by the names of :data:`COUNTERS`.
    fault : ``Out(1)``
        This cycle is running, not busy, and no cause holds.
    """

    clear: In(1)
    running: In(1)
    busy: In(1)
    approximate: In(1)
    causes: In(len(STALL_CAUSES))
    loading: In(1)
    storing: In(1)
    step: In(1)
    counts: Out(COUNTS)
    fault: Out(1)

    def elaborate(self, platform):
        m = Module()
        busy, stalled = Signal(), Signal()
        m.d.comb += [
            busy.eq(self.running & self.busy),
            stalled.eq(self.running & ~self.busy),
            self.fault.eq(stalled & ~self.causes.any()),
        ]
        events = {
            "cycles": self.running,
            "busy": busy,
            "approximate_busy": busy & self.approximate,
            "cycles_load": self.loading,
            "cycles_store": self.storing,
            "steps": self.step,
        }
        for index, name in enumerate(STALL_CAUSES):
            first = self.causes[index] & ~self.causes[:index].any()
            events[f"stall_{name}"] = stalled & first
        for name in COUNTERS:
            with m.If(self.clear):
                m.d.sync += self.counts[name].eq(0)
            with m.Elif(events[name]):
                m.d.sync += self.counts[name].eq(self.counts[name] + 1)
        return m
