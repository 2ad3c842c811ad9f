"""Geometry of a layer against PyTorch's formula and by hand."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinai.common.errors import InputError
from sinai.common.layer import Layer, ceil_div

CONV = {
    "name": "conv1",
    "c_in": 16,
    "c_out": 32,
    "kernel": 3,
    "stride": 1,
    "padding": 1,
    "h_in": 8,
    "w_in": 6,
    "k": 24,
}


@given(a=st.integers(0, 10**12), b=st.integers(1, 10**6))
def test_ceil_div_is_the_least_multiple(a, b):
    quotient = ceil_div(a, b)
    assert (quotient - 1) * b < a <= quotient * b


def test_counts_by_hand():
    """16 to 32 channels, 3x3 over 8x6 pixels: d = 144, 48 pixels, 1536 neurons, 221184 MACs."""
    layer = Layer(**CONV)
    assert (layer.taps, layer.d) == (9, 144)
    assert (layer.h_out, layer.w_out, layer.pixels) == (8, 6, 48)
    assert layer.neurons == 1536
    assert layer.macs == 221184


@given(
    side=st.integers(1, 40),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
)
def test_output_side_counts_the_places_of_the_kernel(side, kernel, stride, padding):
    """Brute force: the kernel fits at 0, stride, 2 * stride ... of the padded side."""
    places = len(range(0, side + 2 * padding - kernel + 1, stride))
    if padding >= kernel or not places:
        return
    layer = Layer(**CONV | dict(kernel=kernel, stride=stride, padding=padding, h_in=side, w_in=40))
    assert layer.h_out == places


@pytest.mark.parametrize(
    ("c_in", "words", "beats"),
    [
        pytest.param(16, 16, 9, id="one beat a tap"),
        pytest.param(17, 16, 18, id="a started word takes a beat a tap"),
        pytest.param(3, 16, 2, id="narrow: 27 im2col values in two words of 16"),
        pytest.param(3, 32, 1, id="narrow: 27 values in one word of 32"),
    ],
)
def test_beats_by_hand(c_in, words, beats):
    assert Layer(**CONV | dict(c_in=c_in)).beats(words) == beats


@pytest.mark.parametrize(("k", "words", "beats"), [(1, 4, 1), (64, 4, 1), (65, 4, 2), (257, 16, 2)])
def test_approximate_beats_hold_16_nibbles_a_word(k, words, beats):
    assert Layer(**CONV | dict(k=k)).approximate_beats(words) == beats


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(
            ({field: 0}, f"layer conv1: {field} must be at least 1, not 0")
            for field in ("c_in", "c_out", "kernel", "stride", "h_in", "w_in", "k")
        ),
        ({"padding": 3}, "padding must be between 0 and kernel - 1 = 2, not 3"),
        ({"padding": -1}, "padding must be between 0 and kernel - 1 = 2, not -1"),
        ({"w_in": 2, "padding": 0}, "a 3x3 kernel does not fit the padded input of 8x2 pixels"),
        (
            {"projection": "tap", "k": 10},
            "k must be a multiple of 9 taps for projection tap, not 10",
        ),
    ],
)
def test_bad_geometry_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        Layer(**CONV | change)


def test_a_variant_is_checked_again():
    with pytest.raises(InputError, match="stride must be at least 1, not 0"):
        dataclasses.replace(Layer(**CONV), stride=0)
