# amaranth: UnusedElaboratable=no
"""The projection unit, cycle for cycle and nibble for nibble, against models of the test's own."""

import random
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from amaranth.sim import Simulator
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sinai.common.arithmetic import project
from sinai.common.contract import CONTRACT
from sinai.common.descriptor import Flag
from sinai.common.layer import ceil_div
from sinai.common.machine import PRESETS, Machine
from sinai.common.machine import Rpu as Size
from sinai.hw.rpu import Rpu


def machine(preset: str, size: Size, **changes) -> Machine:
    base = PRESETS[preset].model_dump()
    return Machine.model_validate({**base, "rpu": size.model_dump(), **changes})


#: A group that is no multiple of a batch; a row of P in one chunk, two rows a port word.
ODD = machine("structured-small", Size(rows=4, elements=16, hold=3, port_bits=64, depth=64))
#: Two x^Q words an element tile; a row of P takes two port words, a tile four; one column.
WIDE = machine("unstructured-small", Size(rows=2, elements=128, hold=4, port_bits=128, depth=16))
#: A tile of P loads in one cycle: slots of one cycle. One row tile a beat of p; four columns.
FAST = machine(
    "structured-small",
    Size(rows=16, elements=16, hold=5, port_bits=512, depth=32),
    columns=4,
    pses=1,
)
MACHINES = {"odd": ODD, "wide": WIDE, "fast": FAST}


@dataclass(frozen=True)
class Part:
    """A part to project; `seed` fills x^Q, P and what else is free. `k` is that of one tap."""

    tap: bool = False
    kernel: int = 1
    stride: int = 1
    h_in: int = 1
    w_in: int = 1
    w_out: int = 1
    row0: int = 0
    column0: int = 0
    channels: int = 1
    k: int = 4
    pixels: int = 1
    shift: int = 0
    unsigned: bool = True
    project: bool = True
    room: int = 0  # batches of the ring; 0: as many as the part has
    laziness: int = 0  # most cycles from `ready` of a block of pixels to its `freed`
    seed: int = 0

    @property
    def nibbles(self) -> int:
        """Of p of a pixel."""
        return self.k * (self.kernel**2 if self.tap else 1)


class Data:
    """What a part reads, where it lies, and the p that must come of it."""

    def __init__(self, m: Machine, part: Part):
        self.m, self.part = m, part
        rng = np.random.default_rng(part.seed)
        low, high = (0, 16) if part.unsigned else (-8, 8)
        q, rpu = m.rpu.word, m.rpu
        self.x = rng.integers(low, high, (part.h_in, part.w_in, part.channels))
        if rng.integers(4) == 0:  # the largest sums
            self.x[:] = high - 1
        self.words = ceil_div(part.channels, q)
        taps = 1 if part.tap else part.kernel**2
        self.matrix = rng.integers(-1, 2, (part.k, taps, part.channels))
        self.plane = part.h_in * part.w_in + int(rng.integers(3))
        self.row_tiles = ceil_div(part.k, rpu.rows)
        self.tile_words = rpu.elements // q
        self.element_tiles = ceil_div(taps * self.words, self.tile_words)
        self.q_base, self.p_base = (int(rng.integers(20)) for _ in range(2))

        # x^Q; nibbles that belong to no channel hold anything.
        padded = rng.integers(low, high, (part.h_in, part.w_in, self.words * q))
        padded[..., : part.channels] = self.x
        self.xq = {}
        for lin, pixel in enumerate(padded.reshape(-1, self.words, q)):
            for cw, word in enumerate(pixel):
                self.xq[self.q_base + cw * self.plane + lin] = join(word, 4)

        # P, tile by tile.
        rows, elements = self.row_tiles * rpu.rows, self.element_tiles * rpu.elements
        codes = np.zeros((rows, elements // q, q), int)
        flat = np.zeros((part.k, taps, self.words * q), int)
        flat[..., : part.channels] = self.matrix
        codes[: part.k, : taps * self.words] = flat.reshape(part.k, taps * self.words, q) % 4
        codes = codes.reshape(self.row_tiles, rpu.rows, self.element_tiles, rpu.elements)
        self.tiles = {}
        address = self.p_base
        for ke in range(self.element_tiles):
            for kr in range(self.row_tiles):
                bits = join(codes[kr, :, ke].ravel(), 2)
                for _ in range(rpu.load_cycles):
                    self.tiles[address] = bits % (1 << rpu.port_bits)
                    bits >>= rpu.port_bits
                    address += 1

    def tap_rows(self, pixel: int) -> list[np.ndarray]:
        """x^Q under each tap of an output pixel; zeros outside the input."""
        part = self.part
        top = part.row0 + part.stride * (pixel // part.w_out)
        left = part.column0 + part.stride * (pixel % part.w_out)
        found = []
        for y in range(top, top + part.kernel):
            for x in range(left, left + part.kernel):
                inside = 0 <= y < part.h_in and 0 <= x < part.w_in
                found.append(self.x[y, x] if inside else np.zeros(part.channels, int))
        return found

    def p(self) -> np.ndarray:
        """p of every pixel, (pixels, nibbles)."""
        part = self.part
        matrix = self.matrix.reshape(part.k, -1)
        windows = np.array([self.tap_rows(pixel) for pixel in range(part.pixels)])
        if part.tap:  # an input pixel outside gives 0, and so does a row of zeros
            return project(windows.reshape(-1, part.channels), matrix, part.shift).reshape(
                part.pixels, -1
            )
        return project(windows.reshape(part.pixels, -1), matrix, part.shift)

    @property
    def beats(self) -> int:
        return ceil_div(self.part.nibbles, 16 * self.m.pses)

    @property
    def batches(self) -> int:
        return ceil_div(self.part.pixels, self.m.columns)

    @property
    def room(self) -> int:
        return self.part.room or max(self.batches, ceil_div(self.m.rpu.hold, self.m.columns))

    def config(self) -> dict[str, int]:
        part = self.part
        flags = Flag.PROJECT * part.project | Flag.TAP * part.tap | Flag.UNSIGNED * part.unsigned
        return {
            "flags": int(flags),
            "pixels": part.pixels,
            "w_out": part.w_out,
            "rough_beats": self.beats,
            "q_kernel": part.kernel,
            "q_stride": part.stride,
            "q_w_in": part.w_in,
            "q_h_in": part.h_in,
            "q_row0": part.row0,
            "q_column0": part.column0,
            "q_words": self.words,
            "q_plane": self.plane,
            "q_base": self.q_base,
            "p_rows": part.k,
            "p_row_tiles": self.row_tiles,
            "p_element_tiles": self.element_tiles,
            "p_base": self.p_base,
            "p_shift": part.shift,
            "p_room": self.room,
        }

    def reads_of_x(self) -> int:
        """Words of x^Q that are read: those inside the input."""
        if self.part.tap:
            rows = sum(len(rows) for rows in self.new_rows())
            return rows * self.part.w_in * self.words
        ones = replace(self.part, channels=1)
        inside = Data(self.m, ones)
        inside.x[:] = 1
        return self.words * sum(int(np.sum(inside.tap_rows(i))) for i in range(ones.pixels))

    def new_rows(self) -> list[list[int]]:
        """For each output row, the input rows it needs that no output row before needs."""
        part, seen, found = self.part, set(), []
        for row in range(ceil_div(part.pixels, part.w_out)):
            top = part.row0 + row * part.stride
            rows = {y for y in range(top, top + part.kernel) if 0 <= y < part.h_in} - seen
            seen |= rows
            found.append(sorted(rows))
        return found


def join(values, width: int) -> int:
    """Values side by side, the first in the low bits."""
    return sum(int(v) % (1 << width) << width * i for i, v in enumerate(values))


def sizes(count: int, most: int) -> list[int]:
    return [min(most, count - first) for first in range(0, count, most)]


def timing(data: Data, begin: int, freed: list[tuple[int, int]], contract=CONTRACT):
    """The cycles in which `ready` steps, and to what: the slots of the unit, one by one."""
    part, rpu, load = data.part, data.m.rpu, data.m.rpu.load_cycles
    fill = contract.sram_read + contract.rpu + contract.rpu_write
    total = data.words * (1 if part.tap else part.kernel**2)
    words = sizes(total, data.tile_words)
    single = data.row_tiles * len(words) == 1
    steps, taken = [], 0

    def compute(n):
        return n if single else data.row_tiles * max(n, load)

    def room(n, cycle):
        """First cycle from `cycle` on in which n pixels fit; they are taken."""
        nonlocal taken
        taken += n
        over = taken - data.room * data.m.columns
        while sum(count for at, count in freed if at < cycle) < over:
            cycle = min(at for at, _ in freed if at >= cycle) + 1
        return cycle

    def run(groups, start, limited):
        """Slots of `groups`, the first gathered from `start` on; last compute cycle of each."""
        slots = [(n, w, i) for n in groups for i, w in enumerate(words)]
        for (n, _, i), after in zip(slots, [*slots[1:], (0, 0, 0)], strict=True):
            if i == 0 and limited:
                start = room(n, start)
            if i == len(words) - 1:
                yield n, start + compute(n) - 1
            start += max(compute(n), after[0] * after[1])

    if not part.tap:
        groups = sizes(part.pixels, rpu.hold)
        for n, last in run(groups, begin + max(load, groups[0] * words[0]), True):
            steps.append((last + fill, n))
    else:
        now, first_load = begin, load
        left = part.pixels
        for rows in data.new_rows():
            groups = sizes(part.w_in, rpu.hold) * len(rows)
            if groups:
                now += max(first_load, groups[0] * words[0])
                first_load = 0
                now = list(run(groups, now, False))[-1][1] + fill
            for n in sizes(min(part.w_out, left), rpu.hold):
                now = room(n, now) + n * part.kernel**2
                steps.append((now - 1 + fill, n))
                left -= n
    ready, total = [], 0
    for cycle, n in steps:
        total += n
        ready.append((cycle, total))
    return ready


class Bench:
    """Runs parts on a projection unit: its memories, what uses its p, and a watch on both."""

    def __init__(self, m: Machine, contract=CONTRACT):
        self.m, self.contract = m, contract
        self.dut = Rpu(m, contract=contract)
        self.sim = Simulator(self.dut)
        self.sim.add_clock(1e-6)
        self.sim.add_testbench(self._drive)
        self.used = False

    def __call__(self, *parts: Part, abort_after: int | None = None):
        """Run `parts` one after the other; with `abort_after` break off the first so many cycles
        after its start and check that it is quiet then."""
        self.parts, self.abort_after = parts, abort_after
        if self.used:
            self.sim.reset()
        self.used = True
        self.sim.run()

    async def _drive(self, ctx):
        self.ctx, self.cycle, self.p = ctx, 0, {}
        self.slot, self.column, self.base = 0, 0, 0
        self.xq_reads = self.matrix_reads = 0
        self.data = None
        self.kept = None
        for index, part in enumerate(self.parts):
            data = Data(self.m, part)
            if not part.project:
                data = self.kept
            await self._part(data, part, self.abort_after if index == 0 else None)

    async def _tick(self, **inputs):
        """One cycle with `inputs`; return what the unit shows in it. Memories are served."""
        ctx, dut = self.ctx, self.dut
        for name in ("start", "abort", "freed"):
            ctx.set(getattr(dut, name), inputs.get(name, 0))
        names = ["xq_en", "xq_address", "matrix_en", "matrix_address", "p_en", "p_address"]
        names += ["p_mask", "p_data", "ready", "base_slot", "progress"]
        _, _, *values = await ctx.tick().sample(*(getattr(dut, name) for name in names))
        shown = dict(zip(names, values, strict=True))
        if shown["xq_en"]:
            ctx.set(dut.xq_data, self.data.xq[shown["xq_address"]])
            self.xq_reads += 1
        if shown["matrix_en"]:
            ctx.set(dut.matrix_data, self.data.tiles[shown["matrix_address"]])
            self.matrix_reads += 1
        return shown

    def _write(self, shown):
        if not shown["p_en"]:
            return
        assert shown["p_en"] & (shown["p_en"] - 1) == 0, "one bank a cycle"
        grain = self.dut.p_granularity
        key = shown["p_en"].bit_length() - 1, shown["p_address"]
        word = self.p.get(key, 0)
        for piece in range(64 * self.m.pses // grain):
            if shown["p_mask"] >> piece & 1:
                field = ((1 << grain) - 1) << grain * piece
                word = word & ~field | shown["p_data"] & field
        self.p[key] = word

    def _nibbles(self, data: Data, pixel: int) -> list[int]:
        """p of a pixel, as it lies in the memory."""
        batch, bank = divmod(pixel, self.m.columns)
        row = (self.base + batch) % data.room * data.beats
        width = 64 * self.m.pses
        word = sum(self.p.get((bank, row + b), 0) << width * b for b in range(data.beats))
        nibbles = [word >> 4 * n & 15 for n in range(data.part.nibbles)]
        return [n - 16 if n > 7 else n for n in nibbles]

    async def _part(self, data: Data, part: Part, abort_after):
        self.data = data
        self.xq_reads = self.matrix_reads = 0
        rng = random.Random(part.seed)
        config = data.config() | {"flags": data.config()["flags"] & ~int(Flag.PROJECT)}
        if part.project:
            config = data.config()
            slot = self.slot + (self.column != 0)
            self.base = 0 if slot >= data.room else slot
            last = self.base * self.m.columns + part.pixels
            self.slot = last // self.m.columns % data.room
            self.column = last % self.m.columns
            self.kept = data
        self.ctx.set(self.dut.config, config)
        shown = await self._tick(start=1)
        assert shown["base_slot"] == self.base
        wanted = data.p()
        # Blocks of batches that are freed as one, no larger than a ring of this size allows; with
        # laziness -1 nothing is freed, and the part after may use it.
        most = (data.room * self.m.columns - self.m.rpu.hold + 1) // self.m.columns
        block = self.m.columns * rng.randint(1, most)
        blocks = sizes(part.pixels, block)
        begin, cycle, seen, freed = 0, 0, [], []
        self.quiet = []  # cycle by cycle, whether nothing was in progress
        ready = released = checked = 0
        due = None
        limit = 6000
        while True:
            give = 0
            if blocks and ready >= released + blocks[0] and part.laziness >= 0:
                due = cycle + rng.randint(0, part.laziness) if due is None else due
                if cycle >= due:
                    give, due = blocks.pop(0), None
                    freed.append((cycle, give))
            if abort_after is not None and cycle == abort_after:
                await self._abort()
                return
            shown = await self._tick(freed=give)
            assert shown["base_slot"] == self.base
            # p that is ready may be read in this cycle, before it is written; until it is freed.
            for pixel in range(checked, shown["ready"]):
                assert self._nibbles(data, pixel) == wanted[pixel].tolist(), (pixel, cycle)
            checked = shown["ready"]
            for pixel in range(released, released + give):
                assert self._nibbles(data, pixel) == wanted[pixel].tolist(), (pixel, cycle)
            released += give
            self._write(shown)
            assert shown["progress"] or not (shown["xq_en"] or shown["matrix_en"])
            self.quiet.append(not shown["progress"])
            if shown["ready"] != ready:
                ready = shown["ready"]
                seen.append((cycle, ready))
            cycle += 1
            if ready == part.pixels and (not blocks or part.laziness < 0):
                break
            assert cycle < limit, f"{ready} of {part.pixels} pixels are ready; freed {freed}"
        for _ in range(4):  # nothing comes late
            shown = await self._tick()
            assert not any(shown[name] for name in ("p_en", "xq_en", "matrix_en", "progress"))
        if not part.project:
            assert seen == [(begin, part.pixels)]
            assert self.xq_reads == self.matrix_reads == 0
            return
        assert seen == timing(data, begin, freed, self.contract)
        assert self.xq_reads == data.reads_of_x()
        rows = [part.w_in] * sum(map(len, data.new_rows())) if part.tap else [part.pixels]
        tiles = sum(ceil_div(n, self.m.rpu.hold) for n in rows)
        tiles *= data.row_tiles * data.element_tiles
        if data.row_tiles * data.element_tiles == 1:
            tiles = 1
        assert self.matrix_reads == tiles * self.m.rpu.load_cycles

    async def _abort(self):
        await self._tick(abort=1)
        for _ in range(8):
            shown = await self._tick()
            names = ("xq_en", "matrix_en", "p_en", "ready", "progress", "base_slot")
            assert not any(shown[name] for name in names)
        self.slot = self.column = 0


@st.composite
def parts(draw, m: Machine, tap: bool | None = None):
    """Parts of any geometry that the unit takes, small enough to simulate."""
    tap = draw(st.booleans()) if tap is None else tap
    kernel = draw(st.sampled_from([1, 2, 3, 3, 7] if tap else [1, 1, 3, 7]))
    stride = draw(st.integers(1, 3))
    padding = draw(st.integers(0, min(3, kernel - 1)))
    column0 = -padding
    w_in = draw(st.integers(max(1, kernel - 2 * padding), 9))
    w_out = (w_in + 2 * padding - kernel) // stride + 1
    rows = draw(st.integers(1, 3))
    row0 = draw(st.integers(-padding, 2))
    h_in = row0 + (rows - 1) * stride + kernel - draw(st.integers(0, padding))
    assume(h_in >= 1 and row0 < h_in and row0 + (rows - 1) * stride < h_in)
    pixels = w_out * rows - draw(st.integers(0, w_out - 1))
    most = {1: 40, 2: 30, 3: 20, 7: 5}[kernel] * (m.rpu.elements // 16)
    channels = draw(st.integers(1, 40 * m.rpu.elements // 16 if tap else most))
    if tap:
        k = 4 * draw(st.integers(1, min(16 * m.pses, 64, m.rpu.depth) // 4))
    else:
        k = draw(st.integers(1, min(m.rpu.depth, 20)))
    hold = ceil_div(m.rpu.hold, m.columns)
    part = Part(
        tap=tap,
        kernel=kernel,
        stride=stride,
        h_in=h_in,
        w_in=w_in,
        w_out=w_out,
        row0=row0,
        column0=column0,
        channels=channels,
        k=k,
        pixels=pixels,
        shift=draw(st.integers(0, 6)),
        unsigned=draw(st.booleans()),
        room=draw(st.sampled_from([0, hold, hold + 1, hold + 3])),
        laziness=draw(st.sampled_from([0, 3, 40])),
        seed=draw(st.integers(0, 99)),
    )
    # A ring that the p memory has no room for is not for the unit to refuse: the compiler does.
    beats = ceil_div(k * (kernel**2 if tap else 1), 16 * m.pses)
    depth = (m.memories.p.capacity_kib << 10) // (8 * m.pses * m.columns)
    data = Data(m, part)
    assume(data.p_base + data.room * beats <= depth)
    return part


@pytest.fixture(scope="module")
def units():
    """Function from the name of a machine to its bench, made on first use."""
    return cache(lambda name: Bench(MACHINES[name]))


@pytest.mark.parametrize("tap", [False, True], ids=["patch", "tap"])
@pytest.mark.parametrize("name", MACHINES)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_part(units, name, tap, data):
    """Values, cycles and accesses of parts of any geometry, with a ring that runs full."""
    units(name)(data.draw(parts(MACHINES[name], tap)))


@pytest.mark.parametrize("name", MACHINES)
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_parts_in_a_row(units, name, data):
    """The ring goes on from part to part, whatever its size; p stays for parts that do not project;
    a part that is broken off leaves nothing behind."""
    made = []
    for _ in range(data.draw(st.integers(1, 3))):
        part = replace(data.draw(parts(MACHINES[name])), pixels=data.draw(st.integers(1, 4)))
        fate = data.draw(st.sampled_from(["freed", "used twice", "dropped"]))
        if fate == "freed":
            made.append(part)
        else:  # all of its p stays, until another part frees it or drops it
            made.append(replace(part, room=0, laziness=-1))
        if fate == "used twice":
            made.append(replace(part, project=False))
    after = data.draw(st.none() | st.integers(0, 60))
    units(name)(
        *([replace(made[0], laziness=-1)] if after is not None else []), *made, abort_after=after
    )


def test_one_pixel_by_hand(units):
    """One pixel, one tile: load_cycles = 2 cycles of loading, one pass, six cycles to p."""
    assert timing(Data(ODD, Part()), 0, []) == [(2 + 6, 1)]
    units("odd")(Part())


def test_slots_by_hand(units):
    """3 + 1 pixels of 3 x^Q words and 2 row tiles on ODD (load_cycles = 2, hold = 3).

    Gathering of 3, 3, 3, 1, 1, 1 words; computing of 6, 6, 6, 4, 4, 4 cycles. The first slot starts
    in cycle 3, the first group computes until 3 + 18 - 1 = 20, the second until 32.
    """
    part = Part(h_in=1, w_in=4, w_out=4, pixels=4, channels=48, k=8)
    assert timing(Data(ODD, part), 0, []) == [(20 + 6, 3), (32 + 6, 4)]
    units("odd")(part)


def test_gathering_bounds_by_hand(units):
    """One row tile of WIDE is 8 cycles of loading; a window of 2 words, 4 pixels gather 8 words.

    Groups of 4 and 2, one tile of P in all, so it stays: the first passes in cycles 8 to 11 while
    4 words are gathered, the second in 12 and 13.
    """
    load = WIDE.rpu.load_cycles
    assert load == 2 * 2 * 128 // 128 == 4
    part = Part(h_in=1, w_in=6, w_out=6, pixels=6, channels=128, k=2)
    assert timing(Data(WIDE, part), 0, []) == [(11 + 6, 4), (13 + 6, 6)]
    units("wide")(part)


def test_copying_by_hand(units):
    """2x2 taps over a 3x2 image on ODD: rows 0 and 1, copied; then row 2, copied.

    One tile of P. Row 0 is gathered in 0 to 1, passes in 2 and 3; row 1 in 4 and 5. The first
    output row has one pixel: copied in 5 + 6 = 11 to 14, ready in 20. Row 2 is gathered in 15 and
    16, passes in 17 and 18; its output is copied in 24 to 27, ready in 33.
    """
    part = Part(tap=True, kernel=2, h_in=3, w_in=2, w_out=1, pixels=2, k=4)
    assert timing(Data(ODD, part), 0, []) == [(20, 1), (33, 2)]
    units("odd")(part)


def test_a_full_ring_waits(units):
    """FAST, 14 pixels in groups of 5, 5 and 4, a ring of 8: the others wait for 2 and 6 freed.

    Gathered in 0 to 4, passes in 5 to 9; 4 pixels freed in 30 let the next pass in 31 to 35, and 4
    in 40 the last in 41 to 44.
    """
    part = Part(h_in=1, w_in=14, w_out=14, pixels=14, channels=16, k=16, room=2)
    freed = [(30, 4), (40, 4), (60, 4)]
    expected = [(9 + 6, 5), (35 + 6, 10), (44 + 6, 14)]
    assert timing(Data(FAST, part), 0, freed) == expected
    bench = units("fast")
    bench(replace(part, laziness=40))
    # A wait for the ring is no progress: so the watchdog sees one that would never end.
    assert not any(bench.quiet[:10])
    assert "1" * 10 in "".join(str(int(quiet)) for quiet in bench.quiet)


@pytest.mark.parametrize("changes", [{"rpu": 5}, {"rpu": 7}, {"rpu_write": 3}])
@pytest.mark.parametrize("tap", [False, True], ids=["patch", "tap"])
def test_latency_follows_the_contract(changes, tap):
    """Each cycle more in the contract is one more to every step of `ready`."""
    part = Part(tap=tap, kernel=2, h_in=4, w_in=5, w_out=4, pixels=12, channels=33, k=8, room=3)
    Bench(FAST, replace(CONTRACT, **changes))(part)


@pytest.mark.parametrize("changes", [{"rpu": 3}, {"sram_read": 2}, {"rpu_write": 0}])
def test_impossible_contracts_are_refused(changes):
    with pytest.raises(ValueError, match="needs sram_read = 1, rpu >= 4 and rpu_write >= 1, not"):
        Rpu(ODD, contract=replace(CONTRACT, **changes))
