"""Operand words: how numbers lie in the bits that the hardware reads."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["pack", "to_signed", "unpack"]


def to_signed(bits: int, width: int) -> int:
    """Read the low `width` bits as two's complement."""
    bits %= 1 << width
    return bits - (1 << width) if bits >> (width - 1) else bits


def pack(values: Iterable[int], width: int) -> int:
    """Lay signed `width`-bit values side by side, value i in bits width*i to width*i + width - 1.

    Raises
    ------
    ValueError
        If a value does not fit.
    """
    word = 0
    for index, value in enumerate(values):
        value = int(value)
        if not -(1 << (width - 1)) <= value < 1 << (width - 1):
            raise ValueError(f"Value {index} must fit signed {width} bits, not {value}")
        word |= (value % (1 << width)) << (width * index)
    return word


def unpack(word: int, width: int, count: int) -> NDArray[np.int64]:
    """Return the `count` signed `width`-bit values of `word`, int64 (count,); undoes `pack`."""
    return np.array([to_signed(word >> (width * i), width) for i in range(count)], dtype=np.int64)
