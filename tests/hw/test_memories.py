# amaranth: UnusedElaboratable=no
"""All memories: what each user reads is what another wrote, against dictionaries of rows."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinai.common.descriptor import (
    Target,
    memory_depth,
    memory_row_bits,
    target_memory,
)
from sinai.hw.memories import Memories

MACHINES = [
    ("structured", {}),
    ("structured", {"columns": 1, "weight_words": 2, "lanes": 1, "pses": 1}),
    ("unstructured", {}),
    ("unstructured", {"window": 1, "lanes": 2}),
]

#: Memory that a LOAD writes, and that a STORE reads; `residual` is the half to add.
LOADED = {t: target_memory(t) for t in Target if t < Target.STORE_Y}
STORED = {
    Target.STORE_Y: "y",
    Target.STORE_YQ: "y",
    Target.STORE_SUM: "sums",
    Target.STORE_MASKS: "masks",
}
READ = ("weights", "x", "p", "parameters", "residual", "masks", "xq", "projection")
#: Write ports of the engine and the projection unit.
WRITTEN = {"y": "y", "sums": "sums", "select": "masks", "p_write": "p"}
GRAIN = 16


@pytest.fixture(scope="module", params=MACHINES, ids=str)
def memories(request, stepped, small):
    kind, changes = request.param
    sizes = small(kind).memories.model_dump()
    for size in sizes.values():
        if isinstance(size, dict):
            size.update(capacity_kib=1, macro_kib=1)
    sizes["residual"]["capacity_kib"] = 2  # of two halves
    machine = small(kind, memories=sizes, **changes)
    widest = max(memory_row_bits(machine, name) for name in LOADED.values())
    made = stepped(Memories(machine, GRAIN, widest, widest))
    made.machine = machine
    return made


def depth_of(machine, name):
    return memory_depth(machine, "residual" if name == "sums" else name)


def row_bits(machine, name):
    return memory_row_bits(machine, "residual" if name == "sums" else name)


@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=6, deadline=None)
def test_any_users(memories, seed):
    """Random LOADs, STOREs, reads and writes side by side, one user of a port at a time.

    Writes of the units are of one bank and, of p and of masks, of a piece of a word.
    """
    rng, dut, machine = random.Random(seed), memories.dut, memories.machine
    rows = {name: {} for name in (*LOADED.values(), "y", "sums", "p")}
    piece = {"p": GRAIN, "masks": machine.window if machine.unstructured else None}

    def where(name):
        """Few rows, the last among them, so that users meet."""
        return rng.choice([0, 1, depth_of(machine, name) - 1])

    async def script(ctx):
        stored, shown = None, {}
        for _ in range(60):
            changes = []
            # LOAD.
            load = rng.choice([None, *LOADED])
            ctx.set(dut.load_en, load is not None)
            busy = None
            if load is not None:
                busy = LOADED[load]
                at, data = where(busy), rng.getrandbits(row_bits(machine, busy))
                ctx.set(dut.load_target, load)
                ctx.set(dut.load_address, at)
                ctx.set(dut.load_row, data)
                changes.append((busy, at, (1 << row_bits(machine, busy)) - 1, data))
            # Writes of the units.
            for name, memory in WRITTEN.items():
                ports = getattr(dut, name)
                bank_bits = row_bits(machine, memory) // len(ports)
                for bank, port in enumerate(ports):
                    enables = 0
                    if memory != busy and rng.getrandbits(1):
                        enables = rng.getrandbits(len(port.en))
                    at, data = where(memory), rng.getrandbits(bank_bits)
                    ctx.set(port.en, enables)
                    ctx.set(port.address, at)
                    ctx.set(port.data, data)
                    bits = piece.get(memory) or bank_bits
                    assert len(port.en) == bank_bits // bits
                    mask = sum(
                        ((1 << bits) - 1) << n * bits
                        for n in range(len(port.en))
                        if enables >> n & 1
                    )
                    changes.append((memory, at, mask << bank * bank_bits, data << bank * bank_bits))
            # STORE.
            store = rng.choice([None, *STORED])
            ctx.set(dut.store_en, store is not None)
            if store is not None:
                at = where(STORED[store])
                ctx.set(dut.store_address, at)
                # Its row comes while the target is still the same.
                ctx.set(dut.store_target, store)
                stored = rows[STORED[store]].get(at, 0)
            # Reads of the units, a bank each.
            for name in READ:
                ports = getattr(dut, name)
                bank_bits = row_bits(machine, name) // len(ports)
                for bank, port in enumerate(ports):
                    reads = rng.getrandbits(1) and STORED.get(store) != name
                    at = where(name)
                    ctx.set(port.en, reads)
                    ctx.set(port.address, at)
                    if reads:
                        row = rows[name].get(at, 0) >> bank * bank_bits
                        shown[name, bank] = row & (1 << bank_bits) - 1
            if STORED.get(store) == "masks":
                for bank in range(len(dut.masks)):
                    shown.pop(("masks", bank), None)
            await ctx.tick()
            for memory, at, mask, data in changes:
                rows[memory][at] = rows[memory].get(at, 0) & ~mask | data & mask
            for (name, bank), expected in shown.items():
                assert ctx.get(getattr(dut, name)[bank].data) == expected, name
            if store is not None:
                assert ctx.get(dut.store_row) == stored, store

    memories(script)


def test_halves_of_the_residual(memories):
    """A residual that is loaded is no sum that is kept, at any address."""
    dut = memories.dut

    async def script(ctx):
        ctx.set(dut.load_en, 1)
        ctx.set(dut.load_target, Target.RESIDUAL)
        ctx.set(dut.load_row, 7)
        ctx.set(dut.sums[0].en, 1)
        ctx.set(dut.sums[0].data, 9)
        await ctx.tick()
        ctx.set(dut.load_en, 0)
        ctx.set(dut.residual[0].en, 1)
        ctx.set(dut.store_en, 1)
        ctx.set(dut.store_target, Target.STORE_SUM)
        await ctx.tick()
        assert (ctx.get(dut.residual[0].data), ctx.get(dut.store_row)) == (7, 9)

    memories(script)
