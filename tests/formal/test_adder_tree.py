"""Proof that a PSE adds its sixteen products: each once, or each by the weight of its nibbles.

With the tests of every operand pair at every multiplier (test_pse), which show that the products
are right, this covers all operands of the 4-bit mode. Sums are modulo 2**32, in which the order of
additions does not matter; so the reference adds products of equal weight first, as the PSE does.
"""

import pytest
from amaranth.hdl import Assert, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from sinai.common.contract import CONTRACT
from sinai.hw import pse
from sinai.hw.pse import NIBBLES, Precision


def free_products(base, products):
    """A PSE of class `base` whose multipliers form `products`: each times 1."""

    class Free(base):
        def _operand(self, m, port, wide, *, number, position):
            return products[position] if port == "x" else Const(1, signed(2))

    return Free()


class TreeProof(wiring.Component):
    """Any sixteen products of 9 bits, in either mode, with any sums before."""

    mode: In(1)
    leaves: In(16 * 9)

    def __init__(self, base):
        self.base = base
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        products = [Signal(signed(9), name=f"leaf_{n}") for n in range(NIBBLES**2)]
        m.d.comb += [leaf.eq(self.leaves.word_select(n, 9)) for n, leaf in enumerate(products)]
        m.submodules.dut = dut = free_products(self.base, products)
        cycle = Signal(range(CONTRACT.pse + 2))
        m.d.sync += cycle.eq(cycle + 1)
        m.d.comb += [dut.valid.eq(cycle == 0), dut.mode.eq(self.mode)]

        total = self._sum(m, products)
        for stage in range(CONTRACT.pse):
            delayed = Signal.like(total, name=f"total_{stage}")
            m.d.sync += delayed.eq(total)
            total = delayed
        with m.If(cycle == CONTRACT.pse):
            m.d.comb += [Assert(dut.o_valid), Assert(dut.sum == total)]
        return m

    def _sum(self, m, products):
        """The sum, modulo 2**32: products weigh 1, or 16**(i + j)."""
        terms = []
        for weight in range(2 * NIBBLES - 1):
            places = [NIBBLES * i + weight - i for i in range(NIBBLES) if 0 <= weight - i < NIBBLES]
            equal = self._pairs(m, [products[place] for place in places])
            term = Signal(signed(32), name=f"weight_{weight}")
            wide = self.mode == Precision.INT16.value
            m.d.comb += term.eq(Mux(wide, equal << (4 * weight), equal))
            terms.append(term)
        return self._pairs(m, terms)

    def _pairs(self, m, terms):
        while len(terms) > 1:
            sums = []
            for low, high in zip(terms[::2], terms[1::2], strict=False):
                both = Signal(signed(32))
                m.d.comb += both.eq(low + high)
                sums.append(both)
            terms = sums + terms[len(sums) * 2 :]
        return terms[0]


def test_tree_sums(holds):
    assert holds(TreeProof(pse.PSE), cycles=CONTRACT.pse + 1, free=True)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        pytest.param("Signal(signed(32))", "Signal(signed(31))", id="a bit is lost"),
        pytest.param("Mux(wide, high << shift, high)", "high << shift", id="shifts stay on"),
        pytest.param("shift *= 2", "shift += 4", id="the last shift is 12"),
        pytest.param("i + s - i]", "i + s - i - (s == 6)]", id="a product twice, another never"),
    ],
)
def test_fault_is_found(holds, planted, right, wrong):
    faulty = planted(pse, right, wrong)
    assert not holds(TreeProof(faulty.PSE), cycles=CONTRACT.pse + 1, free=True)
