# amaranth: UnusedElaboratable=no
"""Mask bits of a window: by hand, and any windows against the integer arithmetic."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinai.common.arithmetic import select_threshold
from sinai.common.contract import CONTRACT
from sinai.hw.threshold import ThresholdMask

OUTPUTS = ["o_valid", "o_bits"]
WINDOW = 4
INT16 = st.sampled_from([0, 1, -1, -32768, -32767, 32766, 32767]) | st.integers(-32768, 32767)
THETA = st.sampled_from([-32768, -32767, 32767, 32768]) | st.integers(-32768, 32768)


def masks(bench, windows, theta, idle=()):
    """The (cycle, mask) of every mask of `windows`, lists of (z, exists), one value a cycle.

    `idle` holds how many idle cycles go before each value; 0 past its end.
    """
    gaps = iter(idle)
    cycles = []
    for window in windows:
        for position, (z, exists) in enumerate(window):
            cycles += [{"theta": theta}] * next(gaps, 0)
            last = position == len(window) - 1
            value = {"z": z, "exists": exists, "position": position, "last": last}
            cycles.append({"valid": 1, "theta": theta, **value})
    cycles += [{"theta": theta}] * (bench.dut.latency + 2)
    return [(cycle, mask) for cycle, (valid, mask) in enumerate(bench(cycles)) if valid]


@pytest.fixture(scope="module")
def unit(bench):
    return bench(ThresholdMask(WINDOW), OUTPUTS)


@pytest.mark.parametrize(
    ("values", "theta", "mask"),
    [
        pytest.param([5, 3, 4, 2], 4, 0b0101, id="5 and 4 reach 4"),
        pytest.param([-5, -3, -4, -2], -4, 0b1110, id="-5 does not reach -4"),
        pytest.param([32767] * 4, 32768, 0, id="none reaches 32768"),
        pytest.param([-32768] * 4, -32768, 0b1111, id="all reach -32768"),
        pytest.param([32767, 32766, -32768, 0], 32767, 0b0001, id="the largest alone"),
        pytest.param([7, 7], 7, 0b0011, id="a tile ends within the window"),
    ],
)
def test_mask_by_hand(unit, values, theta, mask):
    window = [(z, True) for z in values]
    assert masks(unit, [window], theta) == [(len(values) - 1 + CONTRACT.compare, mask)]


def test_row_that_does_not_exist(unit):
    window = [(9, True), (9, False), (9, False), (9, True)]
    assert masks(unit, [window], 0) == [(3 + CONTRACT.compare, 0b1001)]


def test_window_knows_nothing_of_the_one_before(unit):
    full, part = [(1, True)] * 4, [(0, True), (1, True)]
    seen = masks(unit, [full, part, full], 1)
    assert [mask for _, mask in seen] == [0b1111, 0b0010, 0b1111]


@given(
    windows=st.lists(
        st.lists(st.tuples(INT16, st.booleans()), min_size=1, max_size=WINDOW),
        min_size=1,
        max_size=8,
    ),
    theta=THETA,
    idle=st.lists(st.integers(0, 2), max_size=32),
    near=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_agrees_with_reference(unit, windows, theta, idle, near):
    """Any windows, whole and partial, with gaps; `near` moves the values close to theta."""
    if near:
        windows = [
            [(min(max(theta + z % 3 - 1, -32768), 32767), exists) for z, exists in window]
            for window in windows
        ]
    expected, cycle, gaps = [], -1, iter(idle)
    for window in windows:
        cycle += sum(1 + next(gaps, 0) for _ in window)
        z, exists = np.array(window).T
        kept = select_threshold(z, theta) & exists.astype(bool)
        expected.append((cycle + CONTRACT.compare, sum(1 << int(n) for n in np.flatnonzero(kept))))
    assert masks(unit, windows, theta, idle) == expected


@pytest.mark.parametrize("stages", [0, 1, 2, 5])
@pytest.mark.parametrize("window", [1, 2, 16])
def test_latency_and_width(bench, stages, window):
    dut = ThresholdMask(window, contract=replace(CONTRACT, compare=stages))
    assert dut.latency == stages
    windows = [[(n % 2, True) for n in range(window)], [(1, True)]]
    odd = sum(1 << n for n in range(1, window, 2))
    expected = [(window - 1 + stages, odd), (window + stages, 1)]
    assert masks(bench(dut, OUTPUTS), windows, 1) == expected


def test_names_of_modules():
    assert ThresholdMask(16).module_name == "sinai_threshold_16"


@pytest.mark.parametrize("window", [0, 65])
def test_out_of_range(window):
    with pytest.raises(ValueError, match=f"between 1 and 64, not {window}"):
        ThresholdMask(window)
