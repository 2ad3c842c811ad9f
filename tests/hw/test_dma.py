# amaranth: UnusedElaboratable=no
"""Transfers: every row and word arrives, in the stated cycles, whatever the streams do."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from amaranth.sim import Simulator

from sinai.common.arithmetic import clamp, round_shift
from sinai.common.descriptor import (
    Target,
    memory_depth,
    memory_row_bits,
    target_memory,
    transfer_cycles,
)
from sinai.common.machine import PRESETS, Dma
from sinai.hw.dma import LOADS, STORES
from sinai.hw.dma import Dma as Transfers
from sinai.hw.words import pack, unpack

S, U = PRESETS["structured-small"], PRESETS["unstructured-small"]


def wide(machine, width):
    """The machine with a stream of `width` bytes."""
    return machine.model_copy(update={"dma": Dma(bytes_per_cycle=width)})


@dataclass
class Seen:
    """What a run did: rows written as (target, address, row), words given out, (start, end) and
    busy cycles of each transfer, words left over, cycles with loading, storing, progress."""

    rows: list = field(default_factory=list)
    words: list = field(default_factory=list)
    spans: list = field(default_factory=list)
    taken: int = 0
    loading: list = field(default_factory=list)
    storing: list = field(default_factory=list)
    progress: list = field(default_factory=list)


def run(machine, transfers, words, memory, *, pace=None, abort=None, limit=4000):
    """Run `transfers` (fields, by name) with `words` on the input stream and `memory(target,
    address)` to be stored. `pace` gives the streams, the queue and the computes their gaps; without
    it nobody ever waits. `abort` is a cycle, after which the list starts anew.
    """
    dut, seen = Transfers(machine), Seen()

    def chance(share):
        return True if pace is None else bool(pace.random() < share)

    async def bench(ctx):
        queue, source = list(transfers), list(words)
        done, gap, cycle = 0, 0, 0
        computes = 0
        share_in, share_out = (1, 1) if pace is None else pace.choice([0.1, 0.5, 0.9, 1], 2)
        offered, held, read, started = False, None, None, None
        garbage = np.random.default_rng(1)
        while done < len(transfers):
            assert cycle < limit, f"{done} of {len(transfers)} transfers within {limit} cycles"
            if pace is not None and computes < 40 and chance(0.1):
                computes += 1
            valid = bool(queue) and gap == 0
            ctx.set(dut.valid, valid)
            ctx.set(dut.computes_done, 40 if pace is None else computes)
            for name, value in (queue[0] if valid else {}).items():
                ctx.set(dut.fields[name], value)
            offered = offered or (bool(source) and chance(share_in))
            ctx.set(dut.i.valid, offered)
            ctx.set(dut.i.payload, source[0] if offered else int(garbage.integers(256)))
            ctx.set(dut.o.ready, chance(share_out))
            row = int(garbage.integers(256)) if read is None else memory(*read)
            ctx.set(dut.store_row, row)
            ctx.set(dut.abort, cycle == abort)
            if valid and started is None and ctx.get(dut.computes_done) >= queue[0]["wait"]:
                started = cycle

            take, ready = ctx.get(dut.take), ctx.get(dut.i.ready)
            out = ctx.get(dut.o.valid), ctx.get(dut.o.payload)
            assert held is None or out == (1, held), "a waiting word changed"
            held = out[1] if out[0] and not ctx.get(dut.o.ready) else None
            read = None
            if ctx.get(dut.store_en):
                read = ctx.get(dut.store_target), ctx.get(dut.store_address)
            moved = 0
            if ctx.get(dut.load_en):
                moved = 1
                target = ctx.get(dut.load_target)
                mask = (1 << memory_row_bits(machine, target_memory(Target(target)))) - 1
                address = ctx.get(dut.load_address)
                seen.rows.append((target, address, ctx.get(dut.load_row) & mask))
            if offered and ready:
                source.pop(0)
                offered, moved = False, 1
                seen.taken += 1
            if out[0] and ctx.get(dut.o.ready):
                seen.words.append(out[1])
                moved = 1
            assert ctx.get(dut.progress) == moved
            for name in ("loading", "storing"):
                if ctx.get(getattr(dut, name)):
                    getattr(seen, name).append(cycle)
            if take:
                assert started is not None
                seen.spans.append((started, cycle + 1))
                queue.pop(0)
                started, done = None, done + 1
                gap = int(pace.integers(0, 4)) if pace is not None else 0
            elif gap:
                gap -= 1
            await ctx.tick()
            if cycle == abort:
                assert not ctx.get(dut.o.valid)
                assert not ctx.get(dut.load_en)
                queue, source, done, gap = list(transfers), list(words), 0, 3
                seen.__init__()
                offered, held, read, started = False, None, None, None
            cycle += 1
        for _ in range(20):
            ctx.set(dut.valid, 0)
            assert not ctx.get(dut.o.valid)
            assert not ctx.get(dut.i.ready)
            assert not ctx.get(dut.load_en)
            assert not ctx.get(dut.store_en)
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return seen


def addresses(transfer):
    return [
        transfer["base"] + outer * transfer["stride"] + inner
        for outer in range(transfer["outer"])
        for inner in range(transfer["inner"])
    ]


def chunks(value, width, count):
    return [value >> (width * n) & ((1 << width) - 1) for n in range(count)]


def random_bits(rng, bits):
    return int.from_bytes(rng.bytes(-(-bits // 8)), "little") & ((1 << bits) - 1)


def transfer(target, *, base=0, inner=1, outer=1, stride=0, wait=0, shift=0, unsigned=0):
    return {
        "wait": wait,
        "target": int(target),
        "base": base,
        "inner": inner,
        "outer": outer,
        "stride": stride,
        "quantise_shift": shift,
        "unsigned": unsigned,
    }


def random_transfer(machine, rng, target=None):
    target = Target(rng.choice(list(Target))) if target is None else target
    inner, outer, stride = int(rng.integers(1, 6)), int(rng.integers(1, 4)), int(rng.integers(0, 9))
    depth = memory_depth(machine, target_memory(target))
    base = int(rng.integers(0, depth - (outer - 1) * stride - inner + 1))
    return transfer(
        target,
        base=base,
        inner=inner,
        outer=outer,
        stride=stride,
        wait=int(rng.integers(0, 40)),
        shift=int(rng.choice([0, 1, 3, 8, 15, 16, 17, 40, 62])),
        unsigned=int(rng.integers(0, 2)),
    )


class Memory:
    """Random rows, remembered by memory and address."""

    def __init__(self, machine, rng):
        self.machine, self.rng, self.rows = machine, rng, {}

    def __call__(self, target, address):
        name = target_memory(Target(target))
        if (name, address) not in self.rows:
            bits = memory_row_bits(self.machine, name)
            self.rows[name, address] = random_bits(self.rng, bits)
        return self.rows[name, address]


def stream_of(machine, rows, bits):
    """Words of the stream that hold rows of `bits` bits: the definition, as one long number."""
    width = 8 * machine.dma.bytes_per_cycle
    number = sum(row << (bits * n) for n, row in enumerate(rows))
    return chunks(number, width, -(-bits * len(rows) // width))


def stored(machine, each, memory):
    """Words that a STORE gives."""
    target = Target(each["target"])
    rows = [memory(target, address) for address in addresses(each)]
    bits = memory_row_bits(machine, target_memory(target))
    if target is not Target.STORE_YQ:
        return stream_of(machine, rows, bits)
    low, high = (0, 15) if each["unsigned"] else (-8, 7)
    quantised = []
    for row in rows:
        y = unpack(row, 16, bits // 16)
        yq = clamp(round_shift(y, each["quantise_shift"]), low, high)
        quantised.append(sum(int(v) % 16 << (4 * n) for n, v in enumerate(yq)))
    return stream_of(machine, quantised, bits // 4)


def check(machine, transfers, rng, memory, **limits):
    """Run random contents; compare every row and word. Return what was seen."""
    words, rows, out = [], [], []
    for each in transfers:
        target = Target(each["target"])
        if target in LOADS:
            bits = memory_row_bits(machine, target_memory(target))
            contents = [random_bits(rng, bits) for _ in addresses(each)]
            sent = stream_of(machine, contents, bits)
            used = len(contents) * bits % (8 * machine.dma.bytes_per_cycle)
            if used:  # what lies behind the last row is ignored
                sent[-1] |= random_bits(rng, 8 * machine.dma.bytes_per_cycle - used) << used
            words += sent
            pairs = zip(addresses(each), contents, strict=True)
            rows += [(int(target), address, row) for address, row in pairs]
        else:
            out += stored(machine, each, memory)
    seen = run(machine, transfers, words, memory, **limits)
    assert seen.rows == rows
    assert seen.words == out
    assert seen.taken == len(words)
    return seen


@pytest.mark.parametrize("bytes_per_cycle", [1, 8, 32, 128])
@pytest.mark.parametrize("machine", [S, U], ids=lambda machine: machine.kind)
def test_any_transfers_under_back_pressure(machine, bytes_per_cycle):
    """Any list of transfers, gaps anywhere: every row and word, in order, once."""
    machine = wide(machine, bytes_per_cycle)
    for seed in range(3 if bytes_per_cycle > 1 else 1):
        rng = np.random.default_rng(seed)
        transfers = [random_transfer(machine, rng) for _ in range(12)]
        check(machine, transfers, rng, Memory(machine, rng), pace=rng, limit=60_000)


@pytest.mark.parametrize("bytes_per_cycle", [1, 8, 32, 128])
@pytest.mark.parametrize("machine", [S, U], ids=lambda machine: machine.kind)
def test_cycles_of_a_free_stream(machine, bytes_per_cycle):
    """Each target, few rows and many: exactly the cycles of the contract, back to back."""
    machine = wide(machine, bytes_per_cycle)
    rng = np.random.default_rng(2)
    transfers = [random_transfer(machine, rng, target) for target in Target for _ in range(2)]
    transfers += [transfer(target, inner=1) for target in Target]
    seen = check(machine, transfers, rng, Memory(machine, rng), limit=20_000)
    cycle = 0
    for each, span in zip(transfers, seen.spans, strict=True):
        rows = each["inner"] * each["outer"]
        cycles = transfer_cycles(machine, Target(each["target"]), rows)
        assert span == (cycle, cycle + cycles)
        cycle += cycles
        busy = seen.storing if each["target"] >= Target.STORE_Y else seen.loading
        assert [at for at in busy if span[0] <= at < span[1]] == list(range(*span))
    assert len(seen.loading) + len(seen.storing) == cycle


@pytest.mark.parametrize(
    ("machine", "target", "rows", "words", "constant"),
    [
        pytest.param(S, Target.WEIGHTS, 5, 10, 2, id="128 bits: two words a row"),
        pytest.param(S, Target.MASKS, 5, 5, 2, id="32 bits: two rows a word, a row a cycle"),
        pytest.param(S, Target.XQ, 7, 7, 2, id="64 bits: a word a row"),
        pytest.param(S, Target.STORE_Y, 3, 3, 5, id="64 bits out"),
        pytest.param(S, Target.STORE_YQ, 6, 6, 5, id="16 bits out: four rows a word"),
        pytest.param(U, Target.STORE_MASKS, 2, 8, 5, id="256 bits out: four words a row"),
    ],
)
def test_cycles_by_hand(machine, target, rows, words, constant):
    """Stream of 64 bits."""
    rng = np.random.default_rng(4)
    seen = check(machine, [transfer(target, inner=rows)], rng, Memory(machine, rng))
    assert seen.spans == [(0, words + constant)]
    stores = target >= Target.STORE_Y
    assert constant == (Transfers.store_cycles if stores else Transfers.load_cycles)


@pytest.mark.parametrize(
    ("y", "shift", "unsigned", "expected"),
    [
        pytest.param([0, 1, -1, 7], 0, 0, [0, 1, -1, 7], id="shift 0 leaves y"),
        pytest.param([8, -9, 32767, -32768], 0, 0, [7, -8, 7, -8], id="clamped"),
        pytest.param([15, 16, -1, -32768], 0, 1, [15, 15, 0, 0], id="unsigned, clamped"),
        pytest.param([3, 2, -2, -3], 2, 0, [1, 1, 0, -1], id="ties go up"),
        pytest.param([32767, 16383, 16384, -16385], 15, 0, [1, 0, 1, -1], id="shift 15"),
        pytest.param([32767, -32768, 1, -1], 16, 0, [0, 0, 0, 0], id="shift 16: -1/2 goes up"),
        pytest.param([32767, -32768, 1, -1], 62, 1, [0, 0, 0, 0], id="shift 62"),
    ],
)
def test_quantisation_by_hand(y, shift, unsigned, expected):
    each = transfer(Target.STORE_YQ, shift=shift, unsigned=unsigned)
    seen = run(S, [each], [], lambda _target, _address: pack(y, 16) % (1 << 64))
    assert seen.words == [sum(value % 16 << (4 * n) for n, value in enumerate(expected))]


def test_every_length_of_wait(simulate):
    """A STORE held up at every cycle, for one to seven cycles, loses and repeats nothing."""
    rng = np.random.default_rng(6)
    memory, dut = Memory(S, rng), Transfers(S)
    each = transfer(Target.STORE_SUM, inner=12)

    async def bench(ctx):
        for name, value in each.items():
            ctx.set(dut.fields[name], value)
        ctx.set(dut.valid, 1)
        for start in range(18):
            for length in range(1, 8):
                words, read, take, cycle = [], None, False, 0
                while not take:
                    ctx.set(dut.store_row, 0 if read is None else memory(*read))
                    ctx.set(dut.o.ready, not start <= cycle < start + length)
                    if ctx.get(dut.o.valid) and ctx.get(dut.o.ready):
                        words.append(ctx.get(dut.o.payload))
                    read = None
                    if ctx.get(dut.store_en):
                        read = ctx.get(dut.store_target), ctx.get(dut.store_address)
                    take = ctx.get(dut.take)
                    await ctx.tick()
                    cycle += 1
                assert words == stored(S, each, memory)
                late = min(length, max(0, start + length - 5)) if start < 17 else 0
                assert cycle == 12 + dut.store_cycles + late

    simulate(dut, bench, limit=4000)


@pytest.mark.parametrize("target", [Target.WEIGHTS, Target.MASKS, Target.STORE_YQ, Target.STORE_Y])
def test_abort_at_every_cycle(target):
    """After an abort in any cycle of a transfer, the same list runs as if nothing had been."""
    rng = np.random.default_rng(8)
    each = transfer(target, base=3, inner=3, outer=2, stride=5)
    memory = Memory(S, rng)
    for cycle in range(transfer_cycles(S, target, 6) + 2):
        check(S, [each, random_transfer(S, rng, target)], rng, memory, abort=cycle)


def test_waits_for_its_computes():
    """Nothing moves while `wait` computes are not done, and everything from the cycle they are."""
    dut = Transfers(S)

    async def bench(ctx):
        for name, value in transfer(Target.XQ, wait=3).items():
            ctx.set(dut.fields[name], value)
        ctx.set(dut.valid, 1)
        ctx.set(dut.i.valid, 1)
        ctx.set(dut.computes_done, 2)
        for _ in range(20):
            assert not ctx.get(dut.i.ready)
            assert not ctx.get(dut.loading)
            await ctx.tick()
        ctx.set(dut.computes_done, 3)
        assert ctx.get(dut.loading)
        for ready in (0, 1, 0):
            assert ctx.get(dut.i.ready) == ready
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


def test_targets_are_loads_or_stores():
    assert set(LOADS) | set(STORES) == set(Target)
    assert not set(LOADS) & set(STORES)
