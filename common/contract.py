"""The latency contract: every cycle count that the RTL and the simulator have to agree on.

One place, read by both. RTL components expose the entries as attributes and their tests hold the
hardware to them; the simulator computes with them. A latency of n means that a value accepted in
cycle t is usable in cycle t + n. All counts are clock cycles.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CONTRACT", "STALL_CAUSES", "Contract"]

#: Causes of a cycle in which no VPU issues, in order of precedence: such a cycle belongs to the
#: first cause that holds. See docs/machine.md, "Where the cycles go".
STALL_CAUSES = (
    "dma",  # the part's weights or inputs have not arrived
    "rpu",  # the projected inputs p are not ready
    "select",  # the essential neurons of the tile are not known yet
    "scan",  # the mask scanner has not finished the window
    "xbank",  # the x words of the next batch or window are still being read: bank conflicts
    "shallow",  # the block is shallower than the reload of its weights
    "fill",  # start of a layer, until the first issue
    "drain",  # end of a layer, from the last issue to the last write
)


@dataclass(frozen=True)
class Contract:
    """Latencies, initiation intervals and depths of the units, in clock cycles.

    Parameters
    ----------
    fetch : int
        Last word or check of a descriptor to the cycle in which it is offered to its engine.
    load : int
        Of a LOAD, besides one for each word of the stream, or for each row if a word has several:
        the start before the first word, and the write of the last row.
    store : int
        Of a STORE likewise: the start, the read of the first row, its way to the stream.
    start : int
        A compute that is offered and whose transfers are done, to its first cycle.
    finish : int
        Last cycle of a compute to the first in which the queues know of its end, less one.
    descriptor : int
        From the launch of a checked descriptor to the first address, the walk of the columns to
        their first pixels apart.
    sram_read : int
        Address to data of every SRAM; the memories have 1.
    operand : int
        SRAM data to the operand registers of the VPUs: window, row or group register and its
        multiplexer.
    pse_multiply : int
        Operand registers to the registers behind the sixteen 4x4 products.
    pse_combine : int
        Products to the shifted or plain sum of a PSE.
    tree : int
        PSE sums to the sum of a VPU.
    accumulate : int
        Read-modify-write of an accumulator: the smallest distance of two additions to the same one.
    requantise : int
        Accumulator to int16: bias, multiplier, shift and saturation.
    merge : int
        int16 to y: residual, affine, ReLU, quantisation.
    write : int
        y to the y memory.
    compare : int
        z~ to mask bit (unstructured).
    rank : int
        Eight z~ to the sorted indices of a group (structured).
    mask_write : int
        Mask bits or indices to the memory the scanner or the feeds read.
    rpu : int
        x^Q data to p nibbles of the projection unit: adder tree, accumulate, shift, clamp.
    rpu_write : int
        p to the p memory.
    scan_bits : int
        Bits of a mask word, of which a lane's scanner takes one pair a cycle.
    """

    fetch: int = 2
    load: int = 2
    store: int = 5
    start: int = 1
    finish: int = 1
    descriptor: int = 4
    sram_read: int = 1
    operand: int = 1
    pse_multiply: int = 1
    pse_combine: int = 1
    tree: int = 1
    accumulate: int = 1
    requantise: int = 3
    merge: int = 3
    write: int = 1
    compare: int = 1
    rank: int = 2
    mask_write: int = 1
    rpu: int = 4
    rpu_write: int = 1
    scan_bits: int = 64

    @property
    def pse(self) -> int:
        """Operands to the sum of a PSE."""
        return self.pse_multiply + self.pse_combine

    @property
    def vpu(self) -> int:
        """Operands to the updated accumulator."""
        return self.pse + self.tree + self.accumulate

    @property
    def feed(self) -> int:
        """Address of an operand to its use by a VPU, the issue."""
        return self.sram_read + self.operand

    @property
    def to_z(self) -> int:
        """Issue of the last beat to the int16 value."""
        return self.feed + self.vpu + self.requantise

    @property
    def drain(self) -> int:
        """Issue of the last beat to the written y."""
        return self.to_z + self.merge + self.write

    @property
    def to_mask(self) -> int:
        """Unstructured L_sel: issue of the last approximate beat to the first cycle in which the
        scanner may act on its mask bit, read from its memory."""
        return self.to_z + self.compare + self.mask_write + self.sram_read

    @property
    def to_indices(self) -> int:
        """Structured L_sel: issue of the last approximate beat to the first cycle in which the mask
        of its batch, read from its memory, may steer the reads of x."""
        return self.to_z + self.rank + self.mask_write + self.sram_read

    @property
    def rpu_fill(self) -> int:
        """Last cycle of work on a group of pixels to the first in which their p may be issued."""
        return self.sram_read + self.rpu + self.rpu_write

    def launch(self, columns: int) -> int:
        """First cycle of a part in which anything is read; its `columns` have walked to their first
        pixels, one a cycle."""
        return self.descriptor + columns


#: The contract of this version; tests build others with dataclasses.replace.
CONTRACT = Contract()
