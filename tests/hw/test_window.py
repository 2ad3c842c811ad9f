# amaranth: UnusedElaboratable=no
"""The window of x words: order and cycles of the fetches, and what the lanes see of them."""

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinai.hw.window import Window

MACHINES = [{}, {"lanes": 2, "window": 1}, {"lanes": 2, "window": 4, "pses": 1}]


@pytest.fixture(scope="module", params=MACHINES, ids=lambda changes: str(changes.get("window", 2)))
def window(request, stepped, small):
    machine = small("unstructured", **request.param)
    made = stepped(Window(machine))
    made.machine = machine
    return made


@dataclass
class Unit:
    """A beat of a pass: its fetches (pixel of the window, row of x or None for padding), the cycle
    of the first; first issue, and the cycle behind the last."""

    fetches: list
    begin: int
    first: int
    end: int


def random_geometry(rng):
    kernel, stride, pad = rng.choice([(1, 1, 0), (1, 2, 0), (2, 1, 1), (3, 1, 1), (3, 2, 2)])
    w_in, h_in = rng.randint(kernel, 8), rng.randint(kernel, 6)
    w_out = (w_in + 2 * pad - kernel) // stride + 1
    top = rng.choice([-pad, 0, 1])
    return {
        "kernel": kernel,
        "stride": stride,
        "w_in": w_in,
        "h_in": h_in,
        "w_out": w_out,
        "row0": top,
        "column0": -pad,
        "linear0": top * w_in - pad,
        "wrap_column": stride * w_out,
        "wrap_linear": stride * (w_in - w_out),
        "x_words": rng.randint(1, 2),
        "x_plane": w_in * h_in + rng.randint(0, 3),
        "x_base": rng.randrange(50),
    }


def row_of(v, pixel, tap_row, tap_column, word):
    """Row of x that a pixel reads for a beat; None: padding."""
    line, out = divmod(pixel, v["w_out"])
    row = v["row0"] + v["stride"] * line + tap_row
    column = v["column0"] + v["stride"] * out + tap_column
    if not (0 <= row < v["h_in"] and 0 <= column < v["w_in"]):
        return None
    return v["x_base"] + word * v["x_plane"] + row * v["w_in"] + column


class Part:
    """Passes of random tiles, and when they are published, fetched and issued.

    fe[u] = max(fe[u-1], ie[u-2], se[pass]) + X; ie[u] = max(ie[u-1], fe[u]) + L.
    """

    def __init__(self, machine, rng):
        width, most = machine.window, machine.accumulators
        self.values = v = random_geometry(rng)
        self.passes, self.units, self.moves = [], [], {0: 0}  # moves: cycle -> tile_pixel
        lazy, late = rng.choice([0, 0, 3]), rng.choice([0, 5, 60])
        fetched, ends, published, over = 0, [0, 0], [0], [0, 0]
        first, tile_over, walked = 0, 0, -1
        tiles = rng.randint(1, 8)
        for tile in range(tiles):
            depth = rng.choice([most, rng.randint(1, most)])
            # Positions of the tile are there in time: a pixel a cycle, 3 R ahead at most.
            for pixel in range(first, first + depth):
                free = min(c for c, p in self.moves.items() if pixel - p < 3 * most)
                walked = max(walked + 1, free)
            windows = range(0, depth, width)
            chosen = sorted(rng.choices(windows, k=rng.choice([0, 1, 1, 2])))
            for within in chosen:
                count = min(width, depth - within)
                needed = rng.randint(1, (1 << count) - 1)
                se = max(published[-1] + 1, over[-2] + 1, walked + 1) + rng.randint(0, late)
                published.append(se)
                self.passes.append((se, first + within, needed, tile % 2))
                pixels = [p for p in range(width) if needed >> p & 1]
                issues = rng.randint(1, most)
                for tap in range(v["kernel"] ** 2 * v["x_words"]):
                    tap, word = divmod(tap, v["x_words"])
                    reads = [
                        (p, row_of(v, first + within + p, *divmod(tap, v["kernel"]), word))
                        for p in pixels
                    ]
                    begin = max(fetched, ends[-2], se)
                    fetched = begin + len(pixels)
                    issue = max(ends[-1], fetched) + rng.randint(0, lazy)
                    ends.append(issue + issues)
                    self.units.append(Unit(reads, begin, issue, ends[-1]))
                over.append(ends[-1])
            # A tile is over when its passes are, and never before its pixels are walked.
            tile_over = over[-1] if chosen else max(tile_over, walked) + 1
            first += depth
            self.moves[tile_over] = first
        self.values["pixels"] = first
        self.end = max([ends[-1], tile_over, walked]) + 3


async def run(ctx, made, descriptor, part, rng, cycles=None):
    """Start, and hold every cycle to the schedule; `cycles` breaks off."""
    dut, m = made.dut, made.machine
    x = {}
    fetches = {unit.begin + n: f for unit in part.units for n, f in enumerate(unit.fetches)}
    firsts = {unit.first for unit in part.units}
    ends = {unit.end for unit in part.units}
    # Lanes look a cycle after each issue of a unit.
    looks = {
        now: (n, unit)
        for n, unit in enumerate(part.units)
        for now in range(unit.first + 1, unit.end + 1)
    }
    ctx.set(dut.config, descriptor(m, **part.values))
    for now in range(-1, part.end if cycles is None else min(cycles, part.end)):
        ctx.set(dut.start, now == -1)
        ctx.set(dut.begun, now in firsts)
        ctx.set(dut.ended, now + 1 in ends)
        ctx.set(dut.publishes, now + 1 in [se for se, *_ in part.passes])
        ctx.set(dut.tile_pixel, part.moves[max(c for c in part.moves if c <= max(now, 0))])
        for n, (se, pixel, needed, tile) in enumerate(part.passes):
            if se == now:
                shown = {"pixel": pixel, "needed": needed, "most": 1, "tile": tile}
                ctx.set(dut.passes[n % 2], shown)
        if now >= 0:
            row = fetches.get(now, (0, None))[1]
            assert ctx.get(dut.x.en) == (row is not None)
            if row is not None:
                assert ctx.get(dut.x.address) == row
            ready = any(u.begin + len(u.fetches) <= now <= u.first for u in part.units)
            assert ctx.get(dut.ready) == ready
            if now in looks:
                n, unit = looks[now]
                ctx.set(dut.half, n % 2)
                asked = [rng.choice(unit.fetches) for _ in range(m.lanes)]
                for v, (pixel, _) in enumerate(asked):
                    ctx.set(dut.pixel[v], pixel)
                seen = [ctx.get(word) for word in dut.words]
                assert seen == [0 if at is None else x[at] for _, at in asked]
        # Data come a cycle later, and other words when nothing is read.
        data = rng.getrandbits(16 * m.pses)
        if ctx.get(dut.x.en):
            data = x.setdefault(ctx.get(dut.x.address), data)
        await ctx.tick()
        ctx.set(dut.x.data, data)
    for signal in (dut.begun, dut.ended, dut.publishes):
        ctx.set(signal, 0)


@given(seed=st.integers(0, 1 << 32), broken=st.booleans())
@settings(max_examples=10, deadline=None)
def test_any_part(window, descriptor, seed, broken):
    """Random geometries, passes and issues; before some of them another part is broken off."""
    rng, dut = random.Random(seed), window.dut

    async def script(ctx):
        part = Part(window.machine, rng)
        if broken:
            # At any time, or between two words of a beat.
            cycles = [range(part.end)]
            cycles += [range(u.begin, u.begin + len(u.fetches) - 1) for u in part.units[:20]]
            stop = rng.choice(rng.choice([those for those in cycles if those]))
            await run(ctx, window, descriptor, part, rng, stop)
            ctx.set(dut.stop, 1)
            await ctx.tick()
            ctx.set(dut.stop, 0)
            for _ in range(4):
                assert not ctx.get(dut.ready)
                assert not ctx.get(dut.x.en)
                await ctx.tick()
            part = Part(window.machine, rng)
        await run(ctx, window, descriptor, part, rng)

    window(script)


def test_order_by_hand(stepped, small, descriptor):
    """Both pixels of a window of a 3 x 3 kernel, padding 1, over 2 x 2 pixels of x from row 10:
    outputs 0 and 1 read nine taps in turn, of which four each are inside."""
    machine = small("unstructured")
    made = stepped(Window(machine))
    dut = made.dut
    fields = {
        "kernel": 3,
        "stride": 1,
        "w_in": 2,
        "h_in": 2,
        "w_out": 2,
        "pixels": 4,
        "row0": -1,
        "column0": -1,
        "linear0": -3,
        "wrap_column": 2,
        "wrap_linear": 0,
        "x_words": 1,
        "x_plane": 4,
        "x_base": 10,
    }

    async def script(ctx):
        ctx.set(dut.config, descriptor(machine, **fields))
        ctx.set(dut.passes[0], {"pixel": 0, "needed": 3, "most": 1, "tile": 0})
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        seen = []
        for now in range(40):
            ctx.set(dut.publishes, now == 4)
            # A beat issues as soon as it is there, in one cycle.
            ctx.set(dut.begun, ctx.get(dut.ready))
            ctx.set(dut.ended, ctx.get(dut.ready))
            if ctx.get(dut.x.en):
                seen.append((now - 5, ctx.get(dut.x.address)))
            await ctx.tick()
        # (2 * tap + pixel, row): tap 3 of pixel 1 is left of its window's middle, pixel 0.
        assert seen == [
            (2 * 3 + 1, 10),
            (2 * 4 + 0, 10),
            (2 * 4 + 1, 11),
            (2 * 5 + 0, 11),
            (2 * 6 + 1, 12),
            (2 * 7 + 0, 12),
            (2 * 7 + 1, 13),
            (2 * 8 + 0, 13),
        ]

    made(script)
