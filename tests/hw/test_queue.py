# amaranth: UnusedElaboratable=no
"""Descriptor queues: every fault has its code within its bound, and a good descriptor passes."""

from dataclasses import replace

import numpy as np
import pytest

from sinai.common.contract import CONTRACT
from sinai.common.descriptor import (
    COMPUTE,
    TRANSFER,
    Fault,
    Flag,
    Target,
    compute_fields,
    memory_depth,
    pack,
    transfer_fields,
)
from sinai.common.machine import PRESETS
from sinai.common.rules import broken
from sinai.hw.queue import DescriptorQueue

SMALL = [PRESETS["structured-small"], PRESETS["unstructured-small"]]
HEADERS = {"compute": COMPUTE, "transfer": TRANSFER}
MODULUS = 1 << 32


def fields_of(machine, kind):
    return (compute_fields if kind == "compute" else transfer_fields)(machine)


def good(machine, kind, rng):
    """Random legal values."""
    if kind == "transfer":
        target = Target(rng.choice(list(Target)))
        memory = {8: "y", 9: "y", 10: "residual", 11: "masks"}.get(target, target.name.lower())
        depth = memory_depth(machine, memory)
        outer, inner, stride = (int(rng.integers(1, 9)) for _ in range(3))
        span = (outer - 1) * stride + inner
        values = {"outer": outer, "inner": inner, "stride": stride}
        values["base"] = int(rng.integers(0, depth - span + 1))
        values |= {"target": int(target), "wait": int(rng.integers(0, 1 << 16))}
        return values | {
            "quantise_shift": int(rng.integers(0, 63)),
            "unsigned": int(rng.integers(0, 2)),
        }
    values = {
        field.name: int(rng.integers(field.low, field.high + 1))
        for field in compute_fields(machine)
    }
    tiles, depth = int(rng.integers(1, 40)), int(rng.integers(1, 8))
    more = int(rng.integers(0, tiles))
    batches = tiles * depth + more
    values |= {"tiles": tiles, "tile_depth": depth, "tile_more": more, "batches": batches}
    values["pixels"] = batches * machine.columns - int(rng.integers(0, machine.columns))
    side = machine.channels_side_by_side
    values["groups"] = int(rng.integers(1, 20))
    values["channels"] = values["groups"] * side - int(rng.integers(0, side))
    values["flags"] = int(
        Flag.APPROXIMATE | Flag.EXACT | Flag.PROJECT | int(rng.choice([0, Flag.RELU, Flag.TAP]))
    )
    for suffix, total in (("", depth), ("_deep", depth + 1)):
        count = -(-total // 4)  # the collector of the small machine holds 4 batches
        values[f"sub_count{suffix}"] = count
        values[f"sub_depth{suffix}"], values[f"sub_more{suffix}"] = divmod(total, count)
    values["rough_beats"] = max(1, values["rough_beats"])
    values["p_row_tiles"] = -(-values["p_rows"] // machine.rpu.rows)
    values["p_room"] = max(depth + 1, values["p_room"])
    return values


def expected(machine, kind, words):
    """Code of a descriptor, worked out from the tables, in the stated order of precedence."""
    table = fields_of(machine, kind)
    if words[0] != HEADERS[kind]:
        return Fault.HEADER
    values = {}
    for index, field in enumerate(table):
        value = int(words[1 + index])
        if field.low < 0 and value >> 31:
            value -= MODULUS
        if not field.low <= value <= field.high:
            return 16 + index
        values[field.name] = value
    if sum(map(int, words)) % MODULUS:
        return Fault.SUM
    return Fault.COMBINATION if broken(machine, kind, values) else Fault.NONE


def bound(queue, code):
    """Cycles until `error` is up."""
    if code == Fault.HEADER:
        return 2
    return code - 16 + 3 if code >= 16 else queue.fetch_cycles


class Host:
    """Writes slots and moves the tail; what it wrote to a slot before is not written again."""

    def __init__(self, queue, ctx):
        self.queue, self.ctx, self.slots = queue, ctx, {}

    async def write(self, slot, words):
        before = self.slots.get(slot, [None] * len(words))
        for index, (new, old) in enumerate(zip(words, before, strict=True)):
            if new != old:
                self.ctx.set(self.queue.write_en, 1)
                self.ctx.set(self.queue.write_address, slot * self.queue.slot_words + index)
                self.ctx.set(self.queue.write_data, int(new))
                await self.ctx.tick()
        self.ctx.set(self.queue.write_en, 0)
        self.slots[slot] = list(words)

    async def abort(self):
        self.ctx.set(self.queue.tail, 0)
        self.ctx.set(self.queue.abort, 1)
        await self.ctx.tick()
        self.ctx.set(self.queue.abort, 0)

    async def run(self, limit):
        """Announce a descriptor, and return (cycles, error) when it is offered or refused."""
        self.ctx.set(self.queue.tail, self.ctx.get(self.queue.head) + 1)
        for cycle in range(limit + 1):
            if self.ctx.get(self.queue.valid) or self.ctx.get(self.queue.error):
                return cycle, self.ctx.get(self.queue.error)
            await self.ctx.tick()
        raise AssertionError(f"Neither offered nor refused within {limit} cycles")

    async def take(self):
        self.ctx.set(self.queue.take, 1)
        await self.ctx.tick()
        self.ctx.set(self.queue.take, 0)

    def seen(self):
        fields = self.ctx.get(self.queue.fields)
        return {field.name: int(fields[field.name]) for field in self.queue.table}


def check_codes(simulate, machine, kind, cases, limit):
    """Each case, words or a change of good ones, gives its code in time; a good one passes after
    every tenth."""
    queue = DescriptorQueue(machine, kind, slots=1)
    rng = np.random.default_rng(7)
    table, header = fields_of(machine, kind), HEADERS[kind]
    values = good(machine, kind, rng)
    words = pack(header, table, values).tolist()
    assert expected(machine, kind, words) == Fault.NONE
    codes = set()

    async def bench(ctx):
        host = Host(queue, ctx)
        for number, change in enumerate(cases(words)):
            code = expected(machine, kind, change)
            codes.add(int(code))
            await host.write(0, change)
            assert await host.run(queue.fetch_cycles) == (bound(queue, code), code), (number, code)
            await ctx.tick()
            assert ctx.get(queue.valid) == (code == 0)
            await host.abort()
            assert not ctx.get(queue.error)
            assert not ctx.get(queue.valid)
            if number % 10 == 0:
                await host.write(0, words)
                assert await host.run(queue.fetch_cycles) == (queue.fetch_cycles, 0)
                assert host.seen() == values
                await host.take()
                assert ctx.get(queue.head) == 1
                await host.abort()

    simulate(queue, bench, limit=limit)
    return codes


def put(words, index, value):
    """The words with one changed, and the sum made good."""
    changed = [*words[:-1]]
    changed[index] = value % MODULUS
    return [*changed, -sum(changed) % MODULUS]


@pytest.mark.parametrize("machine", SMALL, ids=lambda machine: machine.kind)
@pytest.mark.parametrize("kind", ["compute", "transfer"])
def test_every_field_out_of_range(simulate, machine, kind):
    """One below, one above and both ends of 32 bits, for every field: its code, in its cycle."""
    table = fields_of(machine, kind)

    def cases(words):
        for index, field in enumerate(table):
            ends = {-1 << 31, (1 << 31) - 1} | (set() if field.low < 0 else {-1, 1 << 31})
            for value in {field.low - 1, field.high + 1} | ends:
                assert not field.low <= value <= field.high
                yield put(words, 1 + index, value)

    codes = check_codes(simulate, machine, kind, cases, limit=60_000)
    assert codes >= {16 + index for index in range(len(table))}


@pytest.mark.parametrize(("kind", "count"), [("compute", 250), ("transfer", 750)])
def test_random_words(simulate, kind, count):
    """Any word anywhere, the sum good or not: the code of the tables."""
    rng = np.random.default_rng(11)

    def cases(words):
        for number in range(count):
            index = int(rng.integers(len(words)))
            value = int(rng.integers(MODULUS)) >> int(rng.integers(32))
            changed = put(words, min(index, len(words) - 2), value)
            yield changed if number % 3 else [*words[:index], value, *words[index + 1 :]]

    codes = check_codes(simulate, SMALL[0], kind, cases, limit=60_000)
    assert {0, Fault.HEADER, Fault.SUM, Fault.COMBINATION} <= codes


def test_every_bit_of_the_sum(simulate):
    """A sum that is wrong in one bit, whichever, is a fault."""

    def cases(words):
        for bit in range(32):
            yield [*words[:-1], words[-1] ^ 1 << bit]

    codes = check_codes(simulate, SMALL[0], "transfer", cases, limit=2000)
    assert codes == {Fault.SUM}


@pytest.mark.parametrize("machine", SMALL, ids=lambda machine: machine.kind)
@pytest.mark.parametrize("kind", ["compute", "transfer"])
def test_contradictions(simulate, machine, kind):
    """Fields in range that do, or do not, fit each other: as the rules say, one by one."""
    rng = np.random.default_rng(13)
    table = fields_of(machine, kind)
    names = [field.name for field in table]
    loose = {
        "compute": [
            "flags", "pixels", "channels", "batches", "groups", "tiles", "tile_depth", "tile_more",
            "sub_count", "sub_depth", "sub_more", "sub_count_deep", "sub_depth_deep",
            "sub_more_deep", "rough_beats", "p_rows", "p_row_tiles", "p_room",
        ],
        "transfer": ["target", "base", "inner", "outer", "stride"],
    }[kind]  # fmt: skip

    def cases(words):
        for number in range(150):
            values = dict(zip(names, words[1:-1], strict=True))
            if number % 3 == 0:
                values = good(machine, kind, rng)
            for name in rng.choice(loose, number % 2 + (number % 3 > 0)):
                field = table[names.index(name)]
                step = int(rng.choice([-4, -2, -1, 1, 2, 4, 1 << int(rng.integers(16))]))
                values[name] = int(np.clip(values[name] + step, field.low, field.high))
            yield pack(HEADERS[kind], table, values).tolist()

    codes = check_codes(simulate, machine, kind, cases, limit=60_000)
    assert codes == {Fault.NONE, Fault.COMBINATION}


def test_last_row_by_hand(simulate):
    """base + (outer - 1) * stride + inner may be the depth of that memory and no more."""
    machine = SMALL[0]
    fields = transfer_fields(machine)
    queue = DescriptorQueue(machine, "transfer", slots=1)
    depth = memory_depth(machine, "parameters")
    values = {
        "wait": 0, "target": int(Target.PARAMETERS), "inner": 5, "outer": 3, "stride": 7,
        "quantise_shift": 0, "unsigned": 0,
    }  # fmt: skip

    async def bench(ctx):
        host = Host(queue, ctx)
        for base, error in ((depth - 19, 0), (depth - 18, Fault.COMBINATION)):
            await host.write(0, pack(TRANSFER, fields, {**values, "base": base}).tolist())
            assert (await host.run(100))[1] == error
            await host.abort()

    simulate(queue, bench, limit=100)


@pytest.mark.parametrize("fetch", [CONTRACT.fetch, 3])
@pytest.mark.parametrize(
    ("kind", "cycles"),
    [
        # Word 6, `stride`, comes in cycle 7. From cycle 8 five digits of `outer` and four terms,
        # the last in cycle 16; then judgement.
        ("transfer", 16),
        # Word 59, `p_row_tiles`, comes in cycle 60. From cycle 61 two rules of two and three terms
        # of it, then two more of `p_room`, the last in cycle 70.
        ("compute", 70),
    ],
)
def test_cycles_by_hand(simulate, kind, cycles, fetch):
    """From the tail's move to `valid`, and from `take` to `valid`, with fields steady between."""
    machine = SMALL[0]
    table = fields_of(machine, kind)
    queue = DescriptorQueue(machine, kind, slots=2, contract=replace(CONTRACT, fetch=fetch))
    rng = np.random.default_rng(3)
    described = [good(machine, kind, rng) for _ in range(2)]
    assert queue.fetch_cycles == cycles + fetch

    async def bench(ctx):
        host = Host(queue, ctx)
        for slot, values in enumerate(described):
            await host.write(slot, pack(HEADERS[kind], table, values).tolist())
        ctx.set(queue.tail, 2)
        for number, values in enumerate(described):
            for _ in range(cycles + fetch):
                assert not ctx.get(queue.valid)
                assert ctx.get(queue.busy)
                await ctx.tick()
            for _ in range(5):
                assert ctx.get(queue.valid)
                assert host.seen() == values
                assert ctx.get(queue.head) == number
                await ctx.tick()
            await host.take()
        assert not ctx.get(queue.busy)
        for _ in range(100):
            assert not ctx.get(queue.valid)
            await ctx.tick()

    simulate(queue, bench, limit=600)


@pytest.mark.parametrize("slots", [1, 2, 8])
def test_ring_keeps_order(simulate, slots):
    """60 descriptors through a small ring, the host ahead by as many as fit, both at any pace."""
    machine = SMALL[0]
    table = transfer_fields(machine)
    queue = DescriptorQueue(machine, "transfer", slots=slots)
    rng = np.random.default_rng(slots)
    described = [good(machine, "transfer", rng) for _ in range(60)]

    async def fill(ctx):
        host = Host(queue, ctx)
        for number, values in enumerate(described):
            while number - ctx.get(queue.head) >= slots:
                await ctx.tick()
            await host.write(number % slots, pack(TRANSFER, table, values).tolist())
            for _ in range(rng.integers(0, 30)):
                await ctx.tick()
            ctx.set(queue.tail, number + 1)

    async def drain(ctx):
        host = Host(queue, ctx)
        for number, values in enumerate(described):
            while not ctx.get(queue.valid):
                await ctx.tick()
            for _ in range(rng.integers(0, 30)):
                await ctx.tick()
            assert (ctx.get(queue.head), host.seen()) == (number, values)
            await host.take()

    simulate(queue, fill, drain, limit=6000)


def test_abort_at_every_cycle(simulate):
    """After an abort in any cycle of a fetch the next descriptor comes whole and in time."""
    machine = SMALL[0]
    table = transfer_fields(machine)
    queue = DescriptorQueue(machine, "transfer", slots=2)
    rng = np.random.default_rng(5)

    async def bench(ctx):
        host = Host(queue, ctx)
        for offset in range(queue.fetch_cycles + 3):
            for _ in range(2):
                values = good(machine, "transfer", rng)
                await host.write(0, pack(TRANSFER, table, values).tolist())
                ctx.set(queue.tail, 1)
                for _ in range(offset):
                    await ctx.tick()
                await host.abort()
                assert not ctx.get(queue.valid)
                assert not ctx.get(queue.busy)
            assert await host.run(100) == (queue.fetch_cycles, 0)
            assert host.seen() == values
            await host.take()
            await host.abort()

    simulate(queue, bench, limit=4000)


def test_hold(simulate):
    """No fetch begins under `hold`; one that has begun ends."""
    machine = SMALL[0]
    queue = DescriptorQueue(machine, "transfer", slots=2)
    values = good(machine, "transfer", np.random.default_rng(1))

    async def bench(ctx):
        host = Host(queue, ctx)
        for slot in range(2):
            await host.write(slot, pack(TRANSFER, transfer_fields(machine), values).tolist())
        ctx.set(queue.tail, 2)
        await ctx.tick()
        ctx.set(queue.hold, 1)
        for _ in range(queue.fetch_cycles):
            await ctx.tick()
        assert ctx.get(queue.valid)
        await host.take()
        for _ in range(50):
            assert not ctx.get(queue.valid)
            await ctx.tick()
        ctx.set(queue.hold, 0)
        for _ in range(queue.fetch_cycles):
            await ctx.tick()
        assert ctx.get(queue.valid)

    simulate(queue, bench, limit=200)


@pytest.mark.parametrize("start", [0, 1])
def test_more_announced_than_slots(simulate, start):
    """As many as slots are fine, one more is a fault that stops before anything is fetched."""
    machine = SMALL[0]
    queue = DescriptorQueue(machine, "transfer", slots=2)
    values = good(machine, "transfer", np.random.default_rng(1))

    async def bench(ctx):
        host = Host(queue, ctx)
        for slot in range(2):
            await host.write(slot, pack(TRANSFER, transfer_fields(machine), values).tolist())
        for _ in range(start):
            await host.run(100)
            await host.take()
        ctx.set(queue.tail, start + 3)
        await ctx.tick()
        for _ in range(50):
            assert ctx.get(queue.error) == Fault.RING
            assert ctx.get(queue.head) == start
            assert not ctx.get(queue.valid)
            await ctx.tick()
        await host.abort()
        assert (await host.run(100))[1] == 0

    simulate(queue, bench, limit=300)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "other", "slots": 2}, "Kind of queue must be compute or transfer, not 'other'"),
        ({"kind": "compute", "slots": 3}, "Slots must be a power of two between 1 and 1024, not 3"),
        (
            {"kind": "compute", "slots": 2, "contract": replace(CONTRACT, fetch=1)},
            "Cycles to fetch must be at least 2, not 1",
        ),
    ],
)
def test_out_of_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DescriptorQueue(SMALL[0], **arguments)
