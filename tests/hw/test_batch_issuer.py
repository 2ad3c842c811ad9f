# amaranth: UnusedElaboratable=no
"""The structured issuer, cycle for cycle against the recurrence of its items.

An item is a batch of a unit: f cycles of fetching, n of issue, a gate g, weights loaded at le.
s_q = max(s_{q-1} + n_{q-1}, max(s_{q-1} + 1, g_q) + f_q - 1, le[unit]).
"""

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinai.common.contract import CONTRACT, STALL_CAUSES
from sinai.common.descriptor import Flag, memory_depth
from sinai.hw.batch_issuer import BatchIssuer

BOTH, DENSE, ROUGH = Flag.APPROXIMATE | Flag.EXACT, Flag.EXACT, Flag.APPROXIMATE

MACHINES = {
    "two columns": {"accumulators": 32},
    "four columns": {"accumulators": 32, "columns": 4, "collector": 1, "pses": 1},
    "one column": {"accumulators": 16, "columns": 1, "lanes": 1, "collector": 3},
}

#: A ring of masks whose rows are no power of two: 3 KiB.
MASKS = {"capacity_kib": 3, "macro_kib": 1}


@pytest.fixture(scope="module", params=MACHINES)
def issuer(request, stepped, small):
    memories = small("structured").memories.model_dump() | {"masks": MASKS}
    machine = small("structured", memories=memories, **MACHINES[request.param])
    made = stepped(BatchIssuer(machine))
    made.machine = machine
    return made


@dataclass(eq=False)
class Item:
    """A batch of a unit, and when it happens."""

    step: int
    exact: bool
    group: int
    unit: int
    batch: int  # of the part
    place: int  # in its unit
    mask_row: int
    tap: tuple = ()  # kr, kc, word
    beat: int = 0
    row: int = 0
    needed: int = 0  # pixels of p
    first: bool = False  # beat of the dot product
    last: bool = False
    ends_unit: bool = False
    ends_step: bool = False
    freed: int = 0
    masks: list = field(default_factory=list)  # of (v, t) at t * V + v
    reads: list = field(default_factory=list)  # {column: (bank, row)} of each cycle of fetching
    taps: int = 0
    gate: int = 0
    fetch: int = 0  # first cycle of fetching
    begin: int = 0
    cycles: int = 1
    bubble: bool = False


def cut(total, deepest):
    """Count of near-equal pieces, least size, how many have one more."""
    count = -(-total // deepest)
    return count, *divmod(total, count)


class Part:
    """Random fields, masks and outside of a part, and its items."""

    def __init__(self, machine, rng, *, flags=None, tiles=None):
        self.m, self.rng = machine, rng
        columns, lanes = machine.columns, machine.lanes
        # A group has at most `most` essential channels, and a tile room for them all.
        most = 8 if flags == DENSE else rng.choice([1, 2, 8])
        deepest = machine.accumulators // most
        tiles = tiles or rng.randint(1, 3)
        depth = rng.randint(1, min(5, deepest))
        more = rng.randrange(tiles) if depth < deepest else 0
        batches = tiles * depth + more
        sub = min(machine.accumulators // 2, machine.collector)
        groups = rng.randint(1, 2) if tiles < 3 else 1
        flags = flags or rng.choice([BOTH, BOTH, BOTH, DENSE if most == 8 else BOTH, ROUGH])
        if flags != DENSE and rng.getrandbits(1):
            flags |= Flag.RELEASE
        kernel, stride, pad = rng.choice([(1, 1, 0), (1, 2, 0), (2, 1, 1), (3, 2, 1)])
        w_in, h_in = rng.randint(kernel, 7), rng.randint(kernel, 5)
        w_out = max(1, (w_in + 2 * pad - kernel) // stride + 1)
        top, left = rng.choice([-pad, 0, 1]), -pad
        x_words, plane = rng.randint(1, 4 - kernel), -(-w_in * h_in // columns) + rng.randint(0, 3)
        line = stride * (columns // w_out)
        values = {
            "flags": flags,
            "pixels": batches * columns - rng.randrange(columns),
            "channels": groups * 8 * lanes - rng.randrange(8 * lanes),
            "w_out": w_out,
            "batches": batches,
            "groups": groups,
            "tiles": tiles,
            "tile_depth": depth,
            "tile_more": more,
            "kernel": kernel,
            "stride": stride,
            "w_in": w_in,
            "h_in": h_in,
            "row0": top,
            "column0": left,
            "linear0": top * w_in + left,
            "step_columns": columns % w_out,
            "step_column": stride * (columns % w_out),
            "step_row": line,
            "step_linear": line * w_in + stride * (columns % w_out),
            "wrap_column": stride * w_out,
            "wrap_linear": stride * (w_in - w_out),
            "x_words": x_words,
            "x_plane": plane,
            "x_base": rng.randrange(20),
            "rough_beats": rng.randint(1, 2),
            "mask_base": rng.choice([0, memory_depth(machine, "masks") - rng.randint(1, 6)]),
            "p_room": depth + 1 + rng.randint(0, 5),
        }
        for suffix, total in (("", depth), ("_deep", depth + 1)):
            pieces = cut(total, sub)
            names = (f"sub_{n}{suffix}" for n in ("count", "depth", "more"))
            values |= dict(zip(names, pieces, strict=True))
        self.values, self.sub = values, sub
        self.base_slot = rng.randrange(values["p_room"])
        # Masks by row of the ring, with empty batches among them.
        empty = rng.choice([0, 0.3])
        self.masks = {}
        for n in range(batches * groups):
            word = 0
            for vpu in range(machine.vpus * (rng.random() >= empty)):
                channels = rng.sample(range(8), rng.choice([most, rng.randint(0, most)]))
                word |= sum(1 << c for c in channels) << 8 * vpu
            self.masks[(values["mask_base"] + n) % memory_depth(machine, "masks")] = word
        self.items = self._items()
        self._schedule()

    def _tiles(self):
        """(first batch, depth, deep, supergroup, first row of the masks), in order."""
        v, first, row = self.values, 0, self.values["mask_base"]
        for block in range(v["tiles"]):
            deep = block < v["tile_more"]
            depth = v["tile_depth"] + deep
            for group in range(v["groups"]):
                yield first, depth, group, row
                row += depth
            first += depth

    def _items(self):
        v, tiles = self.values, list(self._tiles())
        order = []
        if v["flags"] & Flag.APPROXIMATE:
            order += [(False, n) for n in range(len(tiles))]
        if v["flags"] & Flag.EXACT:
            exact = [(True, n) for n in range(len(tiles))]
            if order:
                order = [order[0]] + [
                    step for n, e in enumerate(exact) for step in (*order[n + 1 : n + 2], e)
                ]
            else:
                order = exact
        self.order = order
        found, units = [], 0
        ring = memory_depth(self.m, "masks")
        for step, (exact, tile) in enumerate(order):
            first, depth, group, row = tiles[tile]
            common = {"step": step, "exact": exact, "group": group}
            if exact:
                taps = [
                    (kr, kc, cw)
                    for kr in range(v["kernel"])
                    for kc in range(v["kernel"])
                    for cw in range(v["x_words"])
                ]
                for tap in taps:
                    found += [
                        Item(
                            **common,
                            unit=units,
                            batch=first + n,
                            place=n,
                            mask_row=(row + n) % ring,
                            tap=tap,
                            first=tap == taps[0],
                            last=tap == taps[-1],
                            ends_unit=n == depth - 1,
                        )
                        for n in range(depth)
                    ]
                    units += 1
            else:
                count, least, more = cut(depth, self.sub)
                begin = 0
                for sub in range(count):
                    size = least + (sub < more)
                    needed = (first + begin + size) * self.m.columns
                    for pair in range(4):
                        for beat in range(v["rough_beats"]):
                            found += [
                                Item(
                                    **common,
                                    unit=units,
                                    batch=first + begin + n,
                                    place=n,
                                    mask_row=(row + begin + n) % ring,
                                    beat=beat,
                                    row=2 * pair,
                                    needed=min(v["pixels"], needed),
                                    first=beat == 0,
                                    last=beat == v["rough_beats"] - 1,
                                    ends_unit=n == size - 1,
                                )
                                for n in range(size)
                            ]
                            units += 1
                    begin += size
                if group == v["groups"] - 1 and v["flags"] & Flag.RELEASE:
                    end = min(v["pixels"], (first + depth) * self.m.columns)
                    found[-1].freed = end - first * self.m.columns
            found[-1].ends_step = True
        return found

    def widths(self, group):
        left = self.values["channels"] - 8 * self.m.lanes * group
        return [max(0, min(8, left - 8 * v)) for v in range(self.m.lanes)]

    def exists(self, batch):
        first = batch * self.m.columns
        return [first + t < self.values["pixels"] for t in range(self.m.columns)]

    def _operands(self, item):
        """Masks, reads and taps of an exact item."""
        v, m = self.values, self.m
        widths, there = self.widths(item.group), self.exists(item.batch)
        stored = self.masks[item.mask_row]
        if not v["flags"] & Flag.APPROXIMATE:
            stored = -1
        item.masks = [
            stored >> 8 * (t * m.lanes + lane) & (1 << widths[lane]) - 1 if there[t] else 0
            for t in range(m.columns)
            for lane in range(m.lanes)
        ]
        item.cycles = max(mask.bit_count() for mask in item.masks)
        if not item.cycles:
            item.bubble, item.cycles = True, 1
            return
        kr, kc, word = item.tap
        pending = {}
        for t in range(m.columns):
            line, out = divmod(item.batch * m.columns + t, v["w_out"])
            row = v["row0"] + v["stride"] * line + kr
            column = v["column0"] + v["stride"] * out + kc
            if there[t] and 0 <= row < v["h_in"] and 0 <= column < v["w_in"]:
                item.taps |= 1 << t
                plane, bank = divmod(row * v["w_in"] + column, m.columns)
                pending[t] = bank, v["x_base"] + word * v["x_plane"] + plane
        while pending:
            # Each bank serves the first column that still needs it.
            now = {}
            for t in list(pending):
                if pending[t][0] not in [bank for bank, _ in now.values()]:
                    now[t] = pending.pop(t)
            item.reads.append(now)

    def _schedule(self):
        rng, begin = self.rng, CONTRACT.launch(self.m.columns)
        load, lazy = 8 // self.m.weight_words, rng.choice([0, 0, 12])
        # When p is there: for each number of pixels that is waited for.
        slow, when = rng.choice([0, 10, 50]), rng.choice([0, rng.randint(0, 40)])
        self.arrivals = {}
        for needed in sorted({item.needed for item in self.items if not item.exact}):
            self.arrivals[needed] = when
            when += rng.randint(0, slow)
        self.loaded, ended = [], []
        previous, selected = None, []
        for item in self.items:
            if item.unit == len(self.loaded):
                before = max([begin, *self.loaded[-1:], *ended[-2:-1]])
                self.loaded.append(before + load + rng.randint(0, lazy))
                ended.append(None)
            if item.exact:
                self._operands(item)
                if self.values["flags"] & Flag.APPROXIMATE:
                    tile = self.order[item.step][1]
                    item.gate = selected[tile] + CONTRACT.to_indices
            else:
                item.cycles = 2
                item.gate = self.arrivals[item.needed]
            free, after = 0, begin
            if previous:
                free, after = previous.begin + previous.cycles, previous.begin + 1
            item.fetch = max(after, item.gate)
            fetched = item.fetch + max(1, len(item.reads)) - 1
            item.begin = max(free, fetched, self.loaded[item.unit])
            end = item.begin + item.cycles
            if item.ends_unit:
                ended[-1] = end
            if item.ends_step and not item.exact:
                selected.append(end - 1)
            previous = item
        self.end = previous.begin + previous.cycles - 1
        self.selected = selected

    def cause(self, now, issued):
        """Why nothing issues in this cycle."""
        item = next((i for i in self.items if i.begin + i.cycles > now), None)
        if item is None:
            return "drain"
        if item.begin <= now:
            return "scan"  # a bubble
        if CONTRACT.launch(self.m.columns) <= now < item.gate:
            return "select" if item.exact else "rpu"
        if item.fetch <= now < item.fetch + len(item.reads) - 1:
            return "xbank"
        return "shallow" if issued else "fill"


async def run(ctx, made, descriptor, part, rng, cycles=None):
    """Start, and hold every cycle to the schedule; `cycles` breaks off."""
    dut, m, v = made.dut, made.machine, part.values
    lanes, columns = m.lanes, m.columns
    fields = descriptor(m, **v)
    active = {item.begin + k: (item, k) for item in part.items for k in range(item.cycles)}
    fetching = {item.fetch + k: (item, k) for item in part.items for k in range(len(item.reads))}
    tile_of = {item.mask_row: part.order[item.step][1] for item in part.items if item.exact}
    ends = CONTRACT.drain + part.end
    mask, issues, issued, ready, shown = 0, 0, False, 0, {}
    ctx.set(dut.config, fields)
    ctx.set(dut.base_slot, part.base_slot)
    units_begun = 0
    for now in range(-1, ends + 3 if cycles is None else min(cycles, ends)):
        reached = [n for n, when in part.arrivals.items() if when <= now]
        later = [n for n, when in part.arrivals.items() if when > now]
        low = max(reached, default=0)
        high = min(later, default=low + 1) - 1
        if not low <= ready <= high:
            ready = rng.randint(low, high)
        inputs = {
            "start": now == -1,
            "ready": ready,
            "unit_ready": any(le <= now for le in part.loaded[units_begun:]),
            "mask": mask,
        }
        for name, value in inputs.items():
            if shown.get(name) != value:  # only what changes: half the time of a cycle
                ctx.set(getattr(dut, name), value)
        shown = inputs
        if now >= 0:
            item, k = active.get(now, (None, 0))
            fresh = item is not None and k == 0
            over = item is not None and k == item.cycles - 1
            issue = item is not None and not item.bubble
            pulses = {
                "go": now == CONTRACT.launch(columns) - 1,
                "issue": issue,
                "unit_begun": fresh and item.place == 0,
                "unit_ended": over and item.ends_unit,
                "step_begin": fresh and (now == 0 or _opens(part, item)),
                "step_end": over and item.ends_step,
                "p_en": fresh and not item.exact,
                "freed": item.freed if over else 0,
                "running": now < ends,
                "done": now == ends,
            }
            for name, expected in pulses.items():
                assert ctx.get(getattr(dut, name)) == expected, (name, now)
            if fresh:
                units_begun = item.unit + 1
                if item.place == 0:
                    issues = 0
                if not item.exact:
                    slot = (part.base_slot + item.batch) % v["p_room"]
                    assert ctx.get(dut.p_address) == slot * v["rough_beats"] + item.beat
                elif not item.bubble:
                    assert ctx.get(dut.tap) == item.taps
            if issue:
                _check_decision(ctx.get(dut.decision), part, item, k, issues)
                issues, issued = issues + 1, True
                if item.exact:
                    chosen = [_lowest(mask_of, k) for mask_of in item.masks]
                    assert [ctx.get(port) for port in dut.chosen] == chosen
            elif now < ends:
                waits = ctx.get(dut.waits)
                found = next(c for c in STALL_CAUSES if c != "dma" and getattr(waits, c))
                assert found == part.cause(now, issued), now
            reads = {}
            if now in fetching:
                reader, n = fetching[now]
                reads = reader.reads[n]
                for t, (bank, row) in reads.items():
                    assert ctx.get(dut.bank[t]) == bank
                    assert ctx.get(dut.x_address[bank]) == row
            assert ctx.get(dut.fetched) == sum(1 << t for t in reads)
            assert ctx.get(dut.x_en) == sum(1 << bank for bank, _ in reads.values())
        if ctx.get(dut.mask_en):
            row = ctx.get(dut.mask_address)
            tile = tile_of.get(row)
            # Selection writes it in time to be read in the cycle before the gate opens.
            known = tile is not None and now + 1 >= part.selected[tile] + CONTRACT.to_indices
            mask = part.masks[row] if known else rng.getrandbits(8 * lanes * columns)
        await ctx.tick()
    ctx.set(dut.start, 0)


def _opens(part, item):
    index = part.items.index(item)
    return index == 0 or part.items[index - 1].step != item.step


def _lowest(mask, skip):
    for _ in range(skip):
        mask &= mask - 1
    return mask & -mask


def _check_decision(got, part, item, k, issues):
    """Fields that an issue carries: the k-th of its batch, number `issues` of its unit."""
    expected = {
        "exact": item.exact,
        "first": item.first,
        "last": item.last,
        "new": k == 0,
        "half": item.unit % 2,
        "set": item.step % 4,
        "address": issues,
        "y_row": item.group * part.values["batches"] + item.batch,
        "columns": sum(1 << t for t, there in enumerate(part.exists(item.batch)) if there),
    }
    if not item.exact:
        expected |= {"row": item.row + k, "mask_row": item.mask_row, "slot": item.place}
    assert {name: got[name] for name in expected} == expected
    assert list(got.widths) == part.widths(item.group)


async def stop(ctx, dut, cycles):
    """Break off; then nothing moves."""
    ctx.set(dut.stop, 1)
    await ctx.tick()
    ctx.set(dut.stop, 0)
    for _ in range(cycles):
        for name in ("running", "done", "go", "issue", "x_en", "unit_begun", "step_end"):
            assert not ctx.get(getattr(dut, name)), name
        await ctx.tick()


@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=5, deadline=None)
def test_any_part(issuer, descriptor, seed):
    """Random shapes, masks, arrivals of weights and of p; parts follow one another."""
    rng = random.Random(seed)

    async def script(ctx):
        for _ in range(2):
            await run(ctx, issuer, descriptor, Part(issuer.machine, rng), rng)

    issuer(script)


MOMENTS = {
    "at all": lambda part: range(part.end + CONTRACT.drain),
    "behind the end": lambda part: range(part.end + 1, part.end + CONTRACT.drain),
    "while a tile is being selected": lambda part: [
        when + n for when in part.selected for n in range(2, CONTRACT.to_indices)
    ],
    "while a tile is selected": lambda part: [
        i.begin for i in part.items if i.exact and part.selected
    ],
    "between two reads": lambda part: [
        i.fetch + n for i in part.items for n in range(1, len(i.reads))
    ],
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_broken_off(issuer, descriptor, moment):
    """Whatever a part was at, the next one runs as if there had been none, at once or later."""
    rng = random.Random(5)
    followers = [
        (0, {"flags": BOTH, "tiles": 1}),
        (0, {"flags": DENSE}),
        (CONTRACT.drain + 3, {"flags": BOTH}),
    ]

    async def script(ctx):
        for pause, follower in followers:
            part = Part(issuer.machine, rng, flags=BOTH)
            cycles = [now for now in MOMENTS[moment](part) if now < part.end + CONTRACT.drain]
            if cycles:
                await run(ctx, issuer, descriptor, part, rng, rng.choice(cycles))
                await stop(ctx, issuer.dut, pause)
                await run(ctx, issuer, descriptor, Part(issuer.machine, rng, **follower), rng)

    issuer(script)
