"""The integer arithmetic against Python's unbounded integers, and by hand."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sinai.common import arithmetic

INT16 = st.one_of(st.sampled_from([-32768, -32767, -1, 0, 1, 32767]), st.integers(-32768, 32767))


def rounded(value: int, shift: int) -> int:
    """Nearest integer to value / 2**shift, ties upward: floor(value / 2**shift + 1/2)."""
    return math.floor(Fraction(value, 1 << shift) + Fraction(1, 2))


def saturated(value: int, low: int = -32768, high: int = 32767) -> int:
    return low if value < low else high if value > high else value


def requantised(acc: int, bias: int, multiplier: int, shift: int) -> int:
    return saturated(rounded((acc + bias) * multiplier, shift))


def matrix(rows, columns, elements):
    return st.lists(
        st.lists(elements, min_size=columns, max_size=columns), min_size=rows, max_size=rows
    )


@pytest.mark.parametrize(
    ("value", "shift", "expected"),
    [
        pytest.param(5, 0, 5, id="no shift leaves the value"),
        pytest.param(-5, 0, -5, id="no shift leaves a negative value"),
        pytest.param(1, 1, 1, id="tie: 0.5 goes up to 1"),
        pytest.param(-1, 1, 0, id="tie: -0.5 goes up to 0"),
        pytest.param(-3, 1, -1, id="tie: -1.5 goes up to -1"),
        pytest.param(-5, 2, -1, id="-1.25 to -1"),
        pytest.param(-7, 2, -2, id="-1.75 to -2"),
        pytest.param(-(1 << 47) * 32768, 62, -1, id="-2**62 / 2**62"),
        pytest.param((1 << 47) * 32767, 62, 1, id="largest product, 0.99997 to 1"),
    ],
)
def test_round_shift_by_hand(value, shift, expected):
    assert arithmetic.round_shift(np.array([value]), shift).tolist() == [expected]


@given(value=st.integers(-(1 << 62), 1 << 62), shift=st.integers(0, 62))
def test_round_shift_is_the_rounded_quotient(value, shift):
    """The whole range of a 48-bit accumulator times a 16-bit multiplier."""
    assert int(arithmetic.round_shift(value, shift)) == rounded(value, shift)


@pytest.mark.parametrize("shift", [-1, 63])
def test_shift_out_of_range_is_refused(shift):
    with pytest.raises(ValueError, match=f"between 0 and 62, not {shift}"):
        arithmetic.round_shift(np.array([1]), shift)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (-32769, -32768),
        (-32768, -32768),
        (-1, -1),
        (32767, 32767),
        (32768, 32767),
        (1 << 60, 32767),
    ],
)
def test_sat16_by_hand(value, expected):
    assert arithmetic.sat16(np.array([value])).tolist() == [expected]


def test_clamp_by_hand():
    assert arithmetic.clamp(np.array([-9, -8, 0, 7, 8]), *arithmetic.INT4).tolist() == [
        -8,
        -8,
        0,
        7,
        7,
    ]


@given(
    acc=st.integers(-(1 << 46), 1 << 46),
    bias=st.integers(-(1 << 31), (1 << 31) - 1),
    multiplier=INT16,
    shift=st.integers(0, 62),
)
def test_requantise_is_the_definition(acc, bias, multiplier, shift):
    got = arithmetic.requantise(np.array([acc]), np.array([bias]), np.array([multiplier]), shift)
    assert got.tolist() == [requantised(acc, bias, multiplier, shift)]


def test_requantise_takes_its_parameters_by_channel():
    """Two pixels of two channels: (10 + 2) * 1 >> 1 = 6, (20 - 4) * -3 >> 1 = -24, and so on."""
    got = arithmetic.requantise(
        np.array([[10, 20], [0, 5]]), np.array([2, -4]), np.array([1, -3]), 1
    )
    assert got.tolist() == [[6, -24], [1, -1]]


@pytest.mark.parametrize("acc", [1 << 47, -(1 << 47) - 1])
def test_accumulator_overflow_is_refused(acc):
    with pytest.raises(OverflowError, match="exceeds 48 bits"):
        arithmetic.requantise(np.array([acc]), np.array([0]), np.array([1]), 0)


def test_deepest_sum_fits_the_accumulator():
    """32767 products of -32768 by -32768 and the largest bias: within 48 bits, so no exception."""
    deepest = 32767 * (1 << 30)
    got = arithmetic.requantise(
        np.array([deepest]), np.array([(1 << 31) - 1]), np.array([32767]), 62
    )
    assert got.tolist() == [requantised(deepest, (1 << 31) - 1, 32767, 62)]


@given(data=st.data(), d=st.integers(1, 20))
def test_psums_are_plain_sums_of_products(data, d):
    x = data.draw(st.lists(INT16, min_size=d, max_size=d))
    w = data.draw(st.lists(INT16, min_size=d, max_size=d))
    expected = sum(a * b for a, b in zip(x, w, strict=True))
    assert int(arithmetic.psum16(np.array(x, np.int16), np.array(w, np.int16))) == expected


def test_psum4_of_extremes():
    """Sixteen products of -8 by -8 make 1024; of -8 by 7, -896."""
    low, high = np.full((1, 16), -8, np.int8), np.full((1, 16), 7, np.int8)
    assert arithmetic.psum4(low, low).tolist() == [1024]
    assert arithmetic.psum4(low, high).tolist() == [-896]


@given(data=st.data(), shape=st.tuples(*[st.integers(1, 6)] * 3), shift=st.integers(0, 12))
def test_project_is_the_definition(data, shape, shift):
    pixels, d, k = shape
    x = data.draw(matrix(pixels, d, st.integers(-8, 15)))
    p = data.draw(matrix(k, d, st.integers(-1, 1)))
    expected = [
        [saturated(rounded(sum(a * b for a, b in zip(u, v, strict=True)), shift), -8, 7) for v in p]
        for u in x
    ]
    got = arithmetic.project(np.array(x, np.int8), np.array(p, np.int8), shift)
    assert got.dtype == np.int8
    assert got.tolist() == expected


@pytest.mark.parametrize("sign", [1, -1])
def test_project_is_exact_at_the_greatest_depth(sign):
    """32767 entries of 15, an odd sum next to a tie: 491505 / 2**17 = 3.7499 rounds to 4."""
    x, p = np.full((1, 32767), 15), np.full((1, 32767), sign)
    assert arithmetic.project(x, p, 17).tolist() == [[rounded(sign * 491505, 17)]]


@given(data=st.data(), shape=st.tuples(*[st.integers(1, 5)] * 3), shift=st.integers(0, 40))
def test_approximate_is_the_definition(data, shape, shift):
    pixels, k, channels = shape
    nibble = st.integers(-8, 7)
    p = data.draw(matrix(pixels, k, nibble))
    w = data.draw(matrix(channels, k, nibble))
    bias = data.draw(matrix(1, channels, st.integers(-(1 << 31), (1 << 31) - 1)))[0]
    gain = data.draw(matrix(1, channels, INT16))[0]
    expected = [
        [
            requantised(sum(a * b for a, b in zip(u, v, strict=True)), c, m, shift)
            for v, c, m in zip(w, bias, gain, strict=True)
        ]
        for u in p
    ]
    got = arithmetic.approximate(
        np.array(p, np.int8), np.array(w, np.int8), np.array(bias), np.array(gain), shift
    )
    assert got.dtype == np.int16
    assert got.tolist() == expected


@given(data=st.data(), shape=st.tuples(*[st.integers(1, 5)] * 3), shift=st.integers(0, 62))
def test_exact_is_the_definition(data, shape, shift):
    pixels, d, channels = shape
    x = data.draw(matrix(pixels, d, INT16))
    w = data.draw(matrix(channels, d, INT16))
    bias = data.draw(matrix(1, channels, st.integers(-(1 << 31), (1 << 31) - 1)))[0]
    gain = data.draw(matrix(1, channels, INT16))[0]
    expected = [
        [
            requantised(sum(a * b for a, b in zip(u, v, strict=True)), c, m, shift)
            for v, c, m in zip(w, bias, gain, strict=True)
        ]
        for u in x
    ]
    got = arithmetic.exact(
        np.array(x, np.int16), np.array(w, np.int16), np.array(bias), np.array(gain), shift
    )
    assert got.dtype == np.int16
    assert got.tolist() == expected


def test_exact_keeps_the_last_bit_of_large_products():
    """32767 * 32767 - 32767 * 32766 - 32000 = 767; single precision rounds the first product."""
    x = np.array([[32767, 32767, 1]], np.int16)
    w = np.array([[32767, -32766, -32000]], np.int16)
    assert arithmetic.exact(x, w, np.array([0]), np.array([1]), 0).tolist() == [[767]]


def test_exact_takes_the_largest_sum():
    """32767 products of -32768 squared: 32767 * 2**30 / 2**31 = 16383.5, up to 16384."""
    x = np.full((1, 32767), -32768, np.int16)
    assert arithmetic.exact(x, x, np.array([0]), np.array([1]), 31).tolist() == [[16384]]


def test_exact_refuses_a_depth_that_float64_could_round():
    with pytest.raises(ValueError, match="at most 32767, not 32768"):
        arithmetic.exact(
            np.zeros((1, 32768), np.int16),
            np.zeros((1, 32768), np.int16),
            np.array([0]),
            np.array([1]),
            0,
        )


@given(z=st.lists(INT16, min_size=1, max_size=30), count=st.integers(-1, 32))
def test_threshold_keeps_the_largest(z, count):
    """theta is the count-th largest: fewer than count lie above it, at least count reach it."""
    theta = arithmetic.threshold_of_top_k(np.array(z, np.int16), count)
    kept = arithmetic.select_threshold(np.array(z, np.int16), theta)
    if count <= 0:
        assert theta == 32768
        assert not kept.any()
    elif count >= len(z):
        assert theta == -32768
        assert kept.all()
    else:
        assert theta == sorted(z, reverse=True)[count - 1]
        assert kept.tolist() == [v >= theta for v in z]
        assert sum(v > theta for v in z) < count <= kept.sum()


def test_threshold_reads_any_shape():
    assert arithmetic.threshold_of_top_k(np.array([[5, 1], [7, 3]]), 3) == 3


@given(
    z=hnp.arrays(np.int16, (3, 8), elements=st.one_of(st.integers(-2, 2), INT16)),
)
def test_rank_is_its_definition(z):
    """rank_i = #{j: z_j > z_i or (z_j = z_i and j < i)}, by brute force."""
    expected = [
        [sum(row[j] > row[i] or (row[j] == row[i] and j < i) for j in range(8)) for i in range(8)]
        for row in z.tolist()
    ]
    assert arithmetic.rank_of_group(z).tolist() == expected


def test_rank_of_the_most_negative_value():
    """-(-32768) does not fit 16 bits; the ranking must not wrap."""
    assert arithmetic.rank_of_group(np.array([-32768, 32767, 0], np.int16)).tolist() == [2, 0, 1]


@given(
    z=hnp.arrays(
        np.int16,
        st.tuples(st.integers(1, 4), st.integers(1, 21)),
        elements=st.one_of(st.integers(-2, 2), INT16),
    ),
    essential=st.integers(0, 8),
)
def test_select_rank_keeps_the_largest_of_each_group(z, essential):
    """Brute force over groups of eight, the last partial: min(N, c) largest, low index first."""
    expected = np.zeros(z.shape, bool)
    for pixel, row in enumerate(z.tolist()):
        for start in range(0, len(row), 8):
            group = range(start, min(start + 8, len(row)))
            for channel in sorted(group, key=lambda c: (-row[c], c))[:essential]:
                expected[pixel, channel] = True
    assert (arithmetic.select_rank(z, essential) == expected).all()


def test_select_rank_takes_other_groups():
    """Groups of four, one essential each: 9 of (1, 9, 2, 3), then the first of two equal 7s."""
    mask = arithmetic.select_rank(np.array([[1, 9, 2, 3, 7, 0, 7, 1]]), 1, group=4)
    assert np.flatnonzero(mask).tolist() == [1, 4]


def test_write_back_by_hand():
    """One pixel, four channels.

    s = 100, 32767 (saturated), -32768 (saturated), -7; gain 2, 1, 1, 3, shift 1, offset 5, 1, 0, 0:
    100 * 2 / 2 + 5 = 105; 16384 (32767 / 2 rounds up) + 1 = 16385; -16384; -21 / 2 = -10.5 to -10.
    ReLU clears the last two; / 16 rounded: 6.56 to 7; 1024 to 15; 0; 0.
    """
    s, y, yq = arithmetic.write_back(
        np.array([[60, 32000, -32000, -10]], np.int16),
        np.array([[40, 2000, -2000, 3]], np.int16),
        np.array([2, 1, 1, 3], np.int16),
        np.array([5, 1, 0, 0], np.int16),
        1,
        True,
        4,
        True,
    )
    assert (s.dtype, y.dtype, yq.dtype) == (np.int16, np.int16, np.int8)
    assert s.tolist() == [[100, 32767, -32768, -7]]
    assert y.tolist() == [[105, 16385, 0, 0]]
    assert yq.tolist() == [[7, 15, 0, 0]]


def test_write_back_signed_without_relu_or_residual():
    """y = v; / 16 rounded: 112 to 7, 120 is 7.5, up to 8, clamped to 7; -136 is -8.5, up to -8."""
    v = np.array([[112, 120, -136, -160, -8]], np.int16)
    one, zero = np.ones(5, np.int16), np.zeros(5, np.int16)
    s, y, yq = arithmetic.write_back(v, None, one, zero, 0, False, 4, False)
    assert s.tolist() == y.tolist() == v.tolist()
    assert yq.tolist() == [[7, 7, -8, -8, 0]]


@given(
    v=INT16,
    residual=st.one_of(st.none(), INT16),
    gain=INT16,
    offset=INT16,
    gain_shift=st.integers(0, 30),
    relu=st.booleans(),
    quantise_shift=st.integers(0, 15),
    unsigned=st.booleans(),
)
def test_write_back_is_the_definition(
    v, residual, gain, offset, gain_shift, relu, quantise_shift, unsigned
):
    s = saturated(v + (residual or 0))
    y = saturated(rounded(s * gain, gain_shift) + offset)
    y = max(y, 0) if relu else y
    yq = saturated(rounded(y, quantise_shift), *((0, 15) if unsigned else (-8, 7)))
    got = arithmetic.write_back(
        np.array([[v]], np.int16),
        None if residual is None else np.array([[residual]], np.int16),
        np.array([gain], np.int16),
        np.array([offset], np.int16),
        gain_shift,
        relu,
        quantise_shift,
        unsigned,
    )
    assert [array.tolist() for array in got] == [[[s]], [[y]], [[yq]]]
