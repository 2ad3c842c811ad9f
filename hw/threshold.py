"""Unstructured selection: the mask bits of a row over a window of pixels."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..common.contract import CONTRACT, Contract
from .pipeline import delay

__all__ = ["ThresholdMask", "reaches"]


def reaches(z: Value, theta: Value) -> Value:
    """z >= theta of a signed 16-bit z and a signed 17-bit theta, -32768 to 32768.

    No z reaches 32768, the only theta that 16 bits do not hold.
    """
    return (theta[16] == theta[15]) & (z >= theta[:16].as_signed())


class ThresholdMask(wiring.Component):
    """Bit n of the mask of a window is set if z of its pixel n is at least theta.

    The values of a window come in any cycles, position 0 first and the one with `last` last; the
    mask leaves :attr:`latency` cycles after that one. Bits of pixels that did not come are 0.
    Throughput is one value a cycle. Bit for bit :func:`sinai.common.arithmetic.select_threshold`.

    Source: paper, section 3.5 (unstructured selection by a threshold); the packing is ours.

    Parameters
    ----------
    window : int
        W, pixels; 1 to 64.
    contract : Contract
        Gives `compare`, the register stages behind the mask.

    Members
    -------
    valid : ``In(1)``
        A value is offered, and taken.
    z : ``In(signed(16))``
        The value.
    exists : ``In(1)``
        Whether the lane has this row; a value of no row is not essential.
    theta : ``In(signed(17))``
        Threshold, -32768 to 32768.
    position : ``In(range(window))``
        Place of the pixel in the window.
    last : ``In(1)``
        It is the last pixel of the window or of the tile.
    o_valid : ``Out(1)``
        A mask is complete.
    o_bits : ``Out(window)``
        The mask.

    Raises
    ------
    ValueError
        If `window` is out of range.
    """

    def __init__(self, window: int, *, contract: Contract = CONTRACT):
        if not 1 <= window <= 64:
            raise ValueError(f"Window must be between 1 and 64, not {window!r}")
        self.window = window
        self.contract = contract
        super().__init__(
            {
                "valid": In(1),
                "z": In(signed(16)),
                "exists": In(1),
                "theta": In(signed(17)),
                "position": In(max(1, ceil_log2(window))),
                "last": In(1),
                "o_valid": Out(1),
                "o_bits": Out(window),
            }
        )

    @property
    def module_name(self) -> str:
        """Name of its Verilog module: sinai_threshold_WINDOW."""
        return f"sinai_threshold_{self.window}"

    @property
    def latency(self) -> int:
        """Cycles from the last value of a window to its mask."""
        return self.contract.compare

    def elaborate(self, platform):
        m = Module()

        gathered, bits = Signal(self.window), Signal(self.window)
        here = Signal(1 << len(self.position))
        done = Signal()
        m.d.comb += [
            here.bit_select(self.position, 1).eq(self.exists & reaches(self.z, self.theta)),
            bits.eq(Mux(self.position.any(), gathered, 0) | here),
            done.eq(self.valid & self.last),
        ]
        with m.If(self.valid):
            m.d.sync += gathered.eq(bits)

        done, bits = delay(m, self.latency, done, bits)
        m.d.comb += [self.o_valid.eq(done), self.o_bits.eq(bits)]

        return m
