"""What the tests of the hardware share: a bounded, cycle-by-cycle test bench."""

import pytest
from amaranth.hdl import Value
from amaranth.lib.wiring import In
from amaranth.sim import Simulator


class Bench:
    """Drives the ports of `dut`, which has a port `valid`, and watches `outputs`, by port name.

    May be called many times: each call starts from reset, and spares building the simulator anew.
    """

    def __init__(self, dut, outputs):
        self.dut = dut
        members = dut.signature.members.items()
        self.inputs = {
            name: Value.cast(getattr(dut, name)) for name, member in members if member.flow == In
        }
        self.watched = [getattr(dut, name) for name in outputs]
        self.cycles, self.seen = [], None
        self.sim = Simulator(dut)
        self.sim.add_clock(1e-6)
        self.sim.add_testbench(self._drive)

    def __call__(self, cycles, *, drain=0, limit=1000):
        """Put the ports of `cycles` (one dict a cycle) on the design, then idle for `drain` cycles.

        Return, for each cycle, the tuple of outputs as the next clock edge sees them. In a cycle
        without `valid` every other input is inverted, since nothing may depend on it. More than
        `limit` cycles in all are refused, so that a failure is cheap to shrink.
        """
        self.cycles = [*cycles, *[{}] * drain]
        assert len(self.cycles) <= limit, f"{len(self.cycles)} cycles, more than {limit}"
        if self.seen is not None:
            self.sim.reset()
        self.seen = []
        self.sim.run()
        return self.seen

    async def _drive(self, ctx):
        for values in self.cycles:
            for name, port in self.inputs.items():
                idle = 0 if name == "valid" else ~ctx.get(port)
                ctx.set(port, values.get(name, idle))
            _clock, _reset, *outputs = await ctx.tick().sample(*self.watched)
            self.seen.append(tuple(int(value) for value in outputs))


@pytest.fixture(scope="session")
def bench():
    """The class `Bench`."""
    return Bench
