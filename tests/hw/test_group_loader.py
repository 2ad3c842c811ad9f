# amaranth: UnusedElaboratable=no
"""The structured weight stream: addresses and cycles, against the recurrence of its units."""

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinai.common.descriptor import Flag
from sinai.hw.group_loader import SETS, GroupLoader

BOTH, DENSE, ROUGH = Flag.APPROXIMATE | Flag.EXACT, Flag.EXACT, Flag.APPROXIMATE

#: Words that a lane reads in a cycle: 1, 2, and the whole unit.
MACHINES = [{}, {"weight_words": 2, "columns": 4, "pses": 1}, {"weight_words": 8, "columns": 1}]


@dataclass(frozen=True)
class Unit:
    """Eight words: their first row, the step they belong to, the first row of its parameters."""

    row: int
    step: int
    parameters: int | None  # with the first unit of a step


@pytest.fixture(scope="module", params=MACHINES, ids=lambda changes: str(len(changes)))
def loader(request, stepped, small):
    machine = small("structured", **request.param)
    made = stepped(GroupLoader(machine))
    made.machine = machine
    return made


def random_part(rng):
    """Fields of a part with few tiles."""
    tiles = rng.randint(1, 3)
    return {
        "flags": rng.choice([BOTH, BOTH, DENSE, ROUGH]),
        "groups": rng.randint(1, 3),
        "tiles": tiles,
        "tile_depth": rng.randint(1, 4),
        "tile_more": rng.randrange(tiles),
        "sub_count": rng.randint(1, 2),
        "sub_count_deep": rng.randint(1, 3),
        "beats": rng.randint(1, 5),
        "rough_beats": rng.randint(1, 2),
        "weights_base": rng.randrange(2000),
        "rough_base": rng.randrange(2000),
        "parameters_base": rng.randrange(32),
    }


def units_of(part, lines):
    """All units in order; `lines` rows each."""
    groups, flags = part["groups"], part["flags"]
    tiles = [(block, g) for block in range(part["tiles"]) for g in range(groups)]
    rough = [("A", *tile) for tile in tiles] if flags & Flag.APPROXIMATE else []
    exact = [("E", *tile) for tile in tiles] if flags & Flag.EXACT else []
    if rough and exact:
        steps = rough[:1]
        for n, step in enumerate(exact):
            steps += [*rough[n + 1 : n + 2], step]
    else:
        steps = rough + exact
    found = []
    for step, (phase, block, g) in enumerate(steps):
        rows = []
        if phase == "E":
            rows = [part["weights_base"] + (g * part["beats"] + b) * lines for b in _to(part, "")]
        else:
            for _ in range(part["sub_count_deep" if block < part["tile_more"] else "sub_count"]):
                rows += [
                    part["rough_base"] + ((g * 4 + pair) * part["rough_beats"] + b) * lines
                    for pair in range(4)
                    for b in _to(part, "rough_")
                ]
        for n, row in enumerate(rows):
            parameters = part["parameters_base"] + g * lines if n == 0 else None
            found.append(Unit(row, step, parameters))
    return found


def _to(part, phase):
    return range(part[f"{phase}beats"])


def schedule_of(units, lines, rng):
    """For each unit: first cycle of its load, cycle of its first and of its last issue.

    le[i] = max(le[i-1], ce[i-2]) + lines; issues are as random as the order allows.
    """
    rows, loaded, ended = [], [0], [0, 0]
    lazy = rng.choice([0, 0, 3, 20])
    for _ in units:
        begin = max(loaded[-1], ended[-2])
        loaded.append(begin + lines)
        first = max(loaded[-1], ended[-1]) + rng.randint(0, lazy)
        last = first + rng.randint(0, rng.choice([0, 1, 12]))
        ended.append(last + 1)
        rows.append((begin, first, last))
    return rows


async def run(ctx, dut, units, lines, rng, cycles=None):
    """Start, and hold every cycle to the schedule; `cycles` breaks off."""
    schedule = schedule_of(units, lines, rng)
    loads = {begin + k: (n, k) for n, (begin, _, _) in enumerate(schedule) for k in range(lines)}
    firsts = {first: n for n, (_, first, _) in enumerate(schedule)}
    lasts = {last: n for n, (*_, last) in enumerate(schedule)}
    ctx.set(dut.start, 1)
    await ctx.tick()
    ctx.set(dut.start, 0)
    before = None
    last_cycle = schedule[-1][2] + 4
    for now in range(last_cycle if cycles is None else min(cycles, last_cycle)):
        ctx.set(dut.begun, now in firsts)
        ctx.set(dut.ended, now in lasts)
        load = loads.get(now)
        assert ctx.get(dut.weights_en) == (load is not None)
        # A unit is ready from the cycle behind its load to its first issue.
        ready = any(begin + lines <= now <= first for begin, first, _ in schedule)
        assert ctx.get(dut.ready) == ready
        parameters = None
        if load is not None:
            unit, word = units[load[0]], load[1]
            assert ctx.get(dut.weights_address) == unit.row + word
            if unit.parameters is not None:
                parameters = unit.parameters + word
        assert ctx.get(dut.parameters_en) == (parameters is not None)
        if parameters is not None:
            assert ctx.get(dut.parameters_address) == parameters
        # A cycle later the words arrive.
        assert ctx.get(dut.fill) == (before is not None)
        with_parameters = before is not None and units[before[0]].parameters is not None
        assert ctx.get(dut.fill_parameters) == with_parameters
        if before is not None:
            assert (ctx.get(dut.fill_half), ctx.get(dut.fill_words)) == (before[0] % 2, before[1])
        if with_parameters:
            assert ctx.get(dut.fill_set) == units[before[0]].step % SETS
        before = load
        await ctx.tick()
    ctx.set(dut.begun, 0)
    ctx.set(dut.ended, 0)


@given(seed=st.integers(0, 1 << 32), stop=st.none() | st.integers(0, 60))
@settings(max_examples=15, deadline=None)
def test_any_part(loader, descriptor, seed, stop):
    """Random parts and issues; before some of them another part is broken off."""
    rng, dut, machine = random.Random(seed), loader.dut, loader.machine
    lines = 8 // machine.weight_words

    async def script(ctx):
        for cycles in [stop, None] if stop is not None else [None]:
            part = random_part(rng)
            ctx.set(dut.config, descriptor(machine, **part))
            await run(ctx, dut, units_of(part, lines), lines, rng, cycles)
            if cycles is not None:
                ctx.set(dut.stop, 1)
                await ctx.tick()
                ctx.set(dut.stop, 0)
                quiet = (dut.weights_en, dut.parameters_en, dut.ready, dut.fill)
                for _ in range(4):
                    assert not any(ctx.get(signal) for signal in quiet)
                    await ctx.tick()

    loader(script)


def test_loads_by_hand(stepped, small, descriptor):
    """Two beats of one dense tile, eight rows each from row 40: they load in cycles 0 to 15, and a
    third begins when the first is over, issued for the last time in cycle 20: cycle 21."""
    machine = small("structured")
    made = stepped(GroupLoader(machine))
    dut = made.dut
    part = {"flags": DENSE, "groups": 1, "tiles": 1, "tile_depth": 1, "beats": 3}

    async def script(ctx):
        ctx.set(dut.config, descriptor(machine, **part, weights_base=40))
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        seen = []
        for now in range(40):
            ctx.set(dut.begun, now == 20)
            ctx.set(dut.ended, now == 20)
            if ctx.get(dut.weights_en):
                seen.append((now, ctx.get(dut.weights_address)))
            await ctx.tick()
        assert seen == [(n, 40 + n) for n in range(16)] + [(21 + n, 56 + n) for n in range(8)]

    made(script)
