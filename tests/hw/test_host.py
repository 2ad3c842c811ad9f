# amaranth: UnusedElaboratable=no
"""The host port: registers as the table says, faults kept and cleared, good programs after bad."""

import json

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib.wiring import Component, In, Out

from sinai.common.descriptor import (
    COMPUTE,
    TRANSFER,
    Fault,
    Flag,
    Target,
    compute_fields,
    pack,
    transfer_fields,
)
from sinai.common.machine import PRESETS
from sinai.common.rules import fetch_cycles
from sinai.hw.counters import COUNTERS, CauseCounters
from sinai.hw.dma import Dma
from sinai.hw.host import HostPort
from sinai.hw.queue import DescriptorQueue
from sinai.hw.registers import (
    COMPUTE_SLOTS,
    TRANSFER_SLOTS,
    describe,
    digest,
    registers,
    windows,
)

S = PRESETS["structured-small"]
REGISTERS = {register.name: register for register in registers(S)}
TRANSFERS, COMPUTES = windows(S)


class Host:
    """Reads and writes of a port with the names of `HostPort`."""

    def __init__(self, port, ctx):
        self.port, self.ctx = port, ctx

    async def write(self, where, value):
        address = REGISTERS[where].address if isinstance(where, str) else where
        self.ctx.set(self.port.valid, 1)
        self.ctx.set(self.port.write, 1)
        self.ctx.set(self.port.address, address)
        self.ctx.set(self.port.write_data, int(value))
        assert self.ctx.get(self.port.ready)
        await self.ctx.tick()
        self.ctx.set(self.port.valid, 0)
        assert not self.ctx.get(self.port.read_valid)

    async def read(self, where):
        address = REGISTERS[where].address if isinstance(where, str) else where
        self.ctx.set(self.port.valid, 1)
        self.ctx.set(self.port.write, 0)
        self.ctx.set(self.port.address, address)
        assert self.ctx.get(self.port.ready)
        await self.ctx.tick()
        self.ctx.set(self.port.valid, 0)
        assert self.ctx.get(self.port.read_valid)
        return self.ctx.get(self.port.read_data)

    async def announce(self, transfers, computes):
        await self.write("TAIL", transfers | computes << 16)

    async def status(self):
        word = await self.read("STATUS")
        return {
            bits.name: word >> bits.low & ((1 << bits.width) - 1)
            for bits in REGISTERS["STATUS"].bits
        }

    async def ask(self, name):
        part = next(bits for bits in REGISTERS["CONTROL"].bits if bits.name == name)
        await self.write("CONTROL", 1 << part.low)


@pytest.mark.parametrize("name", PRESETS)
def test_table(name):
    """Names and addresses are unique, parts do not overlap, and windows lie apart."""
    table = registers(PRESETS[name])
    addresses = [register.address for register in table]
    assert len({register.name for register in table}) == len(table)
    assert addresses == sorted(set(addresses))
    for register in table:
        assert register.address % 4 == 0
        assert 0 <= register.reset < 1 << 32
        taken = 0
        for bits in register.bits:
            mask = ((1 << bits.width) - 1) << bits.low
            assert mask < 1 << 32
            assert not taken & mask
            taken |= mask
        assert not register.reset & ~taken
    end = addresses[-1] + 4
    for window, words in zip(windows(PRESETS[name]), (10, 65), strict=True):
        assert window.address >= end
        assert window.slot_bytes >= 4 * words
        end = window.address + window.size
    assert end <= 1 << 16


def test_description_is_json():
    """What registers.json holds names every register, field and code, and reads back the same."""
    described = json.loads(json.dumps(describe(S)))
    assert [entry["name"] for entry in described["registers"]] == list(REGISTERS)
    stride = described["descriptors"]["TRANSFER"]["fields"][5]
    assert (stride["name"], stride["word"], stride["code"]) == ("stride", 6, 21)
    assert described["descriptors"]["COMPUTE"]["header"] == COMPUTE
    assert described["faults"]["STALLED"] == 3
    assert described["windows"][0]["size"] == TRANSFER_SLOTS * TRANSFERS.slot_bytes


def test_digest_tells_machines_apart():
    assert len({digest(machine) for machine in PRESETS.values()}) == len(PRESETS)
    assert digest(S) == digest(S.model_copy())


def test_reset_values_and_access(simulate):
    """Every register reads its reset value; only tails keep what is written; elsewhere is 0."""
    dut = HostPort(S)

    async def bench(ctx):
        host = Host(dut, ctx)
        for register in REGISTERS.values():
            assert await host.read(register.address) == register.reset, register.name
        for address in (0x0C, 0x18, 0x28, 0x30, 0xFC, TRANSFERS.address, COMPUTES.address, 0xFFFC):
            assert await host.read(address) == 0
            await host.write(address, 0xFFFFFFFF)
        for register in REGISTERS.values():
            if register.access == "ro":
                await host.write(register.address, 0xFFFFFFFF)
        for register in REGISTERS.values():
            assert await host.read(register.address) == register.reset, register.name
        await host.write("TAIL", 0xABCD1234)
        assert await host.read("TAIL") == 0xABCD1234
        assert (ctx.get(dut.transfer_tail), ctx.get(dut.compute_tail)) == (0x1234, 0xABCD)
        await ctx.tick()
        assert not ctx.get(dut.read_valid)

    simulate(dut, bench, limit=300)


def test_slot_writes(simulate):
    """A word of a slot reaches its queue at its address, and registers reach none."""
    dut = HostPort(S)
    rng = np.random.default_rng(1)

    async def bench(ctx):
        ctx.set(dut.valid, 1)
        for _ in range(300):
            address = int(rng.integers(1 << 14)) & ~3
            write, data = int(rng.integers(4) > 0), int(rng.integers(1 << 32))
            for name, value in (("write", write), ("address", address), ("write_data", data)):
                ctx.set(getattr(dut, name), value)
            for window, strobe in ((TRANSFERS, dut.transfer_write), (COMPUTES, dut.compute_write)):
                inside = 0 <= address - window.address < window.size
                assert ctx.get(strobe) == (write and inside)
                if inside:
                    slot_address = ctx.get(dut.slot_address) % (window.size // 4)
                    assert slot_address == (address - window.address) // 4
                    assert ctx.get(dut.slot_data) == data
            await ctx.tick()

    simulate(dut, bench, limit=400)


def test_counters_read_whole(simulate):
    """HIGH belongs to the LOW read before it, whatever the counter has done since."""
    dut = HostPort(S)

    async def bench(ctx):
        host = Host(dut, ctx)
        for number, name in enumerate(COUNTERS):
            value = (0x1000 + number << 32) - 1
            ctx.set(dut.counts[name], value)
            low = await host.read(f"{name.upper()}_LOW")
            ctx.set(dut.counts[name], value + 1)
            await host.read("STATUS")
            high = await host.read(f"{name.upper()}_HIGH")
            assert (high << 32) + low == value

    simulate(dut, bench, limit=200)


def test_control(simulate):
    """START and RESET clear tails and pulse `abort`, START only when idle; CLEAR pulses `clear`."""
    dut = HostPort(S)

    async def bench(ctx):
        host = Host(dut, ctx)

        async def pulses(name):
            await host.ask(name)
            first = ctx.get(dut.abort), ctx.get(dut.clear)
            await ctx.tick()
            assert not ctx.get(dut.abort)
            assert not ctx.get(dut.clear)
            return first

        assert await pulses("CLEAR") == (0, 1)
        assert await pulses("START") == (1, 0)
        assert await pulses("RESET") == (1, 0)
        await host.announce(5, 6)
        assert (await host.status())["BUSY"]
        assert await pulses("START") == (0, 0)
        assert await host.read("TAIL") == 5 | 6 << 16
        ctx.set(dut.transfer_head, 5)
        ctx.set(dut.compute_head, 6)
        status = await host.status()
        assert (status["BUSY"], status["IDLE"]) == (0, 1)
        await host.write("CONTROL", 0xFFFFFFF8)
        assert not ctx.get(dut.abort)
        assert await pulses("START") == (1, 0)
        assert await host.read("TAIL") == 0

    simulate(dut, bench, limit=100)


def test_first_fault_is_kept(simulate):
    """Code, queue and slot of the first one; that of computes of two; cleared by RESET alone."""
    dut = HostPort(S)

    async def bench(ctx):
        host = Host(dut, ctx)
        for transfer, compute, code, queue, slot in (
            (33, 0, 33, 0, 45 % TRANSFER_SLOTS),
            (0, 70, 70, 1, 13 % COMPUTE_SLOTS),
            (1, 2, 2, 1, 13 % COMPUTE_SLOTS),
        ):
            ctx.set(dut.transfer_head, 45)
            ctx.set(dut.compute_head, 13)
            ctx.set(dut.transfer_error, transfer)
            ctx.set(dut.compute_error, compute)
            await ctx.tick()
            assert ctx.get(dut.stopped)
            ctx.set(dut.transfer_error, 99)
            ctx.set(dut.compute_error, 99)
            await host.ask("START")
            await host.ask("CLEAR")
            status = await host.status()
            seen = [status[name] for name in ("STOPPED", "IDLE", "ERROR", "QUEUE", "SLOT")]
            assert seen == [1, 0, code, queue, slot]
            await host.ask("RESET")
            await ctx.tick()  # a queue drops its error in the cycle of `abort`
            ctx.set(dut.transfer_error, 0)
            ctx.set(dut.compute_error, 0)
            assert not ctx.get(dut.stopped)
            status = await host.status()
            assert [status[name] for name in ("STOPPED", "ERROR", "QUEUE", "SLOT")] == [0, 0, 0, 0]

    simulate(dut, bench, limit=100)


def test_uncounted_cycle_is_kept(simulate):
    dut = HostPort(S)

    async def bench(ctx):
        host = Host(dut, ctx)
        ctx.set(dut.uncounted, 1)
        await ctx.tick()
        ctx.set(dut.uncounted, 0)
        assert (await host.status())["UNCOUNTED"] == 1
        await host.ask("CLEAR")
        await ctx.tick()
        assert (await host.status())["UNCOUNTED"] == 0

    simulate(dut, bench, limit=20)


@pytest.mark.parametrize(("transfers", "computes", "queue"), [(1, 0, 0), (1, 1, 1), (0, 1, 1)])
def test_watchdog(simulate, transfers, computes, queue):
    """STALLED after so many cycles in a row without progress, no cycle sooner; never while idle."""
    dut = HostPort(S, watchdog=20)

    async def bench(ctx):
        host = Host(dut, ctx)
        for _ in range(50):
            await ctx.tick()
            assert not ctx.get(dut.stopped)
        await host.announce(transfers, computes)
        for quiet in (10, 19):
            ctx.set(dut.progress, 1)
            await ctx.tick()
            ctx.set(dut.progress, 0)
            for _ in range(quiet):
                await ctx.tick()
                assert not ctx.get(dut.stopped)
        ctx.set(dut.progress, 1)
        await ctx.tick()
        ctx.set(dut.progress, 0)
        for _ in range(20):
            assert not ctx.get(dut.stopped)
            await ctx.tick()
        assert ctx.get(dut.stopped)
        status = await host.status()
        assert (status["ERROR"], status["QUEUE"]) == (Fault.STALLED, queue)

    simulate(dut, bench, limit=200)


class Border(Component):
    """Host port, queues, transfers and counters joined; a compute is a wait of `duration`."""

    host_ports = ("valid", "write", "address", "write_data", "ready", "read_data", "read_valid")

    def __init__(self, machine, watchdog):
        self.machine = machine
        self.host = HostPort(machine, watchdog=watchdog)
        self.dma = Dma(machine)
        self.queues = {
            "transfer": DescriptorQueue(machine, "transfer", slots=TRANSFER_SLOTS),
            "compute": DescriptorQueue(machine, "compute", slots=COMPUTE_SLOTS),
        }
        super().__init__({"duration": In(8), "running": Out(1)})
        for name in self.host_ports:
            setattr(self, name, getattr(self.host, name))

    def elaborate(self, platform):
        m = Module()
        m.submodules.host, m.submodules.dma = host, dma = self.host, self.dma
        m.submodules.counters = counters = CauseCounters()
        for name, queue in self.queues.items():
            m.submodules[name] = queue
            m.d.comb += [
                queue.write_en.eq(getattr(host, f"{name}_write")),
                queue.write_address.eq(host.slot_address),
                queue.write_data.eq(host.slot_data),
                queue.tail.eq(getattr(host, f"{name}_tail")),
                queue.hold.eq(host.stopped),
                queue.abort.eq(host.abort),
                getattr(host, f"{name}_head").eq(queue.head),
                getattr(host, f"{name}_error").eq(queue.error),
            ]
        transfers, computes = self.queues.values()
        left = Signal(8)
        m.d.comb += [
            dma.valid.eq(transfers.valid),
            dma.fields.eq(transfers.fields),
            dma.computes_done.eq(computes.head),
            dma.abort.eq(host.abort),
            dma.store_row.eq(dma.store_address),
            transfers.take.eq(dma.take),
            computes.take.eq(left == 1),
            self.running.eq(left != 0),
            counters.clear.eq(host.clear),
            counters.running.eq(self.running),
            counters.busy.eq(1),
            counters.loading.eq(dma.loading),
            counters.storing.eq(dma.storing),
            host.counts.eq(counters.counts),
            host.uncounted.eq(counters.fault),
            host.progress.eq(dma.progress | self.running),
        ]
        with m.If(host.abort):
            m.d.sync += left.eq(0)
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
        with m.Elif(computes.valid & (transfers.head >= computes.fields.wait)):
            m.d.sync += left.eq(self.duration)
        return m


def compute(**changes):
    """A compute descriptor of one pixel and channel, dense."""
    values = {field.name: max(field.low, min(field.high, 0)) for field in compute_fields(S)}
    values |= {"flags": int(Flag.EXACT), **changes}
    return pack(COMPUTE, compute_fields(S), values)


def transfer(target, **changes):
    values = {field.name: field.low for field in transfer_fields(S)}
    return pack(TRANSFER, transfer_fields(S), {**values, "target": int(target), **changes})


async def write_all(host, window, descriptors):
    for slot, words in enumerate(descriptors):
        for index, word in enumerate(words):
            await host.write(window.address + slot * window.slot_bytes + 4 * index, word)


async def good_program(host, ctx, border):
    """LOAD of 4 words, a compute behind it, STORE of 3 rows behind that: all done, all counted."""
    await host.ask("START")
    await host.ask("CLEAR")
    await write_all(
        host, TRANSFERS, [transfer(Target.X, inner=2), transfer(Target.STORE_Y, inner=3, wait=1)]
    )
    await write_all(host, COMPUTES, [compute(wait=1)])
    await host.announce(2, 1)
    ctx.set(border.dma.i.valid, 1)
    ctx.set(border.dma.o.ready, 1)
    ctx.set(border.duration, 9)
    for _ in range(200):
        if (await host.status())["IDLE"]:
            break
    assert (await host.status())["IDLE"]
    seen = {name: await host.read(f"{name.upper()}_LOW") for name in COUNTERS}
    # A LOAD of n words takes n + 2 cycles, a STORE n + 5; see test_dma.py.
    expected = {"cycles": 9, "busy": 9, "cycles_load": 4 + 2, "cycles_store": 3 + 5}
    assert seen == {**dict.fromkeys(COUNTERS, 0), **expected}
    assert await host.read("HEAD") == 2 | 1 << 16
    ctx.set(border.dma.i.valid, 0)
    ctx.set(border.dma.o.ready, 0)


def test_good_program_after_every_bad_one(simulate):
    """Faults of both queues, a stall, and resets in mid-program: then a good program passes."""
    border = Border(S, watchdog=300)
    wide = transfer_fields(S)[3].high
    bad = [
        (TRANSFERS, transfer(12), 17, 0),
        (TRANSFERS, transfer(Target.X, inner=wide), Fault.COMBINATION, 0),
        (TRANSFERS, compute()[:10], Fault.HEADER, 0),
        (TRANSFERS, [*transfer(Target.X)[:9], 1], Fault.SUM, 0),
        (COMPUTES, compute(kernel=0), 16 + 16, 1),
        (COMPUTES, compute(flags=0), Fault.COMBINATION, 1),
        (COMPUTES, compute(wait=1), Fault.STALLED, 1),
        (TRANSFERS, transfer(Target.X, wait=1), Fault.STALLED, 0),
        (TRANSFERS, transfer(Target.X), Fault.STALLED, 0),
    ]

    async def bench(ctx):
        host = Host(border, ctx)
        await good_program(host, ctx, border)
        for window, words, code, queue in bad:
            await host.ask("START")
            await write_all(host, window, [words])
            await host.announce(*((0, 1) if queue else (1, 0)))
            limit = 300 if code is Fault.STALLED else fetch_cycles(S, "compute")
            for _ in range(limit + 5):
                await ctx.tick()
            status = await host.status()
            seen = [status[name] for name in ("STOPPED", "ERROR", "QUEUE", "SLOT")]
            assert seen == [1, code, queue, 0]
            await host.ask("RESET")
            await ctx.tick()
            assert (await host.status())["IDLE"]
            await good_program(host, ctx, border)

    simulate(border, bench, limit=8000)


def test_reset_in_mid_program(simulate):
    """RESET in any phase of a program leaves nothing behind."""
    border = Border(S, watchdog=1000)

    async def bench(ctx):
        host = Host(border, ctx)
        for delay in range(0, 130, 9):
            await host.ask("START")
            await write_all(
                host,
                TRANSFERS,
                [transfer(Target.X, inner=2), transfer(Target.STORE_Y, inner=9, wait=1)],
            )
            await write_all(host, COMPUTES, [compute(wait=1)])
            ctx.set(border.duration, 9)
            ctx.set(border.dma.i.valid, 1)
            ctx.set(border.dma.o.ready, delay % 2)
            await host.announce(2, 1)
            for _ in range(delay):
                await ctx.tick()
            await host.ask("RESET")
            await ctx.tick()
            assert not ctx.get(border.dma.o.valid)
            assert not ctx.get(border.dma.i.ready)
            assert not ctx.get(border.running)
            assert (await host.status())["IDLE"]
            await good_program(host, ctx, border)

    simulate(border, bench, limit=8000)


def test_short_watchdog_is_refused():
    with pytest.raises(ValueError, match="Watchdog must wait at least 2 cycles, not 1"):
        HostPort(S, watchdog=1)
