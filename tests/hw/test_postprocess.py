"""Requantisation: by hand, and any operands against the integer arithmetic."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinai.common.arithmetic import requantise
from sinai.common.contract import CONTRACT
from sinai.hw.postprocess import Requantise

OUTPUTS = ["o_valid", "o_value"]


def cycle(total, bias, multiplier, shift):
    return {
        "valid": 1,
        "total": total,
        "bias": bias,
        "multiplier": multiplier,
        "shift": shift,
    }


def values(bench, cycles):
    """The (cycle, value) of every valid output."""
    seen = bench(cycles, drain=bench.dut.latency + 2)
    return [(cycle, value) for cycle, (valid, value) in enumerate(seen) if valid]


@pytest.fixture(scope="module")
def unit(bench):
    return bench(Requantise(), OUTPUTS)


@pytest.mark.parametrize(
    ("operands", "value"),
    [
        pytest.param((10, 5, 3, 0), 45, id="(10 + 5) * 3"),
        pytest.param((3, 0, 1, 1), 2, id="1.5 up to 2"),
        pytest.param((-3, 0, 1, 1), -1, id="-1.5 up to -1"),
        pytest.param((-1, 0, 1, 1), 0, id="-0.5 up to 0"),
        pytest.param((5, 0, 1, 2), 1, id="1.25 down to 1"),
        pytest.param((7, -8, -1, 0), 1, id="(7 - 8) * -1"),
        pytest.param((32768, 0, 1, 0), 32767, id="saturates above"),
        pytest.param((-32769, 0, 1, 0), -32768, id="saturates below"),
        pytest.param((32767, 0, 1, 0), 32767, id="largest without saturation"),
        pytest.param((32766, 0, 1, 0), 32766, id="next to the largest"),
        pytest.param((-32767, 0, 1, 0), -32767, id="next to the smallest"),
        pytest.param((65535, 0, 1, 1), 32767, id="saturates by rounding"),
        pytest.param((-(1 << 47), 0, -(1 << 15), 62), 1, id="2**62 >> 62"),
        pytest.param((-(1 << 47), 0, (1 << 15) - 1, 62), -1, id="just above -2**62"),
    ],
)
def test_value_by_hand(unit, operands, value):
    assert values(unit, [cycle(*operands)]) == [(CONTRACT.requantise, value)]


def signed(bits):
    edge = 1 << (bits - 1)
    return st.sampled_from([0, 1, -1, -edge, edge - 1]) | st.integers(-edge, edge - 1)


@st.composite
def operands(draw):
    """Operands whose values are near the int16 range, so that not all saturate; None for idle."""
    if draw(st.integers(0, 4)) == 0:
        return None
    bias, multiplier = draw(signed(32)), draw(signed(16))
    total = draw(signed(draw(st.integers(2, 48))))
    total = min(max(total, -(1 << 47) - min(bias, 0)), (1 << 47) - 1 - max(bias, 0))
    wanted = (abs((total + bias) * multiplier)).bit_length() - 15
    shift = draw(st.integers(max(wanted - 2, 0), max(wanted + 2, 0)) | st.integers(0, 62))
    return total, bias, multiplier, min(shift, 62)


@given(st.lists(operands(), min_size=1, max_size=20))
@settings(max_examples=150, deadline=None)
def test_agrees_with_reference(unit, listed):
    cycles = [{} if entry is None else cycle(*entry) for entry in listed]
    assert values(unit, cycles) == [
        (n + CONTRACT.requantise, int(requantise(*entry)))
        for n, entry in enumerate(listed)
        if entry is not None
    ]


@pytest.mark.parametrize("stages", [1, 2, 3, 4, 7])
def test_latency_follows_the_contract(bench, stages):
    dut = Requantise(contract=replace(CONTRACT, requantise=stages))
    assert dut.latency == stages
    cycles = [cycle(100, 1, 2, 0), {}, cycle(100, 1, 2, 1)]
    assert values(bench(dut, OUTPUTS), cycles) == [(stages, 202), (2 + stages, 101)]
