"""Where an output pixel's window lies in x: positions that step from pixel to pixel.

No division: the host gives the steps, and a step crosses the end of a row at most once.
"""

from __future__ import annotations

from amaranth.hdl import Mux, Value, signed, unsigned
from amaranth.lib.data import StructLayout

from ..common.descriptor import MAX_SIDE

__all__ = ["POSITION", "first_position", "inside", "step_batch", "step_pixel"]

_SIDE = MAX_SIDE.bit_length()
_FAR = 2 * _SIDE + 1

#: An output pixel: its column, and the row, column and linear pixel of x at tap 0 of its window
#: (linear = row * w_in + column). Negative in the padding.
POSITION = StructLayout(
    {
        "out": unsigned(_SIDE),
        "row": signed(_SIDE + 3),
        "column": signed(_SIDE + 3),
        "linear": signed(_FAR),
    }
)


def first_position(config) -> dict[str, Value]:
    """Position of pixel 0 of a part."""
    return {"out": 0, "row": config.row0, "column": config.column0, "linear": config.linear0}


def _step(config, position, columns, column, row, linear) -> dict[str, Value]:
    out = position.out + columns
    wraps = out >= config.w_out
    return {
        "out": Mux(wraps, out - config.w_out, out),
        "row": position.row + row + Mux(wraps, config.stride, 0),
        "column": position.column + column - Mux(wraps, config.wrap_column, 0),
        "linear": position.linear + linear + Mux(wraps, config.wrap_linear, 0),
    }


def step_pixel(config, position) -> dict[str, Value]:
    """Position of the next pixel."""
    return _step(config, position, 1, config.stride, 0, config.stride)


def step_batch(config, position) -> dict[str, Value]:
    """Position T pixels further on."""
    return _step(
        config,
        position,
        config.step_columns,
        config.step_column,
        config.step_row,
        config.step_linear,
    )


def inside(config, position, tap_row: Value, tap_column: Value) -> Value:
    """Whether tap (tap_row, tap_column) of the window reads a pixel of x rather than padding."""
    row, column = position.row + tap_row, position.column + tap_column
    return (row >= 0) & (row < config.h_in) & (column >= 0) & (column < config.w_in)
