# amaranth: UnusedElaboratable=no
"""Counters of cycles: every cycle of a compute counts once."""

from itertools import product

import numpy as np

from sinai.common.contract import STALL_CAUSES
from sinai.hw.counters import COUNTER_BITS, COUNTERS, CauseCounters


def drive(simulate, cycles):
    """Put `cycles`, dicts of inputs, on the ports; return [(counts before the cycle, fault)]."""
    dut, seen = CauseCounters(), []

    async def bench(ctx):
        for values in [*cycles, {}]:
            for name in (
                "clear", "running", "busy", "approximate", "causes", "loading", "storing", "step"
            ):  # fmt: skip
                ctx.set(getattr(dut, name), values.get(name, 0))
            counts = ctx.get(dut.counts)
            seen.append(({name: counts[name] for name in COUNTERS}, ctx.get(dut.fault)))
            await ctx.tick()

    simulate(dut, bench, limit=len(cycles) + 2)
    return seen


def changed(before, after):
    return {name for name in COUNTERS if after[name] != before[name]}


def test_every_combination(simulate):
    """All of running, busy, approximate and the causes: one counter besides `cycles`, the first
    cause if it is not busy, and a fault where there is none."""
    count = len(STALL_CAUSES)
    cases = [
        {"running": running, "busy": busy, "approximate": rough, "causes": causes}
        for running, busy, rough, causes in product((0, 1), (0, 1), (0, 1), range(1 << count))
    ]
    seen = drive(simulate, cases)
    for at, case in enumerate(cases):
        expected = set()
        holding = [name for n, name in enumerate(STALL_CAUSES) if case["causes"] >> n & 1]
        if case["running"]:
            expected.add("cycles")
            if case["busy"]:
                expected |= {"busy"} | ({"approximate_busy"} if case["approximate"] else set())
            elif holding:
                expected.add(f"stall_{holding[0]}")
        counts, fault = seen[at]
        assert changed(counts, seen[at + 1][0]) == expected, case
        assert fault == (case["running"] and not case["busy"] and not holding)


def test_sums(simulate):
    """Random cycles with a cause each: cycles are busy and all stalls, the rest counts alone."""
    rng = np.random.default_rng(1)
    cycles = [
        {
            "running": int(rng.integers(2)),
            "busy": int(rng.integers(2)),
            "causes": 1 << int(rng.integers(len(STALL_CAUSES))),
            **{name: int(rng.integers(2)) for name in ("loading", "storing", "step")},
        }
        for _ in range(500)
    ]
    counts, _ = drive(simulate, cycles)[-1]
    stalls = sum(counts[f"stall_{name}"] for name in STALL_CAUSES)
    assert counts["cycles"] == counts["busy"] + stalls == sum(c["running"] for c in cycles)
    assert counts["busy"] == sum(c["running"] * c["busy"] for c in cycles)
    assert counts["cycles_load"] == sum(c["loading"] for c in cycles)
    assert counts["cycles_store"] == sum(c["storing"] for c in cycles)
    assert counts["steps"] == sum(c["step"] for c in cycles)


def test_clear(simulate):
    """A cleared cycle does not count, and the next one does."""
    everything = {
        "running": 1, "busy": 1, "approximate": 1, "loading": 1, "storing": 1, "step": 1
    }  # fmt: skip
    stalled = [{"running": 1, "causes": 1 << n} for n in range(len(STALL_CAUSES))]
    seen = drive(simulate, [everything, *stalled, {**everything, "clear": 1}, everything])
    full, cleared, last = seen[-3][0], seen[-2][0], seen[-1][0]
    assert all(full.values())
    assert not any(cleared.values())
    assert set(last.values()) == {0, 1}
    assert changed(cleared, last) == {
        "cycles", "busy", "approximate_busy", "cycles_load", "cycles_store", "steps"
    }  # fmt: skip


def test_width(simulate):
    """A counter goes on past 32 bits."""
    dut = CauseCounters()

    async def bench(ctx):
        ctx.set(dut.counts["steps"], (1 << 32) - 1)
        ctx.set(dut.step, 1)
        await ctx.tick()
        assert ctx.get(dut.counts["steps"]) == 1 << 32
        ctx.set(dut.counts["steps"], (1 << COUNTER_BITS) - 1)
        await ctx.tick()
        assert ctx.get(dut.counts["steps"]) == 0

    simulate(dut, bench, limit=5)
