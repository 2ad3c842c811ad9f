"""The precision-scaling element: by hand, exhaustively where it is small, against the reference."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinai.common.arithmetic import psum4, psum16
from sinai.common.contract import CONTRACT
from sinai.hw.pse import PSE, Precision
from sinai.hw.words import pack

OUTPUTS = ["o_valid", "sum"]

INT16 = st.sampled_from([0, 1, -1, -32768, 32767]) | st.integers(-32768, 32767)
INT4 = st.sampled_from([0, 1, -1, -8, 7]) | st.integers(-8, 7)


def wide(x, w):
    """A cycle in 16-bit mode. The unused bits are set, since the PSE has to ignore them."""
    unused = ((1 << 48) - 1) << 16
    return {
        "valid": 1,
        "mode": Precision.INT16,
        "x": pack([x], 16) | unused,
        "w": pack([w], 16) | unused,
    }


def narrow(x, w):
    return {"valid": 1, "mode": Precision.INT4, "x": pack(x, 4), "w": pack(w, 4)}


def results(bench, cycles):
    """The (cycle, sum) of every valid output."""
    seen = bench(cycles, drain=bench.dut.latency + 2)
    return [(cycle, value) for cycle, (valid, value) in enumerate(seen) if valid]


def sums(bench, cycles):
    return [value for _, value in results(bench, cycles)]


@pytest.fixture(scope="module")
def pse(bench):
    return bench(PSE(), OUTPUTS)


@pytest.mark.parametrize(
    ("x", "w", "product"),
    [
        pytest.param(0x1234, 0x0100, 0x123400, id="0x1234 * 0x100"),
        pytest.param(255, 255, 65025, id="unsigned nibbles: 255 * 255 = 65025"),
        pytest.param(-1, -1, 1, id="-1 * -1 = 1"),
        pytest.param(-1, 32767, -32767, id="-1 * 32767"),
        pytest.param(-32768, -32768, 1073741824, id="-32768 * -32768 = 2**30"),
        pytest.param(-32768, 32767, -1073709056, id="-32768 * 32767 = 2**15 - 2**30"),
        pytest.param(32767, 32767, 1073676289, id="32767 * 32767 = 2**30 - 2**16 + 1"),
    ],
)
def test_product_by_hand(pse, x, w, product):
    assert sums(pse, [wide(x, w), wide(w, x)]) == [product, product]


@pytest.mark.parametrize(
    ("x", "w", "total"),
    [
        pytest.param([-8] * 16, [-8] * 16, 1024, id="16 * 64"),
        pytest.param([-8] * 16, [7] * 16, -896, id="16 * -56"),
        pytest.param([7] * 16, [7] * 16, 784, id="16 * 49"),
        pytest.param(list(range(-8, 8)), [1] * 16, -8, id="-8 - 7 ... + 7 = -8"),
        pytest.param([1, -1] * 8, [3, 3] * 8, 0, id="cancels"),
    ],
)
def test_sum_by_hand(pse, x, w, total):
    assert sums(pse, [narrow(x, w)]) == [total]


@pytest.mark.parametrize("position", range(16))
def test_every_small_product_at_every_position(pse, position):
    """All 256 operand pairs of one multiplier; the others get 0 and something else than w."""
    pairs = [(x, w) for x in range(-8, 8) for w in range(-8, 8)]
    here = [p == position for p in range(16)]
    cycles = [
        narrow([x if at else 0 for at in here], [w if at else -1 - w for at in here])
        for x, w in pairs
    ]
    assert sums(pse, cycles) == [x * w for x, w in pairs]


@pytest.mark.parametrize("i", range(4))
@pytest.mark.parametrize("j", range(4))
def test_every_nibble_product_in_16_bit_mode(pse, i, j):
    """Nibble i times nibble j, all 256 pairs: every multiplier works, signed where it is a top."""

    def value(nibble, place):
        return (nibble - 16 if place == 3 and nibble >= 8 else nibble) * 16**place

    pairs = [(value(x, i), value(w, j)) for x in range(16) for w in range(16)]
    assert sums(pse, [wide(x, w) for x, w in pairs]) == [x * w for x, w in pairs]


@st.composite
def operations(draw):
    """Operations and bubbles in any order, with what each operation gives (None for a bubble)."""
    kind = draw(st.sampled_from(["wide", "narrow", "bubble"]))
    if kind == "wide":
        x, w = draw(INT16), draw(INT16)
        return wide(x, w), int(psum16([x], [w]))
    if kind == "narrow":
        nibbles = st.lists(INT4, min_size=16, max_size=16)
        x, w = draw(nibbles), draw(nibbles)
        return narrow(x, w), int(psum4(x, w))
    return {}, None


@given(st.lists(operations(), min_size=1, max_size=30))
@settings(max_examples=40, deadline=None)
def test_agrees_with_reference(pse, listed):
    """Any operands, modes changing every cycle, bubbles: right values, `latency` cycles later."""
    expected = [
        (cycle + CONTRACT.pse, total)
        for cycle, (_, total) in enumerate(listed)
        if total is not None
    ]
    assert results(pse, [ports for ports, _ in listed]) == expected


@pytest.mark.parametrize(("multiply", "combine"), [(1, 1), (2, 1), (1, 3), (0, 1), (1, 0)])
def test_latency_follows_the_contract(bench, multiply, combine):
    contract = replace(CONTRACT, pse_multiply=multiply, pse_combine=combine)
    dut = PSE(contract=contract)
    assert dut.latency == multiply + combine
    cycles = [wide(-3, 5), {}, narrow([2] * 16, [3] * 16), wide(7, 7)]
    latency = multiply + combine
    assert results(bench(dut, OUTPUTS), cycles) == [
        (0 + latency, -15),
        (2 + latency, 96),
        (3 + latency, 49),
    ]


def test_sum_holds_between_results(pse):
    """Idle cycles load no register, whatever the operand ports do meanwhile."""
    seen = pse([wide(6, 7), {}, {}, {}, {}])
    assert seen[CONTRACT.pse :] == [(1, 42), *[(0, 42)] * (4 - CONTRACT.pse)]
