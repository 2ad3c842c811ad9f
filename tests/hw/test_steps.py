# amaranth: UnusedElaboratable=no
"""Order of the steps, against lists: every small number of tiles, and steps broken off."""

import random
from itertools import product

import pytest

from sinai.common.descriptor import Flag
from sinai.hw.steps import Steps

#: Phases of a part: both, exact alone (dense), approximate alone (no essential neurons).
BOTH, DENSE, ROUGH = Flag.APPROXIMATE | Flag.EXACT, Flag.EXACT, Flag.APPROXIMATE
OUTPUTS = ["exact", "first", "depth", "deep", "group", "last_group", "last"]


def steps_of(flags, groups, tiles, depth, more):
    """Outputs of every step, in order: A0 A1 E0 A2 E1 ..."""
    walk, first = [], 0
    for block in range(tiles):
        deep = int(block < more)
        walk += [(first, depth + deep, deep, g, int(g == groups - 1)) for g in range(groups)]
        first += depth + deep
    rough = [(0, *tile) for tile in walk] if flags & Flag.APPROXIMATE else []
    exact = [(1, *tile) for tile in walk] if flags & Flag.EXACT else []
    if rough and exact:
        order = [rough[0]]
        for tile in range(len(walk)):
            order += [*rough[tile + 1 : tile + 2], exact[tile]]
    else:
        order = rough + exact
    return [(*step, int(n == len(order) - 1)) for n, step in enumerate(order)]


@pytest.fixture(scope="module", params=["structured", "unstructured"])
def steps(request, stepped, small):
    machine = small(request.param)
    made = stepped(Steps(machine))
    made.machine = machine
    return made


async def walk(ctx, dut, expected, rng):
    """Take all steps from the start on, after any pauses."""
    ctx.set(dut.start, 1)
    await ctx.tick()
    ctx.set(dut.start, 0)
    for step in expected:
        for pause in reversed(range(rng.choice([0, 0, 1, 3]) + 1)):
            assert ctx.get(dut.valid) == 1
            assert tuple(int(ctx.get(getattr(dut, name))) for name in OUTPUTS) == step
            ctx.set(dut.advance, pause == 0)
            await ctx.tick()
        ctx.set(dut.advance, 0)


@pytest.mark.parametrize("flags", [BOTH, DENSE, ROUGH], ids=["both", "dense", "rough"])
def test_every_small_part(steps, descriptor, flags):
    """1 to 5 blocks, each number of them deeper, 1 to 3 supergroups; every third part is broken
    off before it runs."""
    dut, rng = steps.dut, random.Random(1)

    async def script(ctx):
        for number, (tiles, groups) in enumerate(product(range(1, 6), range(1, 4))):
            for more in range(tiles):
                depth = rng.randint(1, steps.machine.accumulators - 1)
                shape = {"tiles": tiles, "tile_depth": depth, "tile_more": more, "groups": groups}
                ctx.set(dut.config, descriptor(steps.machine, flags=flags, **shape))
                # The unstructured machine's rows are no tiles.
                supergroups = 1 if steps.machine.unstructured else groups
                expected = steps_of(flags, supergroups, tiles, depth, more)
                if number % 3 == 0:
                    await walk(ctx, dut, expected[: rng.randrange(len(expected) + 1)], rng)
                    ctx.set(dut.stop, 1)
                    await ctx.tick()
                    ctx.set(dut.stop, 0)
                    assert ctx.get(dut.valid) == 0
                await walk(ctx, dut, expected, rng)
                assert ctx.get(dut.valid) == 0

    steps(script)


def test_order_by_hand(steps, descriptor):
    """Three blocks of 3, 2 and 2 batches: A0 A1 E0 A2 E1 E2."""
    dut = steps.dut

    async def script(ctx):
        shape = {"tiles": 3, "tile_depth": 2, "tile_more": 1, "groups": 1}
        ctx.set(dut.config, descriptor(steps.machine, flags=BOTH, **shape))
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        ctx.set(dut.advance, 1)
        order = []
        for _ in range(6):
            order.append((ctx.get(dut.exact), ctx.get(dut.first), ctx.get(dut.depth)))
            await ctx.tick()
        assert order == [(0, 0, 3), (0, 3, 2), (1, 0, 3), (0, 5, 2), (1, 3, 2), (1, 5, 2)]
        assert ctx.get(dut.valid) == 0

    steps(script)
