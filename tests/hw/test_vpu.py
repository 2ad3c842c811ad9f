# amaranth: UnusedElaboratable=no
"""The vector processing unit: by hand, and any beats against the reference."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinai.common.arithmetic import psum4, psum16
from sinai.common.contract import CONTRACT
from sinai.hw.pse import Precision
from sinai.hw.vpu import VPU
from sinai.hw.words import pack

OUTPUTS = ["o_valid", "o_address", "o_sum"]

BITS = {Precision.INT16: 16, Precision.INT4: 4}
REFERENCE = {Precision.INT16: psum16, Precision.INT4: psum4}


#: Where the numbers of a beat come from: all the same extreme, or random with this seed.
OPERANDS = st.sampled_from(["zero", "one", "minus one", "lowest", "highest"]) | st.integers(0, 999)


def operands(mode, pses, source):
    """The numbers of one operand word: one int16 or sixteen int4 a PSE."""
    edge = 1 << (BITS[mode] - 1)
    count = pses if mode is Precision.INT16 else 16 * pses
    if isinstance(source, str):
        values = {"zero": 0, "one": 1, "minus one": -1, "lowest": -edge, "highest": edge - 1}
        return [values[source]] * count
    return np.random.default_rng(source).integers(-edge, edge, count).tolist()


def beat(mode, x, weights, *, address=0, first=False, last=False):
    return {
        "valid": 1,
        "mode": mode,
        "first": first,
        "last": last,
        "address": address,
        "x": pack(x, BITS[mode]),
        "weights": pack(weights, BITS[mode]),
    }


def totals(bench, cycles, **limits):
    """The (cycle, address, sum) of every dot product that came out."""
    seen = bench(cycles, drain=bench.dut.latency + 2, **limits)
    return [(cycle, *rest) for cycle, (valid, *rest) in enumerate(seen) if valid]


@pytest.fixture(scope="module")
def vpu(bench):
    """Two PSEs and four accumulators."""
    return bench(VPU(2, 4), OUTPUTS)


def test_dot_product_by_hand(bench):
    """(1, 2, 3, 4) . (5, 6, 7, 8) = 70, then + (-1, 0, 0, 1) . (100, 9, 9, 200) = 170."""
    cycles = [
        beat(Precision.INT16, [1, 2, 3, 4], [5, 6, 7, 8], address=5, first=True),
        beat(Precision.INT16, [-1, 0, 0, 1], [100, 9, 9, 200], address=5, last=True),
    ]
    assert totals(bench(VPU(4, 8), OUTPUTS), cycles) == [(1 + CONTRACT.vpu, 5, 170)]


def test_every_int4_counts_once(bench):
    """Sixteen int4 a PSE: only number n is not zero, and gives 7 * -8 = -56 for every n."""
    cycles = [
        beat(Precision.INT4, [7 * (n == i) for i in range(32)], [-8] * 32, first=True, last=True)
        for n in range(32)
    ]
    assert [value for *_, value in totals(bench(VPU(2, 8), OUTPUTS), cycles)] == [-56] * 32


def test_largest_sum_of_a_layer(bench):
    """32764 products of -32768 * -32768, the deepest layer in whole beats: 32764 * 2**30."""
    beats = 32767 // 4
    edge = [-32768] * 4
    cycles = [
        beat(Precision.INT16, edge, edge, first=n == 0, last=n == beats - 1) for n in range(beats)
    ]
    given_out = totals(bench(VPU(4, 8), OUTPUTS), cycles, limit=9000)
    assert [value for *_, value in given_out] == [beats * 4 * 2**30]


@st.composite
def schedules(draw, pses, accumulators):
    """Beats and bubbles (None) in any order; an accumulator's first beat is `first`."""
    schedule, started = [], set()
    for _ in range(draw(st.integers(1, 14))):
        if draw(st.integers(0, 4)) == 0:
            schedule.append(None)
            continue
        mode = draw(st.sampled_from(Precision))
        x, weights = (operands(mode, pses, draw(OPERANDS)) for _ in range(2))
        address = draw(st.integers(0, accumulators - 1))
        first = address not in started or draw(st.integers(0, 4)) == 0
        last = draw(st.booleans())
        if not last:
            started.add(address)
        schedule.append((mode, x, weights, address, first, last))
    return schedule


def reference(schedule, latency):
    stored, expected = {}, []
    for cycle, entry in enumerate(schedule):
        if entry is None:
            continue
        mode, x, weights, address, first, last = entry
        total = int(REFERENCE[mode](x, weights)) + (0 if first else stored[address])
        if last:
            expected.append((cycle + latency, address, total))
        else:
            stored[address] = total
    return expected


@given(schedules(pses=2, accumulators=4))
@settings(max_examples=60, deadline=None)
def test_agrees_with_reference(vpu, schedule):
    """Any beats, modes, addresses and bubbles: right totals, in order, `latency` cycles later."""
    cycles = [
        {} if entry is None else beat(*entry[:3], address=entry[3], first=entry[4], last=entry[5])
        for entry in schedule
    ]
    assert vpu.dut.latency == CONTRACT.vpu
    assert totals(vpu, cycles) == reference(schedule, CONTRACT.vpu)


@pytest.mark.parametrize("pses", [1, 3, 8])
def test_any_number_of_pses(bench, pses):
    """A tree of any width, random beats of fixed seeds."""
    schedule = [
        (mode, operands(mode, pses, seed), operands(mode, pses, seed + 1), 1, True, True)
        for seed in range(15)
        for mode in Precision
    ]
    cycles = [beat(*e[:3], address=e[3], first=e[4], last=e[5]) for e in schedule]
    assert totals(bench(VPU(pses, 2), OUTPUTS), cycles) == reference(schedule, CONTRACT.vpu)


@pytest.mark.parametrize("stage", ["pse_multiply", "pse_combine", "tree", "accumulate"])
def test_latency_follows_the_contract(bench, stage):
    """One more cycle in any stage of the contract is one more cycle of the VPU."""
    contract = replace(CONTRACT, **{stage: getattr(CONTRACT, stage) + 1})
    cycles = [
        {},
        beat(Precision.INT16, [2, 3], [5, 7], address=1, first=True),
        {},
        beat(Precision.INT4, [1] * 32, [-1] * 32, address=1, last=True),
    ]
    dut = VPU(2, 4, contract=contract)
    assert totals(bench(dut, OUTPUTS), cycles) == [(3 + CONTRACT.vpu + 1, 1, 31 - 32)]


@pytest.mark.parametrize(
    ("pses", "accumulators", "message"),
    [
        (0, 8, "PSEs must be between 1 and 65536, not 0"),
        (4, 1, "Accumulators must be at least 2, not 1"),
    ],
)
def test_out_of_range_is_refused(pses, accumulators, message):
    with pytest.raises(ValueError, match=message):
        VPU(pses, accumulators)
