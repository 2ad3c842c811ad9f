# amaranth: UnusedElaboratable=no
"""The unstructured weight stream: addresses and cycles, against the recurrence of its units."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinai.common.descriptor import Flag
from sinai.hw.row_loader import WORDS, RowLoader

BOTH, DENSE, ROUGH = Flag.APPROXIMATE | Flag.EXACT, Flag.EXACT, Flag.APPROXIMATE


@pytest.fixture(scope="module", params=[{}, {"lanes": 1, "window": 1, "pses": 1}], ids=["4", "1"])
def loader(request, stepped, small):
    machine = small("unstructured", **request.param)
    made = stepped(RowLoader(machine))
    made.machine = machine
    return made


def schedule_of(tiles, units, both, rng):
    """Units as (begin of load, first issue, last issue, number within its step), and the last
    cycle of every E.

    le[i] = max(le[i-1], ce[i-2]) + 4, and in A(t + 2) not before E(t) is over. E(t) issues when
    A(t + 1) is over.
    """
    rows, loaded, ended, over = [], [0], [0, 0], {}
    lazy = rng.choice([0, 0, 3, 20])
    for tile in range(tiles):
        for n in range(units):
            begin = max(loaded[-1], ended[-2])
            if both and tile >= 2:
                begin = max(begin, over[tile - 2] + 1)
            loaded.append(begin + WORDS)
            first = max(loaded[-1], ended[-1]) + rng.randint(0, lazy)
            last = first + rng.randint(0, rng.choice([0, 1, 12]))
            ended.append(last + 1)
            rows.append((begin, first, last, n))
        if both and tile:
            over[tile - 1] = ended[-1] + rng.randint(0, 15)
            ended[-1] = max(ended[-1], over[tile - 1] + 1)  # the next A issues behind it
    if both:
        over[tiles - 1] = max(ended[-1], over.get(tiles - 2, -1) + 1) + rng.randint(0, 15)
    return rows, over


async def run(ctx, dut, part, rng, cycles=None):
    """Start, and hold every cycle to the schedule; `cycles` breaks off."""
    flags = part["flags"]
    tiles = part["tiles"] if flags & Flag.APPROXIMATE else 0
    units = part["groups"] * part["rough_beats"]
    schedule, over = schedule_of(tiles, units, flags == BOTH, rng)
    loads = {
        begin + k: (index, n * WORDS + k)
        for index, (begin, _, _, n) in enumerate(schedule)
        for k in range(WORDS)
    }
    firsts = {row[1] for row in schedule}
    lasts = {row[2] for row in schedule}
    ctx.set(dut.start, 1)
    await ctx.tick()
    ctx.set(dut.start, 0)
    before = None
    last_cycle = max([*lasts, *over.values(), 8]) + 5
    for now in range(last_cycle if cycles is None else min(cycles, last_cycle)):
        ctx.set(dut.begun, now in firsts)
        ctx.set(dut.ended, now in lasts)
        ctx.set(dut.exact_over, now in over.values())
        load = loads.get(now)
        assert ctx.get(dut.en) == (load is not None)
        if load is not None:
            assert ctx.get(dut.address) == part["rough_base"] + load[1]
        ready = any(begin + WORDS <= now <= first for begin, first, *_ in schedule)
        assert ctx.get(dut.ready) == ready
        assert ctx.get(dut.fill) == (before is not None)
        if before is not None:
            arrives = (ctx.get(dut.fill_half), ctx.get(dut.fill_word))
            assert arrives == (before[0] % 2, before[1] % WORDS)
        before = load
        await ctx.tick()
    for signal in (dut.begun, dut.ended, dut.exact_over):
        ctx.set(signal, 0)


@given(seed=st.integers(0, 1 << 32), stop=st.none() | st.integers(0, 60))
@settings(max_examples=40, deadline=None)
def test_any_part(loader, descriptor, seed, stop):
    """Random parts and issues; before some of them another part is broken off."""
    rng, dut, machine = random.Random(seed), loader.dut, loader.machine

    async def script(ctx):
        for cycles in [stop, None] if stop is not None else [None]:
            part = {
                "flags": rng.choice([BOTH, BOTH, DENSE, ROUGH]),
                "groups": rng.randint(1, 4),
                "rough_beats": rng.randint(1, 3),
                "tiles": rng.randint(1, 4),
                "tile_depth": rng.randint(1, 4),
                "rough_base": rng.randrange(2000),
            }
            ctx.set(dut.config, descriptor(machine, **part))
            await run(ctx, dut, part, rng, cycles)
            if cycles is not None:
                ctx.set(dut.stop, 1)
                await ctx.tick()
                ctx.set(dut.stop, 0)
                for _ in range(4):
                    assert not any(ctx.get(signal) for signal in (dut.en, dut.ready, dut.fill))
                    await ctx.tick()

    loader(script)


def test_waits_for_exact_by_hand(stepped, small, descriptor):
    """Three tiles of one row-beat, issued in cycle 4 and 8; E0 ends in cycle 30: the third loads
    from cycle 31 on, from the same rows."""
    machine = small("unstructured")
    made = stepped(RowLoader(machine))
    dut = made.dut
    part = {"flags": BOTH, "groups": 1, "rough_beats": 1, "tiles": 3, "tile_depth": 1}

    async def script(ctx):
        ctx.set(dut.config, descriptor(machine, **part, rough_base=100))
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        seen = []
        for now in range(40):
            for signal in (dut.begun, dut.ended):
                ctx.set(signal, now in (4, 8))
            ctx.set(dut.exact_over, now == 30)
            if ctx.get(dut.en):
                seen.append((now, ctx.get(dut.address)))
            await ctx.tick()
        rows = [(n, 100 + n) for n in range(4)]
        assert seen == rows + [(4 + n, row) for n, row in rows] + [(31 + n, row) for n, row in rows]

    made(script)
