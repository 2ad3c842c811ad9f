"""One SRAM bank: a read and a write port, both synchronous."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

__all__ = ["Sram"]


class Sram(wiring.Component):
    """A bank of `depth` words of `width` bits.

    A word addressed with `read_en` is on `read_data` in the next cycle and stays there until the
    next `read_en`. A word read in the cycle in which it is written is the old one. Contents are
    zero until written in simulation, unknown in silicon.

    Parameters
    ----------
    width, depth : int
        Bits of a word, at least 1, and words, at least 2.
    granularity : int, optional
        Bits that a write enable covers; the whole word by default.

    Members
    -------
    read_en : ``In(1)``, read_address : ``In(range(depth))``, read_data : ``Out(width)``
    write_en : ``In(width / granularity)``, write_address : ``In(range(depth))``
    write_data : ``In(width)``
    """

    def __init__(self, width: int, depth: int, *, granularity: int | None = None):
        granularity = granularity or width
        if width < 1 or depth < 2 or width % granularity:
            raise ValueError(
                "SRAM needs width >= 1, depth >= 2 and a granularity that divides the width, not"
                f" {width}, {depth} and {granularity}"
            )
        self.width, self.depth, self.granularity = width, depth, granularity
        bits = ceil_log2(depth)
        super().__init__(
            {
                "read_en": In(1),
                "read_address": In(bits),
                "read_data": Out(width),
                "write_en": In(width // granularity),
                "write_address": In(bits),
                "write_data": In(width),
            }
        )

    @property
    def module_name(self) -> str:
        """Name of its Verilog module: sinai_sram_WIDTHxDEPTH, and the granularity if it has one."""
        masked = "" if self.granularity == self.width else f"m{self.granularity}"
        return f"sinai_sram_{self.width}x{self.depth}{masked}"

    def elaborate(self, platform):
        m = Module()
        m.submodules.words = words = Memory(shape=self.width, depth=self.depth, init=[])
        read = words.read_port()
        whole = self.granularity == self.width
        write = words.write_port(granularity=None if whole else self.granularity)
        m.d.comb += [
            read.en.eq(self.read_en),
            read.addr.eq(self.read_address),
            self.read_data.eq(read.data),
            write.en.eq(self.write_en),
            write.addr.eq(self.write_address),
            write.data.eq(self.write_data),
        ]
        return m
