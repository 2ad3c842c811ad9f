# amaranth: UnusedElaboratable=no
"""The crossbar: any banks, in any cycles before the operands are due or in that very one."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinai.hw.crossbar import Crossbar

SIZES = [(1, 16), (2, 64), (4, 16), (8, 32)]


@pytest.fixture(scope="module", params=SIZES, ids=lambda size: f"{size[0]} columns")
def crossbar(request, stepped):
    return stepped(Crossbar(*request.param))


@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=15, deadline=None)
def test_any_batches(crossbar, seed):
    """Every column takes its word from its bank in a cycle of its own; columns outside the input
    take none and have zero. Operands change with `take` alone."""
    rng, dut = random.Random(seed), crossbar.dut
    columns = dut.columns

    async def script(ctx):
        operands = None
        for _ in range(12):
            tap = rng.getrandbits(columns)
            length = rng.randint(1, 4)
            # The cycle of each column's word; a word that is not wanted may come as well.
            when = [rng.randrange(length) for _ in range(columns)]
            comes = tap | (rng.getrandbits(columns) if rng.getrandbits(1) else 0)
            wanted = [0] * columns
            for cycle in range(length):
                data = [rng.getrandbits(dut.width) for _ in range(columns)]
                banks = [rng.randrange(columns) for _ in range(columns)]
                fetched = 0
                for t in range(columns):
                    ctx.set(dut.data[t], data[t])
                    ctx.set(dut.bank[t], banks[t])
                    if comes >> t & 1 and when[t] == cycle:
                        fetched |= 1 << t
                        wanted[t] = data[banks[t]]
                ctx.set(dut.fetched, fetched)
                ctx.set(dut.take, cycle == length - 1)
                # Taps matter in the cycle of `take` alone.
                ctx.set(dut.tap, tap if cycle == length - 1 else rng.getrandbits(columns))
                if operands is not None:
                    assert [ctx.get(x) for x in dut.x] == operands
                await ctx.tick()
            operands = [word if tap >> t & 1 else 0 for t, word in enumerate(wanted)]

    crossbar(script)
