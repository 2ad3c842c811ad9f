"""What the tests of the hardware share: a bounded simulation and a cycle-by-cycle driver."""

import pytest
from amaranth.sim import Simulator


def run(dut, cycles, outputs, *, drain=0, limit=5000):
    """Put the ports of `cycles` (one dict a cycle) on `dut`, then `drain` cycles of its idle ports.

    Return, for each cycle, the tuple of `outputs` as the next clock edge sees them. A port that a
    dict leaves out keeps its value, except `valid`, which falls. More than `limit` cycles in all
    are refused, so that a failure is cheap to shrink.
    """
    total = len(cycles) + drain
    assert total <= limit, f"{total} cycles are more than the limit of {limit}"
    watched = [getattr(dut, name) for name in outputs]
    seen = []

    async def testbench(ctx):
        for values in [*cycles, *[{}] * drain]:
            ctx.set(dut.valid, 0)
            for name, value in values.items():
                ctx.set(getattr(dut, name), value)
            _clock, _reset, *values = await ctx.tick().sample(*watched)
            seen.append(tuple(int(value) for value in values))

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(testbench)
    sim.run()
    return seen


@pytest.fixture(scope="session")
def simulate():
    """The function `run`, for tests under Hypothesis too."""
    return run
