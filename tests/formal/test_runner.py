"""The runner of the proofs itself: what is true holds, what is false does not, and when."""

from amaranth.hdl import Assert, Assume, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out


class Steps(wiring.Component):
    """Counts the cycles with `step`, and keeps a bit in a memory of two."""

    step: In(1)
    count: Out(4)
    bit: Out(1)

    def elaborate(self, platform):
        m = Module()
        m.submodules.bits = bits = Memory(shape=1, depth=2, init=[])
        read = bits.read_port(domain="comb")
        write = bits.write_port()
        m.d.comb += [
            self.bit.eq(read.data),
            write.addr.eq(1),
            write.data.eq(1),
            write.en.eq(self.step),
        ]
        with m.If(self.step):
            m.d.sync += self.count.eq(self.count + 1)
        return m


class StepsProof(wiring.Component):
    """The count stays below `bound`; `always` assumes a step in each cycle; the bit stays 0."""

    step: In(1)

    def __init__(self, bound, *, always=False):
        self.bound = bound
        self.always = always
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = Steps()
        cycle = Signal(4)
        m.d.sync += cycle.eq(cycle + 1)
        m.d.comb += [dut.step.eq(self.step), Assert(dut.count < self.bound), Assert(~dut.bit)]
        if self.always:
            m.d.comb += [Assume(self.step), Assert(dut.count == cycle)]
        return m


def test_assertion_holds_as_long_as_it_does(holds):
    """From reset the count is n at most in cycle n, and 3 in cycle 3 at the earliest."""
    assert holds(StepsProof(3), cycles=3)
    assert not holds(StepsProof(3), cycles=4)


def test_assumption_is_kept(holds):
    """Only with it the count equals the number of cycles."""
    assert holds(StepsProof(9, always=True), cycles=9)
    assert not holds(StepsProof(9, always=True), cycles=10)


def test_free_start_is_any_count_and_any_bit(holds):
    """The registers, and the memory, of the design may hold anything; those of the proof not."""
    assert not holds(StepsProof(15), cycles=1, free=True)
    assert not holds(StepsProof(16), cycles=1, free=True)
    assert holds(StepsProof(16), cycles=1)
