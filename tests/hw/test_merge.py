"""Residual, gain, offset and ReLU: by hand, and any operands against the integer arithmetic."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinai.common.arithmetic import write_back
from sinai.common.contract import CONTRACT
from sinai.hw.merge import Merge

OUTPUTS = ["o_valid", "o_sum", "o_value"]
INT16 = st.sampled_from([0, 1, -1, -32768, 32767]) | st.integers(-32768, 32767)


def results(bench, values, *, gain_shift=0, relu=0):
    """The (cycle, s, y) of every valid output for (v, residual, gain, offset) a cycle, None idle.

    The layer's settings are held in every cycle, idle ones as well.
    """
    layer = {"gain_shift": gain_shift, "relu": relu}
    names = ("value", "residual", "gain", "offset")
    cycles = [
        layer
        if operands is None
        else {"valid": 1, **layer, **dict(zip(names, operands, strict=True))}
        for operands in [*values, *[None] * (bench.dut.latency + 2)]
    ]
    return [(cycle, s, y) for cycle, (valid, s, y) in enumerate(bench(cycles)) if valid]


@pytest.fixture(scope="module")
def unit(bench):
    return bench(Merge(), OUTPUTS)


@pytest.mark.parametrize(
    ("operands", "gain_shift", "relu", "s", "y"),
    [
        pytest.param((10, 5, 3, 7), 0, 0, 15, 52, id="(10 + 5) * 3 + 7"),
        pytest.param((10, -25, 3, 7), 0, 0, -15, -38, id="-15 * 3 + 7"),
        pytest.param((10, -25, 3, 7), 0, 1, -15, 0, id="ReLU of -38, s stays"),
        pytest.param((10, 5, 3, 7), 0, 1, 15, 52, id="ReLU of 52"),
        pytest.param((3, 0, 1, 0), 1, 0, 3, 2, id="1.5 up to 2"),
        pytest.param((-3, 0, 1, 0), 1, 0, -3, -1, id="-1.5 up to -1"),
        pytest.param((5, 0, 1, 0), 2, 0, 5, 1, id="1.25 down to 1"),
        pytest.param((32767, 1, 1, 0), 0, 0, 32767, 32767, id="s saturates above"),
        pytest.param((-32768, -1, 1, 0), 0, 0, -32768, -32768, id="s saturates below"),
        pytest.param((32767, 32767, 1, -1), 0, 0, 32767, 32766, id="before the offset"),
        pytest.param((32767, 0, 1, 1), 0, 0, 32767, 32767, id="y saturates above"),
        pytest.param((-32768, 0, 1, -1), 0, 0, -32768, -32768, id="y saturates below"),
        pytest.param((-32768, 0, -32768, 0), 15, 0, -32768, 32767, id="32768 saturates"),
        pytest.param((-32768, 0, -32768, 0), 30, 0, -32768, 1, id="2**30 >> 30"),
        pytest.param((-32768, 0, -32768, 5), 31, 0, -32768, 6, id="0.5 up to 1, + 5"),
        pytest.param((-32768, 0, 32767, 5), 62, 0, -32768, 5, id="shifted out, negative"),
        pytest.param((200, 0, 200, -32768), 0, 0, 200, 7232, id="40000 - 32768, one saturation"),
    ],
)
def test_value_by_hand(unit, operands, gain_shift, relu, s, y):
    seen = results(unit, [operands], gain_shift=gain_shift, relu=relu)
    assert seen == [(CONTRACT.merge, s, y)]


@given(
    values=st.lists(st.none() | st.tuples(INT16, INT16, INT16, INT16), min_size=1, max_size=20),
    gain_shift=st.integers(0, 18) | st.integers(0, 62),
    relu=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_agrees_with_reference(unit, values, gain_shift, relu):
    expected = []
    for cycle, operands in enumerate(values):
        if operands is not None:
            s, y, _ = write_back(*operands, gain_shift, relu, 0, False)
            expected.append((cycle + CONTRACT.merge, int(s), int(y)))
    assert results(unit, values, gain_shift=gain_shift, relu=relu) == expected


@pytest.mark.parametrize("stages", [1, 2, 3, 4, 7])
def test_latency_follows_the_contract(bench, stages):
    dut = Merge(contract=replace(CONTRACT, merge=stages))
    assert dut.latency == stages
    values = [(100, 1, 2, 3), None, (-100, 1, 2, 3)]
    expected = [(stages, 101, 205), (2 + stages, -99, -195)]
    assert results(bench(dut, OUTPUTS), values) == expected
