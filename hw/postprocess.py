"""First step behind the accumulators: a 48-bit total becomes an int16 value."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..common.arithmetic import ACC_BITS
from ..common.contract import CONTRACT, Contract
from .pipeline import delay

__all__ = ["Requantise", "round_shift", "saturate"]

#: Operations of the data path, each with register stages of its own.
_OPERATIONS = 3


def round_shift(value: Value, shift: Value) -> Value:
    """round(value >> shift), ties up, of a signed value; shift 0 leaves it. One bit wider.

    The bit below the last kept one, added behind the shift, equals half a step added before.
    """
    shifted = Cat(Const(0, 1), value).as_signed() >> shift
    return shifted[1:].as_signed() + shifted[0]


def saturate(value: Value) -> Value:
    """Limit a signed value, wider than 16 bit, to signed 16 bit: it fits if its top bits agree."""
    top = value[15:]
    limit = Mux(value[-1], Const(-(1 << 15), signed(16)), Const((1 << 15) - 1, signed(16)))
    return Mux(top.all() | ~top.any(), value[:16].as_signed(), limit)


class Requantise(wiring.Component):
    """o_value = sat16(round(((total + bias) * multiplier) >> shift)).

    Adds the bias, multiplies, then rounds, shifts and saturates. round(v >> r) adds 2**(r - 1)
    before an arithmetic shift, so that ties go up; r = 0 leaves v. `total + bias` must fit 48 bits,
    which the accumulators and the depth of a layer see to.

    Latency is :attr:`latency` cycles; throughput is one value a cycle. There is no back-pressure.
    Bit for bit :func:`sinai.common.arithmetic.requantise`.

    Source: the paper leaves scaling between layers open; the formula is ours (docs/machine.md).

    Parameters
    ----------
    contract : Contract
        Gives `requantise`, the register stages. Of three, one is behind the bias, one behind the
        multiplication and one behind the saturation; more or fewer are spread evenly, the later
        ones first.

    Members
    -------
    valid : ``In(1)``
        A total is offered, and taken.
    total : ``In(signed(48))``
        Its value.
    bias : ``In(signed(32))``
        Of its channel, at the scale of the total.
    multiplier : ``In(signed(16))``
        Of its channel.
    shift : ``In(6)``
        Of the layer, 0 to 62.
    o_valid : ``Out(1)``
        `o_value` is valid.
    o_value : ``Out(signed(16))``
        The value.
    """

    valid: In(1)
    total: In(signed(ACC_BITS))
    bias: In(signed(32))
    multiplier: In(signed(16))
    shift: In(6)
    o_valid: Out(1)
    o_value: Out(signed(16))

    def __init__(self, *, contract: Contract = CONTRACT):
        self.contract = contract
        super().__init__()

    @property
    def latency(self) -> int:
        """Cycles from a total to its value."""
        return self.contract.requantise

    def elaborate(self, platform):
        m = Module()
        stages = [(self.latency + k) // _OPERATIONS for k in range(_OPERATIONS)]

        biased = Signal(signed(ACC_BITS))
        m.d.comb += biased.eq(self.total + self.bias)
        valid, biased, multiplier, shift = delay(
            m, stages[0], self.valid, biased, self.multiplier, self.shift
        )

        scaled = Signal(signed(ACC_BITS + 16))
        m.d.comb += scaled.eq(biased * multiplier)
        valid, scaled, shift = delay(m, stages[1], valid, scaled, shift)

        value = Signal(signed(16))
        m.d.comb += value.eq(saturate(round_shift(scaled, shift)))
        valid, value = delay(m, stages[2], valid, value)
        m.d.comb += [self.o_valid.eq(valid), self.o_value.eq(value)]

        return m
