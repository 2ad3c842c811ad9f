"""One SRAM bank: a read and a write port, both synchronous."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

__all__ = ["Sram"]

_MODULE = """\
module {name}(
  {ports}
);
  reg {word}words [0:{last}];
  integer n;
  initial begin
    for (n = 0; n <= {last}; n = n + 1) words[n] = 0;
    read_data = 0;
  end
  always @(posedge clk) begin
    if (read_en) read_data <= words[read_address];
{writes}
  end
endmodule
"""


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
        super().__init__(
            {
                "read_en": In(1),
                "read_address": In(self.address_bits),
                "read_data": Out(width),
                "write_en": In(width // granularity),
                "write_address": In(self.address_bits),
                "write_data": In(width),
            }
        )

    @property
    def address_bits(self) -> int:
        """Width of an address."""
        return ceil_log2(self.depth)

    @property
    def module_name(self) -> str:
        """Name of its Verilog module: sinai_sram_WIDTHxDEPTH, and the granularity if it has one."""
        masked = "" if self.granularity == self.width else f"m{self.granularity}"
        return f"sinai_sram_{self.width}x{self.depth}{masked}"

    def verilog(self) -> str:
        """Behavioural Verilog of the same, under `module_name`; clk has a rising edge, no reset."""
        ports = [
            "input clk",
            "input read_en",
            f"input {_range(self.address_bits)}read_address",
            f"output reg {_range(self.width)}read_data",
            f"input {_range(self.width // self.granularity)}write_en",
            f"input {_range(self.address_bits)}write_address",
            f"input {_range(self.width)}write_data",
        ]
        writes = [
            (f"write_en[{part}]", f"[{low + self.granularity - 1}:{low}]")
            for part, low in enumerate(range(0, self.width, self.granularity))
        ]
        if len(writes) == 1:
            writes = [("write_en", "")]
        return _MODULE.format(
            name=self.module_name,
            ports=",\n  ".join(ports),
            word=_range(self.width),
            last=self.depth - 1,
            writes="\n".join(
                f"    if ({enable}) words[write_address]{part} <= write_data{part};"
                for enable, part in writes
            ),
        )

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


def _range(bits: int) -> str:
    """Range of a vector in a declaration, with the blank behind it; a single bit has none."""
    return f"[{bits - 1}:0] " if bits > 1 else ""
