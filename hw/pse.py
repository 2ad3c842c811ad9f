"""Precision-scaling element: one 16-bit product, or sixteen 4-bit products summed."""

from __future__ import annotations

from typing import ClassVar

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

from ..common.contract import CONTRACT, Contract
from .pipeline import balanced_sum, delay

__all__ = ["NIBBLES", "OPERAND_BITS", "PSE", "Precision"]

#: Nibbles of a 16-bit operand.
NIBBLES = 4

#: An operand of a PSE: one nibble for each of the sixteen multipliers.
OPERAND_BITS = 4 * NIBBLES**2


class Precision(enum.Enum, shape=1):
    """How a PSE reads its operands."""

    INT4 = 0
    INT16 = 1


class PSE(wiring.Component):
    """Sixteen 4x4 multipliers that all work in both precisions.

    With `Precision.INT16`, the product of the two signed numbers in bits 0 to 15 of the operands;
    the other bits are ignored. Multiplier (i, j) forms nibble i of `x` times nibble j of `w`, where
    only the top nibble of a number carries a sign, and counts 16**(i + j). With `Precision.INT4`,
    the sum of sixteen products of signed nibbles: multiplier (i, j) takes nibble 4 i + j of both
    and counts once. Products of equal weight, i + j, are added first; the seven sums then go
    through one adder tree, whose left shifts are switched off in `INT4`. Every bit is kept.

    Latency is :attr:`latency` cycles; throughput is one operand pair a cycle. There is no
    back-pressure. Registers load only behind a `valid`, so `sum` holds between results.

    Source: paper, section 3.5 and Appendix C, which asks for 4-bit multipliers that offer 4- and
    16-bit multiplication and leaves the composition open.

    Parameters
    ----------
    contract : Contract
        Gives the register stages: `pse_multiply` behind the sixteen products, `pse_combine` behind
        their combination. Stages past the first of each are empty, for a synthesis tool to move.

    Members
    -------
    valid : ``In(1)``
        Operands are valid.
    mode : ``In(Precision)``
        Precision of these operands; may change every cycle.
    x, w : ``In(64)``
        Operands: one int16 in the low bits, or sixteen int4, nibble i in bits 4 i to 4 i + 3.
    o_valid : ``Out(1)``
        `valid`, :attr:`latency` cycles later.
    sum : ``Out(signed(32))``
        The product (at most 2**30), or the sum of products (-896 to 1024).
    """

    module_name = "sinai_pse"

    MEANINGS: ClassVar[dict[str, str]] = {
        "valid": "operands are valid",
        "mode": "precision of the operands: 0 is sixteen int4 products summed, 1 one int16 product",
        "x": "one int16 in bits 15:0, or sixteen int4, nibble i in bits 4i+3:4i",
        "w": "the other operand, laid out as x",
        "o_valid": "sum is valid",
        "sum": "product or sum of products",
    }

    def __init__(self, *, contract: Contract = CONTRACT):
        self.contract = contract
        super().__init__(
            {
                "valid": In(1),
                "mode": In(Precision),
                "x": In(OPERAND_BITS),
                "w": In(OPERAND_BITS),
                "o_valid": Out(1),
                "sum": Out(signed(32)),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from the operands to their sum."""
        return self.contract.pse

    def elaborate(self, platform):
        m = Module()

        wide = Signal()
        m.d.comb += wide.eq(self.mode == Precision.INT16)

        products = []
        for i in range(NIBBLES):
            for j in range(NIBBLES):
                x = self._operand(m, "x", wide, number=i, position=NIBBLES * i + j)
                w = self._operand(m, "w", wide, number=j, position=NIBBLES * i + j)
                product = Signal(signed(9), name=f"product_{i}_{j}")  # -120 to 225
                m.d.comb += product.eq(x * w)
                products.append(product)

        valid, wide, *products = delay(m, self.contract.pse_multiply, self.valid, wide, *products)

        combined = Signal(signed(32))
        m.d.comb += combined.eq(_shifted_sum(_diagonals(products), wide))

        valid, combined = delay(m, self.contract.pse_combine, valid, combined)
        m.d.comb += [self.o_valid.eq(valid), self.sum.eq(combined)]

        return m

    def _operand(self, m: Module, port: str, wide: Signal, *, number: int, position: int) -> Signal:
        """A multiplier's operand, -8 to 15: nibble `number` of an int16, or the int4 at `position`.

        The fifth bit is the sign: always in INT4, in INT16 only of the top nibble.
        """
        nibbles = getattr(self, port)
        nibble = Mux(wide, nibbles.word_select(number, 4), nibbles.word_select(position, 4))
        carries_sign = 1 if number == NIBBLES - 1 else ~wide
        operand = Signal(signed(5), name=f"{port}_{position}")
        m.d.comb += operand.eq(Cat(nibble, nibble[-1] & carries_sign))
        return operand


def _diagonals(products: list[Signal]) -> list[Value]:
    """Add the products of equal weight: entry s sums the multipliers with i + j = s."""
    return [
        balanced_sum(
            [products[NIBBLES * i + s - i] for i in range(NIBBLES) if 0 <= s - i < NIBBLES]
        )
        for s in range(2 * NIBBLES - 1)
    ]


def _shifted_sum(terms: list[Value], wide: Signal) -> Value:
    """Sum of terms[s] * 16**s if `wide`, else of terms[s], by pairs: shifts of 4, 8, then 16."""
    shift = 4
    while len(terms) > 1:
        pairs = [
            low + Mux(wide, high << shift, high)
            for low, high in zip(terms[::2], terms[1::2], strict=False)
        ]
        terms = pairs + terms[len(pairs) * 2 :]
        shift *= 2
    return terms[0]
