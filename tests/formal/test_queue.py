"""Proof about the queue of descriptors: none is lost, doubled, changed, or waits for ever.

The SRAM of the queue is replaced by words that stay. Transfers are proved, whose fetch is short;
computes differ in the table alone.
"""

import pytest
from amaranth.hdl import Assert, Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sinai.common.descriptor import TRANSFER, Fault, pack, transfer_fields
from sinai.common.machine import PRESETS
from sinai.hw import queue

MACHINE, SLOTS = PRESETS["structured-small"], 2


class Contents(wiring.Component):
    """Stands for the SRAM of the queue: a word of `words` is read, and nothing written."""

    def __init__(self, words):
        self.words = words
        bits = (len(words) // 32 - 1).bit_length()
        super().__init__(
            {
                "read_en": In(1),
                "read_address": In(bits),
                "read_data": Out(32),
                "write_en": In(1),
                "write_address": In(bits),
                "write_data": In(32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        with m.If(self.read_en):
            m.d.sync += self.read_data.eq(self.words.word_select(self.read_address, 32))
        return m


class _QueueProof(wiring.Component):
    """What both proofs share: a queue that is aborted in cycle 0, and its copy of the module."""

    def __init__(self, module):
        self.module = module
        super().__init__()

    def _queue(self, m, words):
        """The queue, with these words in its slots, and whether cycle 0 is over."""
        started = Signal()
        m.d.sync += started.eq(1)
        self.module.Sram = lambda width, depth: Contents(words)
        m.submodules.dut = dut = self.module.DescriptorQueue(MACHINE, "transfer", slots=SLOTS)
        assert dut.slot_words * SLOTS * 32 == len(words)
        m.d.comb += dut.abort.eq(~started)
        return dut, started


class JudgementProof(_QueueProof):
    """One descriptor, any words that stay: offered as it is, or refused for its first fault."""

    words: In(SLOTS * 16 * 32)

    def elaborate(self, platform):
        m = Module()
        words = Signal(len(self.words))
        dut, started = self._queue(m, words)
        with m.If(~started):
            m.d.sync += words.eq(self.words)
        m.d.comb += dut.tail.eq(started)
        word = [words.word_select(n, 32) for n in range(dut.words)]
        total = Const(0, 32)
        for each in word:
            total = (total + each)[:32]
        outside = Signal(len(dut.table))
        for n, field in enumerate(dut.table):
            value = word[1 + n].as_signed()
            m.d.comb += outside[n].eq((value < field.low) | (value > field.high))
        bad_header, bad_field, bad_sum = word[0] != dut.header, outside.any(), total != 0

        cycle = Signal(range(dut.fetch_cycles + 3))
        m.d.sync += cycle.eq(cycle + 1)
        with m.If(started & dut.valid):
            m.d.comb += Assert(~(bad_header | bad_field | bad_sum))
            for n, field in enumerate(dut.table):
                m.d.comb += Assert(dut.fields[field.name] == word[1 + n][: field.bits])
        with m.If(started & (dut.error != 0)):
            with m.Switch(dut.error):
                with m.Case(Fault.HEADER):
                    m.d.comb += Assert(bad_header)
                for n in range(len(dut.table)):
                    with m.Case(16 + n):
                        m.d.comb += Assert(~bad_header & outside[n] & ~outside[:n].any())
                with m.Case(Fault.SUM):
                    m.d.comb += Assert(~bad_header & ~bad_field & bad_sum)
                with m.Case(Fault.COMBINATION):
                    m.d.comb += Assert(~bad_header & ~bad_field & ~bad_sum)
                with m.Default():
                    m.d.comb += Assert(0)
        with m.If(cycle == dut.fetch_cycles + 1):
            m.d.comb += Assert(dut.valid ^ (dut.error != 0))
        return m


class OrderProof(_QueueProof):
    """Good descriptors, host and engine at any pace: in order, each once, each in time."""

    announce: In(1)
    take: In(1)

    def elaborate(self, platform):
        m = Module()
        dut, started = self._queue(m, _good_words())
        done, announced, taken = Signal(3), Signal(3), Signal()
        m.d.comb += [
            dut.tail.eq(announced),
            taken.eq(dut.valid & self.take & started),
            dut.take.eq(taken),
        ]
        with m.If(self.announce & started & (announced - done < SLOTS)):
            m.d.sync += announced.eq(announced + 1)
        with m.If(taken):
            m.d.sync += done.eq(done + 1)
        with m.If(started):
            m.d.comb += [Assert(dut.head == done), Assert(dut.error == 0)]
        with m.If(started & dut.valid):
            m.d.comb += [Assert(announced != done), Assert(dut.fields.base == done[0])]

        # It comes in time, and what has come stays until it is taken.
        waits, steady = Signal(range(dut.fetch_cycles + 2)), Signal()
        with m.If(~started | dut.valid | (announced == done)):
            m.d.sync += waits.eq(0)
        with m.Else():
            m.d.sync += waits.eq(waits + 1)
        m.d.comb += Assert(waits <= dut.fetch_cycles)
        m.d.sync += steady.eq(started & dut.valid & ~taken)
        with m.If(steady):
            m.d.comb += Assert(dut.valid)
        return m


def _good_words():
    """Two slots, each with a descriptor whose base is the number of its slot."""
    fields = transfer_fields(MACHINE)
    bits = 0
    for slot in range(SLOTS):
        values = {field.name: field.low for field in fields} | {"base": slot}
        for n, word in enumerate(pack(TRANSFER, fields, values).tolist()):
            bits |= word << 32 * (16 * slot + n)
    return Const(bits, SLOTS * 16 * 32)


#: Cycles of a descriptor, and of two with the beginning of a third.
ONE, TWO = 21, 44


def test_judgement_is_right_and_in_time(holds, planted):
    copy = planted(queue, "class DescriptorQueue", "class DescriptorQueue")
    assert holds(JudgementProof(copy), cycles=ONE, free=True)


def test_descriptors_come_in_order_and_in_time(holds, planted):
    copy = planted(queue, "class DescriptorQueue", "class DescriptorQueue")
    assert holds(OrderProof(copy), cycles=TWO, free=True)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        pytest.param("total.eq(total + word)", "total.eq(total | word)", id="a sum that is none"),
        pytest.param("(value > high)", "(value > high + 1)", id="one above is taken"),
    ],
)
def test_wrong_judgement_is_found(holds, planted, right, wrong):
    assert not holds(JudgementProof(planted(queue, right, wrong)), cycles=ONE, free=True)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        pytest.param("self.head.eq(self.head + 1)", "self.head.eq(self.head)", id="one twice"),
        pytest.param("self.head[:slot_bits])", "Const(0, slot_bits))", id="always one slot"),
        pytest.param("state.eq(_State.OFFER)", "state.eq(_State.FETCH)", id="waits for ever"),
    ],
)
def test_disorder_is_found(holds, planted, right, wrong):
    assert not holds(OrderProof(planted(queue, right, wrong)), cycles=TWO, free=True)
