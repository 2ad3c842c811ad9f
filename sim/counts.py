"""What the simulator counts: every event that costs energy, by the name the energy table uses.

The simulator counts and knows no energy; `sinai.report.energy` multiplies. A name is
``component.action``. Memory events are accesses of one word of `Machine.word_bits(memory)` bits.
"""

from __future__ import annotations

__all__ = ["EVENTS", "MEMORIES"]

#: SRAMs of the machine, in the order of tables.
MEMORIES = ("weights", "x", "y", "residual", "xq", "p", "projection", "parameters", "masks")

#: Event name to what one of it is.
EVENTS: dict[str, str] = {
    **{f"{name}.read": f"one word read from the {name} memory" for name in MEMORIES},
    **{f"{name}.write": f"one word written to the {name} memory" for name in MEMORIES},
    "mvu.mac16": "one 16-bit multiply-accumulate slot clocked in a PSE, tree included",
    "mvu.mac4": "one 4-bit multiply-accumulate slot clocked in a PSE, tree included",
    "accumulator.update": "one 48-bit accumulator read, added to and written",
    "rpu.add": "one ternary addition of the projection unit (nonzero entries only)",
    "post.requantise": "one accumulator to int16: bias, multiplier, shift, saturation",
    "post.merge": "one int16 to y and y^Q: residual, affine, ReLU, quantisation",
    "select.compare": "one z~ compared with theta (U)",
    "select.rank": "one group of eight z~ ranked (S)",
    "select.scan": "one 64-bit mask word scanned for essential neurons (U)",
    "collector.write": "one int16 z~ written to the collector (S)",
    "group_buffer.write": "one weight word written to the group buffer (S)",
    "group_buffer.read": "one weight word through the 8:1 multiplexer of a VPU (S)",
    "row_register.write": "one weight word written to a row register (U)",
    "window.write": "one x word written to the window (U)",
    "window.read": "one x word through the W:1 multiplexer of a lane (U)",
    "crossbar.word": "one x word through the T x T crossbar (S)",
    "fifo.word": "one 16-bit output through a lane's output FIFO (U)",
}
