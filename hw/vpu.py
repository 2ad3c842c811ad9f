"""Vector processing unit: PSEs side by side, their adder tree and the accumulators behind it."""

from __future__ import annotations

from typing import ClassVar

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..common.arithmetic import ACC_BITS
from ..common.contract import CONTRACT, Contract
from .accumulator import Accumulators
from .pipeline import balanced_sum, delay
from .pse import OPERAND_BITS, PSE, Precision
from .share import shared

__all__ = ["VPU"]


class VPU(wiring.Component):
    """Dot product of one beat a cycle, added to one of several accumulators.

    Each cycle with `valid` adds the dot product of `x` and `weights` to the accumulator at
    `address`. With `first` the accumulator counts as zero, so none is ever cleared; with `last` the
    total leaves through `o_sum` instead of being stored, so none is ever drained. A dot product of
    one beat has both and touches no accumulator. Beats of different accumulators and precisions
    may alternate freely. Totals are two's complement of 48 bits and wrap; 32767 products of 16-bit
    numbers and a 32-bit bias stay far from that.

    Operands are four words of 16 `pses` bits each, word 0 in the low bits. With `Precision.INT16`
    word 0 holds one int16 a PSE and the others are ignored; with `Precision.INT4` the four words
    hold 16 `pses` int4. PSE n reads bits 16 n to 16 n + 15 of each word in both, which costs no
    multiplexer: a sum does not depend on which PSE forms which product.

    Latency is :attr:`latency` cycles from a beat with `last` to its `o_valid`; throughput is one
    beat a cycle. Two beats of one accumulator must be at least `contract.accumulate` cycles apart;
    at 1, which the contract has, that is no restriction.

    There is no back-pressure: what has entered leaves a fixed number of cycles later. The feeder
    knows before it issues a beat whether its operands and the room for its result are there, so
    it waits by leaving `valid` low; a stall signal through every register of every VPU would cost
    more than a result queue as deep as the pipeline, and would make the time of a result depend on
    more than the time of its issue.

    Source: paper, section 3.5 (vector units of a matrix-vector unit). It leaves accumulators
    and their control open.

    Parameters
    ----------
    pses : int
        PSEs; 1 to 65536. Words of 16 bits a beat.
    accumulators : int
        Accumulators of 48 bits; at least 2.
    contract : Contract
        Gives the register stages of PSE, tree and accumulator.

    Members
    -------
    valid : ``In(1)``
        A beat is offered, and taken.
    mode : ``In(Precision)``
        Its precision.
    first, last : ``In(1)``
        It starts, it ends a dot product.
    address : ``In(range(accumulators))``
        Accumulator it is added to.
    x, weights : ``In(64 * pses)``
        Its operands.
    o_valid : ``Out(1)``
        A dot product is complete.
    o_address : ``Out(range(accumulators))``
        The address of its last beat.
    o_sum : ``Out(signed(48))``
        Its value.

    Raises
    ------
    ValueError
        If `pses` or `accumulators` is out of range.
    """

    module_name = "sinai_vpu"

    MEANINGS: ClassVar[dict[str, str]] = {
        "valid": "a beat is offered; it is always taken",
        "mode": "precision of the beat: 0 is int4, 1 int16",
        "first": "the beat starts a dot product: the accumulator counts as zero",
        "last": "the beat ends a dot product: the total leaves and is not stored",
        "address": "accumulator that the beat is added to",
        "x": "int4 i in bits 4i+3:4i, or int16 i in bits 16i+15:16i of the low quarter",
        "weights": "the other operands, laid out as x",
        "o_valid": "a dot product is complete",
        "o_address": "address of its last beat",
        "o_sum": "its value",
    }

    def __init__(self, pses: int, accumulators: int, *, contract: Contract = CONTRACT):
        if not 1 <= pses <= 1 << 16:
            raise ValueError(f"PSEs must be between 1 and 65536, not {pses!r}")
        if accumulators < 2:
            raise ValueError(f"Accumulators must be at least 2, not {accumulators!r}")
        self.pses = pses
        self.accumulators = accumulators
        self.contract = contract
        super().__init__(
            {
                "valid": In(1),
                "mode": In(Precision),
                "first": In(1),
                "last": In(1),
                "address": In(ceil_log2(accumulators)),
                "x": In(OPERAND_BITS * pses),
                "weights": In(OPERAND_BITS * pses),
                "o_valid": Out(1),
                "o_address": Out(ceil_log2(accumulators)),
                "o_sum": Out(signed(ACC_BITS)),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from the last beat of a dot product to its value."""
        return self.contract.vpu

    def elaborate(self, platform):
        m = Module()

        # Products, and the beat's control beside them.
        sums = []
        for n in range(self.pses):
            pse = PSE(contract=self.contract)
            m.submodules[f"pse_{n}"] = shared(pse, platform)
            m.d.comb += [
                pse.valid.eq(self.valid),
                pse.mode.eq(self.mode),
                pse.x.eq(self._slice(self.x, n)),
                pse.w.eq(self._slice(self.weights, n)),
            ]
            sums.append(pse.sum)
        valid, first, last, address = delay(
            m, self.contract.pse, self.valid, self.first, self.last, self.address
        )

        # Tree.
        beat = Signal(signed(32 + ceil_log2(self.pses)))
        m.d.comb += beat.eq(balanced_sum(sums))
        valid, beat, first, last, address = delay(
            m, self.contract.tree, valid, beat, first, last, address
        )

        # Accumulators.
        m.submodules.accumulators = totals = Accumulators(
            len(beat), self.accumulators, contract=self.contract
        )
        m.d.comb += [
            totals.valid.eq(valid),
            totals.first.eq(first),
            totals.last.eq(last),
            totals.address.eq(address),
            totals.term.eq(beat),
            self.o_valid.eq(totals.o_valid),
            self.o_address.eq(totals.o_address),
            self.o_sum.eq(totals.o_sum),
        ]

        return m

    def _slice(self, operand: Signal, n: int):
        """What PSE n reads of an operand: its 16 bits of each of the four words."""
        words = range(OPERAND_BITS // 16)
        return Cat(operand.word_select(self.pses * word + n, 16) for word in words)
