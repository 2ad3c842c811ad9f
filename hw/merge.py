"""Second step behind the accumulators: residual, gain, offset and ReLU make y of a value."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..common.contract import CONTRACT, Contract
from .pipeline import delay
from .postprocess import round_shift, saturate

__all__ = ["Merge"]

#: Operations of the data path, each with register stages of its own.
_OPERATIONS = 3


class Merge(wiring.Component):
    """s = sat16(value + residual); y = sat16(round((s * gain) >> gain_shift) + offset), or 0 if
    `relu` is on and y is negative.

    Latency is :attr:`latency` cycles, for s and y alike; throughput is one value a cycle. There is
    no back-pressure. Bit for bit :func:`sinai.common.arithmetic.write_back`.

    Source: the paper leaves residuals and normalisation behind the vector units open; the formula
    is ours (docs/machine.md).

    Parameters
    ----------
    contract : Contract
        Gives `merge`, the register stages. Of three, one is behind the residual, one behind the
        multiplication and one behind the last saturation; more or fewer are spread evenly, the
        later ones first.

    Members
    -------
    valid : ``In(1)``
        A value is offered, and taken.
    value : ``In(signed(16))``
        The selected value v.
    residual : ``In(signed(16))``
        What is added to it; 0 for nothing.
    gain, offset : ``In(signed(16))``
        Of its channel.
    gain_shift : ``In(6)``
        Of the layer, 0 to 62; held while values are under way.
    relu : ``In(1)``
        Of the layer likewise.
    o_valid : ``Out(1)``
        `o_sum` and `o_value` are valid.
    o_sum : ``Out(signed(16))``
        s.
    o_value : ``Out(signed(16))``
        y.
    """

    valid: In(1)
    value: In(signed(16))
    residual: In(signed(16))
    gain: In(signed(16))
    offset: In(signed(16))
    gain_shift: In(6)
    relu: In(1)
    o_valid: Out(1)
    o_sum: Out(signed(16))
    o_value: Out(signed(16))

    def __init__(self, *, contract: Contract = CONTRACT):
        self.contract = contract
        super().__init__()

    @property
    def latency(self) -> int:
        """Cycles from a value to its s and y."""
        return self.contract.merge

    def elaborate(self, platform):
        m = Module()
        stages = [(self.latency + k) // _OPERATIONS for k in range(_OPERATIONS)]

        total = Signal(signed(16))
        m.d.comb += total.eq(saturate(self.value + self.residual))
        valid, total, gain, offset = delay(m, stages[0], self.valid, total, self.gain, self.offset)

        scaled = Signal(signed(32))
        m.d.comb += scaled.eq(total * gain)
        valid, total, scaled, offset = delay(m, stages[1], valid, total, scaled, offset)

        value = Signal(signed(16))
        result = Signal(signed(16))
        m.d.comb += [
            value.eq(saturate(round_shift(scaled, self.gain_shift) + offset)),
            result.eq(Mux(self.relu & value[-1], 0, value)),
        ]
        valid, total, result = delay(m, stages[2], valid, total, result)
        m.d.comb += [
            self.o_valid.eq(valid),
            self.o_sum.eq(total),
            self.o_value.eq(result),
        ]

        return m
