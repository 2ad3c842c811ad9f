# amaranth: UnusedElaboratable=no
"""A lane's weights and parameters: any fills and reads, against lists."""

import random

import pytest
from amaranth.hdl import Value
from hypothesis import given, settings
from hypothesis import strategies as st

from sinai.hw.group_buffer import GroupBuffer
from sinai.hw.group_loader import SETS

MACHINES = [
    {},
    {"weight_words": 2, "columns": 4, "pses": 1},
    {"weight_words": 8, "columns": 1, "pses": 2},
]

#: Bits of a word of parameters, low and number; the layout of the parameter memory.
BITS = {
    "multiplier": (0, 16),
    "bias": (16, 32),
    "rough_multiplier": (48, 16),
    "rough_bias": (64, 32),
    "gain": (96, 16),
    "offset": (112, 16),
}


@pytest.fixture(scope="module", params=MACHINES, ids=lambda changes: str(len(changes)))
def buffer(request, stepped, small):
    machine = small("structured", **request.param)
    made = stepped(GroupBuffer(machine))
    made.machine = machine
    return made


@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=12, deadline=None)
def test_any_fills_and_reads(buffer, seed):
    """What is asked for is there a cycle later, as it was before the fill of that cycle; operands
    change with `take` alone, words 1 to 3 of a row-beat with `wide` as well."""
    rng, dut, machine = random.Random(seed), buffer.dut, buffer.machine
    beta, word = machine.weight_words, 16 * machine.pses

    async def script(ctx):
        halves = [[None] * 8 for _ in range(2)]
        sets = [[None] * 8 for _ in range(SETS)]
        low, high, scales = [None] * machine.columns, [None] * 3, [None] * machine.columns
        for _ in range(150):
            fill, fill_half = rng.getrandbits(1), rng.getrandbits(1)
            with_parameters, fill_set = rng.getrandbits(1), rng.randrange(SETS)
            place = rng.randrange(8 // beta)
            take, half, wide, odd = (rng.getrandbits(1) for _ in range(4))
            index = [rng.randrange(8) for _ in range(machine.columns)]
            scale, from_set = [rng.randrange(8) for _ in index], rng.randrange(SETS)
            words = [rng.getrandbits(word) for _ in range(beta)]
            parameters = [rng.getrandbits(128) for _ in range(beta)]
            for n in range(beta):
                ctx.set(dut.weights[n], words[n])
                ctx.set(dut.parameters[n], parameters[n])
            for t in range(machine.columns):
                ctx.set(dut.index[t], index[t])
                ctx.set(dut.scale[t], scale[t])
            for port, value in (
                (dut.fill, fill),
                (dut.fill_half, fill_half),
                (dut.fill_words, place),
                (dut.fill_parameters, with_parameters),
                (dut.fill_set, fill_set),
                (dut.take, take),
                (dut.half, half),
                (dut.wide, wide),
                (dut.odd, odd),
                (dut.set, from_set),
            ):
                ctx.set(port, value)
            await ctx.tick()

            if take:
                low = [halves[half][i] for i in index]
                if wide:
                    high = halves[half][4 * odd + 1 : 4 * odd + 4]
            scales = [sets[from_set][i] for i in scale]
            at = slice(place * beta, (place + 1) * beta)
            if fill:
                halves[fill_half][at] = words
            if with_parameters:
                sets[fill_set][at] = parameters

            # None: never filled, unknown.
            for t, (expected, wanted) in enumerate(zip(low, scales, strict=True)):
                assert expected in (None, ctx.get(dut.low[t]))
                assert wanted in (None, ctx.get(Value.cast(dut.scales[t])))
            got = ctx.get(dut.high)
            for n, expected in enumerate(high):
                assert expected in (None, got >> n * word & (1 << word) - 1)

    buffer(script)


def test_parameters_by_hand(buffer):
    """M 15:0, b 47:16, M~ 63:48, b~ 95:64, a 111:96, c 127:112, of channel 3 in set 2."""
    dut, beta = buffer.dut, buffer.machine.weight_words
    values = {"multiplier": 5, "bias": -7, "rough_multiplier": 9}
    values |= {"rough_bias": -11, "gain": 13, "offset": -15}
    row = sum((values[name] & (1 << bits) - 1) << low for name, (low, bits) in BITS.items())

    async def script(ctx):
        ctx.set(dut.fill_parameters, 1)
        ctx.set(dut.fill_set, 2)
        ctx.set(dut.fill_words, 3 // beta)
        ctx.set(dut.parameters[3 % beta], row)
        await ctx.tick()
        ctx.set(dut.set, 2)
        ctx.set(dut.scale[0], 3)
        await ctx.tick()
        got = ctx.get(dut.scales[0])
        assert {name: got[name] for name in BITS} == values

    buffer(script)
