# amaranth: UnusedElaboratable=no
"""Accumulators: storage rules by hand, 48-bit extremes, any order against a dictionary."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinai.common.contract import CONTRACT
from sinai.hw.accumulator import Accumulators

OUTPUTS = ["o_valid", "o_address", "o_sum"]

LOW, HIGH = -(1 << 47), (1 << 47) - 1


def term(address, value, *, first=0, last=0):
    return {"valid": 1, "address": address, "term": value, "first": first, "last": last}


def totals(bench, cycles, **limits):
    """The (cycle, address, sum) of every total that came out."""
    seen = bench(cycles, drain=bench.dut.latency + 2, **limits)
    return [(cycle, *rest) for cycle, (valid, *rest) in enumerate(seen) if valid]


def test_first_ignores_and_last_keeps_what_is_stored(bench):
    """5 is stored; 3 leaves as 8, unstored; 1 leaves as 6; 4 as first and last leaves as 4."""
    cycles = [
        term(2, 5, first=1),
        term(2, 3, last=1),
        term(2, 1, last=1),
        term(2, 4, first=1, last=1),
        term(2, 0, last=1),
    ]
    latency = CONTRACT.accumulate
    assert totals(bench(Accumulators(34, 8), OUTPUTS), cycles) == [
        (1 + latency, 2, 8),
        (2 + latency, 2, 6),
        (3 + latency, 2, 4),
        (4 + latency, 2, 5),
    ]


@pytest.mark.parametrize(
    ("terms", "total"),
    [
        pytest.param([HIGH - 1, 1], HIGH, id="up to the largest"),
        pytest.param([LOW + 1, -1], LOW, id="down to the smallest"),
        pytest.param([HIGH, LOW], -1, id="from end to end"),
        pytest.param([LOW, HIGH, HIGH], HIGH - 1, id="through zero"),
        pytest.param([(1 << 32) - 1, 1], 1 << 32, id="a carry past bit 32"),
        pytest.param([HIGH, 1], LOW, id="wraps past the largest"),
    ],
)
def test_extremes_by_hand(bench, terms, total):
    ends = len(terms) - 1
    cycles = [term(7, v, first=i == 0, last=i == ends) for i, v in enumerate(terms)]
    assert [value for *_, value in totals(bench(Accumulators(48, 8), OUTPUTS), cycles)] == [total]


def test_same_total_back_to_back(bench):
    """1 + 2 + ... + 100 = 5050, one term a cycle into the same total."""
    cycles = [term(3, v, first=v == 1, last=v == 100) for v in range(1, 101)]
    assert totals(bench(Accumulators(34, 4), OUTPUTS), cycles) == [
        (99 + CONTRACT.accumulate, 3, 5050)
    ]


def test_totals_are_independent(bench):
    """Total n of 8 gets n, 10 n, 100 n in turn, and gives 111 n."""
    cycles = [
        term(n, n * 10**step, first=step == 0, last=step == 2)
        for step in range(3)
        for n in range(8)
    ]
    given_out = totals(bench(Accumulators(34, 8), OUTPUTS), cycles)
    assert [(address, value) for _, address, value in given_out] == [(n, 111 * n) for n in range(8)]


@pytest.fixture(scope="module")
def benches(bench):
    """Four totals, for each number of cycles to accumulate."""
    return {
        cycles: bench(Accumulators(34, 4, contract=replace(CONTRACT, accumulate=cycles)), OUTPUTS)
        for cycles in (1, 2, 3)
    }


@st.composite
def schedules(draw):
    """Cycles for four totals, None where nothing is offered; a total's first term is `first`."""
    values = st.sampled_from([0, 1, -1, -(1 << 33), (1 << 33) - 1]) | st.integers(-1000, 1000)
    cycles, started = [], set()
    for _ in range(draw(st.integers(1, 40))):
        if draw(st.integers(0, 4)) == 0:
            cycles.append(None)
            continue
        address = draw(st.integers(0, 3))
        first = address not in started or draw(st.integers(0, 4)) == 0
        last = draw(st.booleans())
        if not last:
            started.add(address)
        cycles.append((address, draw(values), first, last))
    return cycles


@given(schedules(), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_any_order(benches, schedule, accumulate):
    """A dictionary of Python integers gives the same totals, `accumulate` cycles later.

    The schedule is stretched so that terms are as far apart as the contract asks.
    """
    cycles, expected, stored = [], [], {}
    for entry in schedule:
        if entry is None:
            cycles.append({})
            continue
        address, value, first, last = entry
        total = value + (0 if first else stored[address])
        if last:
            expected.append((len(cycles) + accumulate, address, total))
        else:
            stored[address] = total
        cycles += [term(address, value, first=first, last=last)] + [{}] * (accumulate - 1)
    assert totals(benches[accumulate], cycles) == expected


@pytest.mark.parametrize("accumulate", [2, 3])
def test_distance_of_the_contract_is_needed(bench, accumulate):
    """One cycle closer than the contract allows, and the second term misses the first."""
    contract = replace(CONTRACT, accumulate=accumulate)
    for distance, total in ((accumulate, 3), (accumulate - 1, 2)):
        dut = Accumulators(34, 4, contract=contract)
        cycles = [term(0, 1, first=1), *[{}] * (distance - 1), term(0, 2, last=1)]
        assert totals(bench(dut, OUTPUTS), cycles) == [(distance + accumulate, 0, total)]


@pytest.mark.parametrize(
    ("bits", "depth", "accumulate", "message"),
    [
        (49, 8, 1, "Term width must be between 1 and 48, not 49"),
        (34, 1, 1, "Accumulators must be at least 2, not 1"),
        (34, 8, 0, "Cycles to accumulate must be at least 1, not 0"),
    ],
)
def test_out_of_range_is_refused(bits, depth, accumulate, message):
    with pytest.raises(ValueError, match=message):
        Accumulators(bits, depth, contract=replace(CONTRACT, accumulate=accumulate))
