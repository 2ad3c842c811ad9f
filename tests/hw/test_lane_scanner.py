# amaranth: UnusedElaboratable=no
"""A lane's scanner, against lists: any masks, passes and pauses; cycles of every word."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinai.common.descriptor import memory_depth
from sinai.hw.lane_scanner import LaneScanner, pair_bits

#: W of 2, 1 and 16: words of 32, 64 and 4 rows.
WIDTHS = [2, 1, 16]


@pytest.fixture(scope="module", params=WIDTHS)
def lane(request, stepped, small):
    memories = small("unstructured").memories.model_dump()
    memories["masks"] = {"capacity_kib": 3, "macro_kib": 1}  # rows: no power of two
    machine = small("unstructured", window=request.param, memories=memories)
    made = stepped(LaneScanner(machine))
    made.machine = machine
    return made


def events_of(bits, rows, pixels, width):
    """Of a window, a list (pair or None, whether the window is over) for each cycle.

    `bits` holds the words. A word with n pairs takes n cycles, one without any takes a cycle.
    """
    found = []
    rows_a_word = 64 // width
    for word, value in enumerate(bits):
        pairs = [
            (word * rows_a_word + r, pixel)
            for r in range(rows_a_word)
            for pixel in range(width)
            if value >> (r * width + pixel) & 1 and word * rows_a_word + r < rows and pixel < pixels
        ]
        found += pairs or [None]
    return [(pair, n == len(found) - 1) for n, pair in enumerate(found)]


class Memory64:
    """The bank of masks: data a cycle after the address."""

    def __init__(self, dut, words):
        self.dut, self.words, self.data = dut, words, 0

    def show(self, ctx):
        ctx.set(self.dut.data, self.data)

    def read(self, ctx):
        """At the end of a cycle."""
        if ctx.get(self.dut.en):
            self.data = self.words[ctx.get(self.dut.address)]


async def tile(ctx, lane, bank, rng, at, windows, dense, stop=None):
    """Scan the windows of a tile, (rows, pixels, words) each, whose masks begin at row `at`.

    Other lanes, played here, are ready in random cycles; pauses are random too. In cycle `stop` the
    tile is broken off.
    """
    dut, machine = lane.dut, lane.machine
    width, most, depth = machine.window, machine.accumulators, len(bank.words)
    _, pixel_bits = pair_bits(machine)
    ctx.set(dut.dense, dense)
    cycle, filling = 0, 0
    for number, (rows, pixels, words) in enumerate(windows):
        values = [bank.words[(at + k) % depth] for k in range(words)]
        at = (at + words) % depth
        events = events_of([(1 << 64) - 1] * words if dense else values, rows, pixels, width)
        ctx.set(dut.rows, rows)
        ctx.set(dut.words, words)
        ctx.set(dut.pixels, pixels)
        ended = False
        while not ended:
            taken, stopped, over = [], False, False
            for _ in range(1000):  # a pass
                bank.show(ctx)
                if cycle == stop:
                    return
                cycle += 1
                scan = rng.random() < 0.8
                others = rng.random() < 0.5
                ctx.set(dut.scan, scan)
                # Nothing that is read anew in a pause differs.
                ctx.set(dut.again, not scan and rng.getrandbits(1))
                works = scan and not stopped and bool(events) and len(taken) < most
                pair, last = events[0] if works else (None, False)
                assert ctx.get(dut.takes) == (pair is not None)
                if pair is not None:
                    assert ctx.get(dut.pixel) == pair[1]
                if works:
                    events.pop(0)
                    taken += [pair] if pair else []
                    over = over or last
                stopped = stopped or (works and (last or len(taken) == most))
                assert ctx.get(dut.count) == len(taken)
                assert ctx.get(dut.ended) == over
                assert ctx.get(dut.stops) == stopped
                finish = scan and stopped and others
                publish = finish and (bool(taken) or rng.getrandbits(1))
                ctx.set(dut.new_pass, publish)
                ended = finish and over
                ctx.set(dut.new_window, ended)
                begin = ended and number == len(windows) - 1
                ctx.set(dut.begin, begin)
                if begin:
                    ctx.set(dut.first, at)
                if dense:
                    assert not ctx.get(dut.en)
                bank.read(ctx)
                await ctx.tick()
                if publish:
                    ctx.set(dut.half, filling)
                    for slot, expected in enumerate(taken):
                        ctx.set(dut.slot, slot)
                        assert divmod(ctx.get(dut.pair), 1 << pixel_bits) == expected
                    filling = 1 - filling
                if finish:
                    break
            else:
                raise AssertionError("a pass without end")
    ctx.set(dut.scan, 0)


@given(seed=st.integers(0, 1 << 32), dense=st.booleans(), stop=st.none() | st.integers(0, 60))
@settings(max_examples=15, deadline=None)
def test_any_windows(lane, seed, dense, stop):
    """Windows of any masks, from empty to full; words beyond the ring's end lie at its start."""
    rng, dut, machine = random.Random(seed), lane.dut, lane.machine
    depth = memory_depth(machine, "masks")
    rows_a_word = 64 // machine.window

    async def script(ctx):
        words = []
        for _ in range(depth):
            few = 1 << rng.randrange(64) | 1 << rng.randrange(64)
            half = rng.getrandbits(64)
            words.append(rng.choice([0, 0, few, few, half, half & rng.getrandbits(64), 1 << 63]))
        bank = Memory64(dut, words)
        for until in [stop, None] if stop is not None else [None]:
            at = rng.randrange(depth)
            ctx.set(dut.clear, 1)
            ctx.set(dut.begin, 1)
            ctx.set(dut.first, at)
            ctx.set(dut.dense, dense)
            ctx.set(dut.scan, 0)
            ctx.set(dut.new_pass, 0)
            ctx.set(dut.new_window, 0)
            ctx.set(dut.again, 0)
            bank.read(ctx)
            await ctx.tick()
            ctx.set(dut.clear, 0)
            ctx.set(dut.begin, 0)
            # Channels may leave this lane fewer rows, and words, than others.
            rows_of_all = rng.choice([1, rows_a_word, rng.randint(1, 2 * rows_a_word + 2)])
            count = -(-rows_of_all // rows_a_word)
            rows = rows_of_all - rng.getrandbits(1)
            windows = [(rows, machine.window, count)] * rng.randint(0, 3)
            windows.append((rows, rng.randint(1, machine.window), count))
            await tile(ctx, lane, bank, rng, at, windows, dense, until)

    lane(script)


def test_reads_the_word_again(lane):
    """A word that is written behind its first reading counts as it is when it was read again."""
    dut = lane.dut

    async def script(ctx):
        bank = Memory64(dut, [0] * memory_depth(lane.machine, "masks"))
        for port, value in ((dut.rows, 1), (dut.words, 1), (dut.pixels, 1), (dut.first, 5)):
            ctx.set(port, value)
        ctx.set(dut.begin, 1)
        bank.read(ctx)
        await ctx.tick()
        ctx.set(dut.begin, 0)
        bank.words[5] = 1
        for again in (0, 1):
            bank.show(ctx)
            ctx.set(dut.again, again)
            bank.read(ctx)
            await ctx.tick()
        bank.show(ctx)
        ctx.set(dut.again, 0)
        ctx.set(dut.scan, 1)
        assert (ctx.get(dut.takes), ctx.get(dut.count), ctx.get(dut.ended)) == (1, 1, 1)

    lane(script)
