"""What lies behind a vector processing unit: from a 48-bit total to z, s and y."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out

from ..common.arithmetic import ACC_BITS
from ..common.contract import CONTRACT, Contract
from .merge import Merge
from .pipeline import delay
from .postprocess import Requantise

__all__ = ["PARAMETERS", "Post"]

#: A row of the parameter memory: what one channel is scaled with. 128 bits, the first in the low.
PARAMETERS = StructLayout(
    {
        "multiplier": signed(16),  # M
        "bias": signed(32),  # b
        "rough_multiplier": signed(16),  # M~
        "rough_bias": signed(32),  # b~
        "gain": signed(16),  # a
        "offset": signed(16),  # c
    }
)


class Post(wiring.Component):
    """Turns the totals of a VPU into s and y; rough ones go to the selector besides.

    A total taken in cycle t is z in cycle t + `contract.requantise`. APPROXIMATE writes every
    output, as noise, and EXACT rewrites the essential ones; so both kinds are merged alike. If
    `add_residual` is on, the residual is asked for in the cycle before z, so that the data of a
    memory with one cycle of latency meets z. s and y are given out `contract.merge` cycles
    after z, to be written at the end of that cycle. Throughput is one total a cycle, exact and
    rough in any order; there is no back-pressure.

    Addresses are offsets from the base of y; whoever owns the memories adds the bases.

    Source: the paper leaves what follows the vector units open; ours (docs/machine.md).

    Parameters
    ----------
    address_bits : int
        Width of an offset, at least 1.
    contract : Contract
        Gives `requantise`, at least 1 here, and `merge`.

    Members
    -------
    valid : ``In(1)``
        A total is offered, and taken.
    total : ``In(signed(48))``
        Its value.
    rough : ``In(1)``
        It belongs to APPROXIMATE.
    parameters : ``In(PARAMETERS)``
        Of its channel.
    address : ``In(address_bits)``
        Where its y goes.
    shift, rough_shift, gain_shift : ``In(6)``
        Of the layer, 0 to 62; held while totals are under way.
    relu, add_residual, keep_sum : ``In(1)``
        Of the layer likewise: negative y become 0, a residual is added, s is given out.
    residual_en : ``Out(1)``, residual_address : ``Out(address_bits)``
        A residual is read; its offset.
    residual_data : ``In(signed(16))``
        Its value, in the next cycle.
    z_valid : ``Out(1)``, z : ``Out(signed(16))``
        A rough value for the selector.
    y_en : ``Out(1)``, y_address : ``Out(address_bits)``, y : ``Out(signed(16))``
        y, to be written.
    sum_en : ``Out(1)``, sum : ``Out(signed(16))``
        s, to be written at the same offset.

    Raises
    ------
    ValueError
        If `address_bits` or `contract.requantise` is below 1.
    """

    def __init__(self, address_bits: int, *, contract: Contract = CONTRACT):
        if address_bits < 1:
            raise ValueError(f"Address bits must be at least 1, not {address_bits!r}")
        if contract.requantise < 1:
            raise ValueError(
                f"Cycles to requantise must be at least 1, not {contract.requantise!r}: a residual"
                " is read meanwhile"
            )
        self.address_bits = address_bits
        self.contract = contract
        super().__init__(
            {
                "valid": In(1),
                "total": In(signed(ACC_BITS)),
                "rough": In(1),
                "parameters": In(PARAMETERS),
                "address": In(address_bits),
                "shift": In(6),
                "rough_shift": In(6),
                "gain_shift": In(6),
                "relu": In(1),
                "add_residual": In(1),
                "keep_sum": In(1),
                "residual_en": Out(1),
                "residual_address": Out(address_bits),
                "residual_data": In(signed(16)),
                "z_valid": Out(1),
                "z": Out(signed(16)),
                "y_en": Out(1),
                "y_address": Out(address_bits),
                "y": Out(signed(16)),
                "sum_en": Out(1),
                "sum": Out(signed(16)),
            }
        )

    #: Name of its Verilog module.
    module_name = "sinai_post"

    @property
    def latency(self) -> int:
        """Cycles from a total to its y."""
        return self.contract.requantise + self.contract.merge

    def elaborate(self, platform):
        m = Module()
        m.submodules.requantise = requantise = Requantise(contract=self.contract)
        m.submodules.merge = merge = Merge(contract=self.contract)
        scale = self.parameters

        # A total of either kind becomes an int16 value.
        m.d.comb += [
            requantise.valid.eq(self.valid),
            requantise.total.eq(self.total),
            requantise.bias.eq(Mux(self.rough, scale.rough_bias, scale.bias)),
            requantise.multiplier.eq(Mux(self.rough, scale.rough_multiplier, scale.multiplier)),
            requantise.shift.eq(Mux(self.rough, self.rough_shift, self.shift)),
        ]

        # Kind, gain, offset and place go along; a cycle before z its residual is read.
        gain, offset = Signal(signed(16)), Signal(signed(16))
        m.d.comb += [gain.eq(scale.gain), offset.eq(scale.offset)]
        before = delay(
            m,
            self.contract.requantise - 1,
            self.valid,
            self.rough,
            gain,
            offset,
            self.address,
        )
        m.d.comb += [
            self.residual_en.eq(before[0] & self.add_residual),
            self.residual_address.eq(before[-1]),
        ]
        valid, rough, gain, offset, address = delay(m, 1, *before)
        m.d.comb += [
            merge.valid.eq(valid),
            merge.value.eq(requantise.o_value),
            merge.residual.eq(Mux(self.add_residual, self.residual_data, 0)),
            merge.gain.eq(gain),
            merge.offset.eq(offset),
            merge.gain_shift.eq(self.gain_shift),
            merge.relu.eq(self.relu),
        ]

        # Out. Both valid bits are registers of the same value.
        written, address = delay(m, self.contract.merge, valid, address)
        m.d.comb += [
            self.z_valid.eq(requantise.o_valid & rough),
            self.z.eq(requantise.o_value),
            self.y_en.eq(written),
            self.y_address.eq(address),
            self.y.eq(merge.o_value),
            self.sum_en.eq(merge.o_valid & self.keep_sum),
            self.sum.eq(merge.o_sum),
        ]

        return m
