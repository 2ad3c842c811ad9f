"""What the simulator counts: every event that costs energy, by the name the energy table uses.

The simulator counts and knows no energy; `sinai.report.energy` multiplies. A name is
``component.action``. Memory events are accesses of one word of `Machine.word_bits(memory)` bits; of
y and residual an access moves one value of 16 bit.
"""

from __future__ import annotations

__all__ = ["BUFFERS", "EVENTS", "MEMORIES"]

#: SRAMs of the machine, in the order of tables.
MEMORIES = ("weights", "x", "y", "residual", "xq", "p", "projection", "parameters", "masks")

#: SRAMs inside the projection unit, whose sizes follow from its shape.
BUFFERS = ("gather", "sums", "tap")

#: Event name to what one of it is.
EVENTS: dict[str, str] = {
    **{f"{name}.read": f"one word read from the {name} memory" for name in MEMORIES},
    **{f"{name}.write": f"one word written to the {name} memory" for name in MEMORIES},
    "p.write": "nibbles of one tile's rows of P written to the p memory",
    "mvu.mac16": "one 16-bit multiply-accumulate slot clocked in a PSE, tree included",
    "mvu.mac4": "one 4-bit multiply-accumulate slot clocked in a PSE, tree included",
    "accumulator.update": "one 48-bit accumulator read, added to and written",
    "rpu.add": "one ternary addition of the projection unit (nonzero entries only)",
    "gather.read": "x^Q of one pixel, a tile's elements, read from the gather buffer",
    "gather.write": "one x^Q word, or zeros of the padding, written to the gather buffer",
    "sums.read": "sums of one pixel, a tile's rows, read from the memory of the sums",
    "sums.write": "sums of one pixel, a tile's rows, written to the memory of the sums",
    "tap.read": "projected nibbles of one input pixel read for one tap (projection `tap`)",
    "tap.write": "one row tile of a projected input pixel written (projection `tap`)",
    "post.requantise": "one accumulator to int16: bias, multiplier, shift, saturation",
    "post.merge": "one int16 to y: residual, affine, ReLU",
    "post.quantise": "one y to y^Q on its way out",
    "select.compare": "one z~ compared with theta (U)",
    "select.rank": "one z~ ranked among those of its group that came before (S)",
    "select.scan": "one cycle of a lane's scanner: a pair found or an empty word passed (U)",
    "pairs.write": "one (row, pixel) pair appended to a lane's list (U)",
    "pairs.read": "one pair read from a lane's list for an issue (U)",
    "group_buffer.write": "one weight word written to the group buffer (S)",
    "group_buffer.read": "one weight word through the 8:1 multiplexer of a VPU (S)",
    "row_register.write": "one weight word written to a row register (U)",
    "window.write": "one x word written to the window (U)",
    "window.read": "one x word through the W:1 multiplexer of a lane (U)",
    "crossbar.word": "one x word through the T x T crossbar into the next, then the current"
    " operand register of a column (S)",
}
