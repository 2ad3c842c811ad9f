"""What the tests of the hardware share: bounded test benches, and Verilog as users get it."""

import functools

import pytest
from amaranth.hdl import Value
from amaranth.lib.wiring import In
from amaranth.sim import Simulator

from sinai.common.descriptor import compute_fields
from sinai.common.machine import PRESETS, Machine
from sinai.hw.verilog import write


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


@pytest.fixture(scope="session")
def simulate():
    """Function that runs test benches, coroutines of the simulator's context, until all return."""

    def run(dut, *benches, limit):
        """Fail after `limit` cycles: without a limit a lost word is a test that never ends."""

        async def watchdog(ctx):
            for _ in range(limit):
                await ctx.tick()
            raise TimeoutError(f"A test bench is still waiting after {limit} cycles")

        sim = Simulator(dut)
        sim.add_clock(1e-6)
        for each in benches:
            sim.add_testbench(each)
        sim.add_testbench(watchdog, background=True)
        sim.run()

    return run


class Stepped:
    """Runs scripts, coroutines of the simulator's context, on `dut`; each starts from reset.

    A script counts its cycles, in a loop over a range, so that it ends whatever the design does.
    """

    def __init__(self, dut):
        self.dut = dut
        self.script = None
        self.sim = Simulator(dut)
        self.sim.add_clock(1e-6)
        self.sim.add_testbench(self._run)

    def __call__(self, script):
        if self.script is not None:
            self.sim.reset()
        self.script = script
        self.sim.run()

    async def _run(self, ctx):
        await self.script(ctx)


@pytest.fixture(scope="session")
def stepped():
    """The class `Stepped`."""
    return Stepped


@pytest.fixture(scope="session")
def small():
    """Function from a kind, with fields of :class:`Machine` to change, to a small machine."""

    def make(kind, **changes):
        return Machine.model_validate(PRESETS[f"{kind}-small"].model_dump() | changes)

    return make


@pytest.fixture(scope="session")
def descriptor():
    """Function from a machine, with fields to set, to those of a COMPUTE; others are harmless."""

    def make(machine, **values):
        fields = {field.name: max(field.low, 0) for field in compute_fields(machine)}
        assert values.keys() <= fields.keys()
        return fields | {name: int(value) for name, value in values.items()}

    return make


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """Function from a preset and a place of memories to the folder that `write` filled, once."""

    @functools.cache
    def folder(name, memories="flat"):
        made = tmp_path_factory.mktemp(f"{name}-{memories}") / "made" / "on-the-way"
        write(PRESETS[name], made, memories=memories)
        return made

    return folder
