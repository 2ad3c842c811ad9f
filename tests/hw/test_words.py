"""Operand words: the layout by hand, and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinai.hw.words import pack, to_signed, unpack


def test_layout_by_hand():
    """Value i in bits width * i: 1, -1, 7, -8 are the nibbles 1, f, 7, 8."""
    assert pack([1, -1, 7, -8], 4) == 0x87F1
    assert pack([-32768, 2], 16) == 0x00028000


@pytest.mark.parametrize(("bits", "width", "value"), [(0x8, 4, -8), (0x17, 4, 7), (0xFFFF, 16, -1)])
def test_sign_by_hand(bits, width, value):
    assert to_signed(bits, width) == value


@given(st.lists(st.integers(-8, 7), max_size=40))
def test_unpack_undoes_pack(values):
    assert unpack(pack(values, 4), 4, len(values)).tolist() == values


@pytest.mark.parametrize("value", [8, -9])
def test_what_does_not_fit_is_refused(value):
    with pytest.raises(ValueError, match=f"Value 1 must fit signed 4 bits, not {value}"):
        pack([0, value], 4)
