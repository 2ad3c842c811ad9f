# amaranth: UnusedElaboratable=no
"""The scanner of all lanes, against lists: passes, and the cycle in which each is published."""

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinai.common.descriptor import Flag, memory_depth
from sinai.hw.lane_scanner import pair_bits
from sinai.hw.scanner import PairScanner

MASKED, DENSE = Flag.APPROXIMATE | Flag.EXACT, Flag.EXACT
MACHINES = [{}, {"lanes": 2, "window": 1}, {"lanes": 2, "window": 4, "pses": 1}]


@pytest.fixture(scope="module", params=MACHINES, ids=lambda changes: str(changes.get("window", 2)))
def scanner(request, stepped, small):
    memories = small("unstructured").memories.model_dump()
    memories["masks"] = {"capacity_kib": 3, "macro_kib": 1}  # rows: no power of two
    machine = small("unstructured", memories=memories, **request.param)
    made = stepped(PairScanner(machine))
    made.machine = machine
    return made


@dataclass
class Pass:
    """Pairs (row, pixel) of each lane; `cost`: cycles of scanning since the pass before."""

    tile: int
    pixel: int
    lists: list
    cost: int

    @property
    def needed(self):
        return sum(1 << p for p in {pixel for pairs in self.lists for _, pixel in pairs})

    @property
    def most(self):
        return max(map(len, self.lists))


def events_of(words, rows, pixels, width):
    """Of a lane's window, a pair or None for each cycle: a word of n pairs takes max(1, n)."""
    found = []
    for word, value in enumerate(words):
        here = []
        for bit in range(64):
            row, pixel = word * (64 // width) + bit // width, bit % width
            if value >> bit & 1 and row < rows and pixel < pixels:
                here.append((row, pixel))
        found += here or [None]
    return found


def segments_of(machine, part, masks):
    """Stretches of scanning between two passes or windows: (tile, cycles, pass or None), and the
    last of each tile."""
    width, lanes, most = machine.window, machine.lanes, machine.accumulators
    rows = [-(-(part["channels"] - v) // lanes) for v in range(lanes)]
    words = -(-part["groups"] * width // 64)
    found, first = [], 0
    for tile in range(part["tiles"]):
        depth = part["tile_depth"] + (tile < part["tile_more"])
        for within in range(0, depth, width):
            at = part["mask_base"] + tile * part["mask_rows"] + within // width * words
            queues = []
            for v in range(lanes):
                values = [masks[v][(at + k) % len(masks[v])] for k in range(words)]
                if part["flags"] == DENSE:
                    values = [(1 << 64) - 1] * words
                queues.append(events_of(values, rows[v], min(width, depth - within), width))
            while any(queues):
                lists, cost = [], 0
                for queue in queues:
                    pairs, cycles = [], 0
                    while queue and len(pairs) < most:
                        event = queue.pop(0)
                        pairs += [event] if event else []
                        cycles += 1
                    lists.append(pairs)
                    cost = max(cost, cycles)
                made = Pass(tile, first + within, lists, cost) if any(lists) else None
                found.append([tile, cost, made, False])
        found[-1][3] = True
        first += depth
    return found


def schedule_of(segments, dense, rng):
    """When all of it happens: selections by tile, passes as (pass, se, ce), ends of the tiles.

    se[i] = max(se[i-1], ce[i-2], selected) + scan_i; ce is as random as the order allows, and so
    is the selection of a tile, behind the end of the exact step two before.
    """
    lazy, late = rng.choice([1, 3, 20]), rng.choice([0, 5, 60])
    selected, passes, leaves = [], [], []
    now, busy = 0, [0, 0]
    for tile, cost, made, ends in segments:
        if tile == len(selected) and not dense:
            over = [1, *(ce for p, _, ce in passes if p.tile <= tile - 2), *leaves[: tile - 1]]
            earliest = max([*over, *(when + 1 for when in selected[-1:])])
            selected.append(earliest + rng.randint(0, late))
        start = max([now, busy[-2], *selected[tile:]])
        now = start + cost
        if made:
            busy.append(max(now, busy[-1]) + rng.randint(1, lazy))
            passes.append((made, now, busy[-1]))
        if ends:
            leaves.append(now)
    return selected, passes, leaves


async def run(ctx, made, fields, part, masks, rng, cycles=None):
    """Start, and hold every cycle to the schedule; `cycles` breaks off.

    Bank contents of a tile come when it is selected; until then they are noise.
    """
    dut, machine = made.dut, made.machine
    dense = part["flags"] == DENSE
    segments = segments_of(machine, part, masks)
    selected, passes, leaves = schedule_of(segments, dense, rng)
    published = {se: n for n, (_, se, _) in enumerate(passes)}
    over = {ce for *_, ce in passes}
    _, pixel_bits = pair_bits(machine)
    written = [[rng.getrandbits(64) for _ in bank] for bank in masks]
    data = [0] * machine.lanes
    tile_of = {}
    for tile in range(part["tiles"]):
        for k in range(part["mask_rows"]):
            tile_of[(part["mask_base"] + tile * part["mask_rows"] + k) % len(masks[0])] = tile

    ctx.set(dut.config, fields)
    last = max([*leaves, *over]) + 4
    for now in range(-1, last if cycles is None else min(cycles, last)):
        ctx.set(dut.start, now == -1)
        ctx.set(dut.selects, now + 1 in selected)
        ctx.set(dut.pass_over, now + 1 in over)
        for v in range(machine.lanes):
            ctx.set(dut.masks[v].data, data[v])
        if now >= 0:
            assert ctx.get(dut.publishes) == (now + 1 in published)
            assert ctx.get(dut.leaves) == (now + 1 in leaves)
            here = [n for n, (_, se, ce) in enumerate(passes) if se <= now < ce]
            assert ctx.get(dut.published) == len(here)
            # The tile that is scanned is the one behind those that are left.
            behind = sum(when <= now for when in leaves)
            waits = not dense and behind < part["tiles"] and selected[behind] > now
            assert ctx.get(dut.unselected) == waits
            for n in here:
                found = passes[n][0]
                shown = ctx.get(dut.passes[n % 2])
                assert (shown.pixel, shown.needed) == (found.pixel, found.needed)
                assert (shown.most, shown.tile) == (found.most, found.tile % 2)
                ctx.set(dut.half, n % 2)
                for v, pairs in enumerate(found.lists):
                    assert ctx.get(dut.counts[v]) == len(pairs)
                if passes[n][1] == now or passes[n][2] == now + 1:  # when new, and to the last
                    for slot in range(found.most):
                        ctx.set(dut.slot, slot)
                        for v, pairs in enumerate(found.lists):
                            if slot < len(pairs):
                                row, pixel = pairs[slot]
                                assert ctx.get(dut.pairs[v]) == row << pixel_bits | pixel
        for v in range(machine.lanes):
            if ctx.get(dut.masks[v].en):
                address = ctx.get(dut.masks[v].address)
                tile = tile_of.get(address)
                there = tile is not None and (dense or selected[tile] <= now + 1)
                data[v] = (masks if there else written)[v][address]
        await ctx.tick()
    for signal in (dut.start, dut.selects, dut.pass_over):
        ctx.set(signal, 0)


def random_part(machine, rng):
    channels = rng.choice([rng.randint(1, 3 * machine.lanes), rng.randint(1, 30 * machine.lanes)])
    groups = -(-channels // machine.lanes)
    tile_depth = rng.randint(1, machine.accumulators - 1)
    words = -(-groups * machine.window // 64)
    depth = memory_depth(machine, "masks")
    rows = -(-(tile_depth + 1) // machine.window) * words
    tiles = rng.randint(1, min(4, depth // rows))  # the ring holds them all
    tile_more = rng.randrange(tiles)
    return {
        "flags": rng.choice([MASKED, MASKED, DENSE]),
        "channels": channels,
        "groups": groups,
        "tiles": tiles,
        "tile_depth": tile_depth,
        "tile_more": tile_more,
        "mask_base": rng.choice([0, depth - 1, rng.randrange(depth)]),
        "mask_rows": -(-(tile_depth + (tile_more > 0)) // machine.window) * words,
    }


def random_masks(machine, rng):
    """Words of every lane, with empty ones, and empty windows, among them."""
    empty = rng.choice([0.1, 0.6, 0.95])

    def word():
        if rng.random() < empty:
            return 0
        half = rng.getrandbits(64)
        return rng.choice([1 << rng.randrange(64), half, half & rng.getrandbits(64), (1 << 64) - 1])

    depth = memory_depth(machine, "masks")
    return [[word() for _ in range(depth)] for _ in range(machine.lanes)]


@given(seed=st.integers(0, 1 << 32), stop=st.none() | st.integers(0, 80))
@settings(max_examples=12, deadline=None)
def test_any_part(scanner, descriptor, seed, stop):
    """Random masks, selections and issues; before some of them another part is broken off."""
    rng, dut, machine = random.Random(seed), scanner.dut, scanner.machine

    async def script(ctx):
        for cycles in [stop, None] if stop is not None else [None]:
            part, masks = random_part(machine, rng), random_masks(machine, rng)
            await run(ctx, scanner, descriptor(machine, **part), part, masks, rng, cycles)
            if cycles is not None:
                ctx.set(dut.stop, 1)
                await ctx.tick()
                ctx.set(dut.stop, 0)
                for _ in range(4):
                    assert not ctx.get(dut.published)
                    assert not any(
                        ctx.get(signal) for signal in (dut.publishes, dut.leaves, dut.unselected)
                    )
                    await ctx.tick()

    scanner(script)


def test_passes_by_hand(scanner, descriptor):
    """A window of one pixel, R + 1 rows of lane 0 essential, row 0 of lane 1: R pairs in R cycles,
    then one more; what a pass needs is pixel 0."""
    machine, dut = scanner.machine, scanner.dut
    most = machine.accumulators
    part = {
        "flags": MASKED,
        "channels": machine.lanes * (most + 1),
        "groups": most + 1,
        "tiles": 1,
        "tile_depth": 1,
        "tile_more": 0,
        "mask_base": 0,
        "mask_rows": 1,
    }
    column = sum(1 << row * machine.window for row in range(most + 1))
    if (most + 1) * machine.window > 64:
        pytest.skip("more than a word")

    async def script(ctx):
        ctx.set(dut.config, descriptor(machine, **part))
        ctx.set(dut.masks[0].data, column)
        ctx.set(dut.masks[1].data, 1)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        seen = []
        for now in range(20):
            ctx.set(dut.selects, now == 4)
            if ctx.get(dut.publishes):
                seen.append((now, ctx.get(dut.leaves)))
            await ctx.tick()
        assert seen == [(4 + most, 0), (5 + most, 1)]
        shown = [ctx.get(entry) for entry in dut.passes]
        assert [(entry.most, entry.needed) for entry in shown] == [(most, 1), (1, 1)]

    scanner(script)
