# amaranth: UnusedElaboratable=no
"""A bank: any reads and writes against a list, and its Verilog's name and refusals."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinai.hw.sram import Sram

#: Width, depth and granularity; None: the whole word.
SIZES = [(1, 2, None), (8, 5, None), (12, 4, 4), (64, 8, 2), (16, 3, 16)]


def pieces_of(sram):
    return sram.width // sram.granularity


@pytest.fixture(scope="module", params=SIZES, ids=str)
def bank(request, stepped):
    width, depth, granularity = request.param
    return stepped(Sram(width, depth, granularity=granularity))


@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=15, deadline=None)
def test_any_reads_and_writes(bank, seed):
    """What is read is old in the cycle of a write, comes a cycle later and stays until the next
    read; a write changes the pieces that are enabled."""
    rng, sram = random.Random(seed), bank.dut
    pieces, bits = pieces_of(sram), sram.granularity

    async def script(ctx):
        words, shown = [0] * sram.depth, 0
        for _ in range(60):
            reads, enables = rng.getrandbits(1), rng.getrandbits(pieces) * rng.getrandbits(1)
            at, to = rng.randrange(sram.depth), rng.randrange(sram.depth)
            if rng.getrandbits(1):
                at = to
            data = rng.getrandbits(sram.width)
            ctx.set(sram.read_en, reads)
            ctx.set(sram.read_address, at)
            ctx.set(sram.write_en, enables)
            ctx.set(sram.write_address, to)
            ctx.set(sram.write_data, data)
            await ctx.tick()
            if reads:
                shown = words[at]
            mask = sum(((1 << bits) - 1) << n * bits for n in range(pieces) if enables >> n & 1)
            words[to] = words[to] & ~mask | data & mask
            assert ctx.get(sram.read_data) == shown

    bank(script)


@pytest.mark.parametrize(
    ("size", "name"),
    [
        ((16, 64, None), "sinai_sram_16x64"),
        ((16, 64, 16), "sinai_sram_16x64"),
        ((64, 8, 2), "sinai_sram_64x8m2"),
    ],
)
def test_name_of_its_module(size, name):
    width, depth, granularity = size
    sram = Sram(width, depth, granularity=granularity)
    assert sram.module_name == name
    assert f"module {name}(" in sram.verilog()


@pytest.mark.parametrize("size", [(0, 8, None), (8, 1, None), (8, 8, 3)])
def test_impossible_sizes_are_refused(size):
    width, depth, granularity = size
    with pytest.raises(ValueError, match=r"depth >= 2 and a granularity that divides the width"):
        Sram(width, depth, granularity=granularity)
