"""Transfers: rows between the memories and the two streams at the border of the chip."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from amaranth.hdl import Cat, Const, Module, Mux, ResetInserter, Signal, Value, unsigned
from amaranth.lib import enum, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from ..common.arithmetic import INT4
from ..common.contract import CONTRACT
from ..common.descriptor import Target, memory_depth, target_memory, transfer_row_bits
from ..common.machine import Machine
from .fields import transfer_layout
from .queue import COUNT_BITS

__all__ = ["LOADS", "STORES", "Dma"]

#: Targets that a transfer fills, and those that it empties.
LOADS = tuple(target for target in Target if target < Target.STORE_Y)
STORES = tuple(target for target in Target if target >= Target.STORE_Y)

#: Rows that may be on their way from a memory to the stream: as many as are asked for before the
#: first of them leaves, so that a free stream never waits.
_IN_FLIGHT = 4


class _State(enum.Enum, shape=unsigned(2)):
    IDLE = 0
    LOAD = 1
    STORE = 2


class Dma(wiring.Component):
    """Runs transfers, one after the other, a stream word and a row a cycle at most.

    A transfer is `outer` runs, `stride` rows apart, of `inner` rows from row `base` on. LOAD takes
    the rows from stream `i`, STORE puts them on stream `o`. A row that is wider than a stream word
    takes several, low bits first; of narrower ones several share a word, low bits first, without
    regard to runs; what is left of the last word is ignored and left 0. Streams may wait at any
    time, and no word is lost; `o.payload` stays while `o` waits.

    y^Q has no memory: STORE_YQ forms it from rows of y, clamp(round(y >> quantise_shift)) to
    [0, 15] if `unsigned`, else to [-8, 7], so that 16 bits of a row become 4
    (:func:`sinai.common.arithmetic.write_back`).

    A transfer starts in the first cycle with `valid` in which `computes_done` is at least its
    `wait`, cycle 0. `take` comes in its last cycle, so that it counts as done a cycle later. While
    the stream never waits that is cycle max(words, rows) + `contract.load` or `contract.store`
    (:func:`sinai.common.descriptor.transfer_cycles`): the first word of a LOAD is taken in cycle 1
    and the last row written in the cycle of `take`; the first word of a STORE is out in cycle 5 if
    it has one row or less.

    Source: the paper leaves the border of the chip open.

    Parameters
    ----------
    machine : Machine
        Gives memories and the width of the streams, D = 8 `dma.bytes_per_cycle` bits.

    Members
    -------
    valid : ``In(1)``, fields : ``In(transfer_layout(machine))``
        A checked descriptor, steady until `take`.
    take : ``Out(1)``
        The transfer is over.
    computes_done : ``In(16)``
        Since START.
    i : ``In(stream.Signature(D))``, o : ``Out(stream.Signature(D))``
        Streams.
    load_en : ``Out(1)``
        Write row `load_row` at `load_address` of the memory of `load_target`, in this cycle.
    load_target : ``Out(4)``
        A `Target`, below STORE_Y.
    load_address : ``Out(range(deepest memory))``
    load_row : ``Out(widest row)``
        Narrower rows in the low bits.
    store_en : ``Out(1)``
        Read the row at `store_address` of the memory of `store_target`, in this cycle.
    store_target : ``Out(4)``
        A `Target`, from STORE_Y on; steady until the transfer is over.
    store_address : ``Out(range(deepest memory))``
    store_row : ``In(widest row of y, residual and masks)``
        The row, in the cycle after `store_en`; narrower rows in the low bits.
    loading, storing : ``Out(1)``
        A LOAD, a STORE is under way: high from its cycle 0 to `take`.
    progress : ``Out(1)``
        A row was written, or a word taken or given.
    abort : ``In(1)``
        Forget the transfer under way. A word of `o` that waits is withdrawn.
    """

    load_cycles = CONTRACT.load
    store_cycles = CONTRACT.store

    def __init__(self, machine: Machine):
        self.machine = machine
        self.width = 8 * machine.dma.bytes_per_cycle
        self.row_bits = {target: transfer_row_bits(machine, target) for target in Target}
        memories = [target_memory(target) for target in Target]
        address_bits = ceil_log2(max(memory_depth(machine, name) for name in memories))
        super().__init__(
            {
                "valid": In(1),
                "fields": In(transfer_layout(machine)),
                "take": Out(1),
                "computes_done": In(COUNT_BITS),
                "i": In(stream.Signature(self.width)),
                "o": Out(stream.Signature(self.width)),
                "load_en": Out(1),
                "load_target": Out(4),
                "load_address": Out(address_bits),
                "load_row": Out(max(self.row_bits[target] for target in LOADS)),
                "store_en": Out(1),
                "store_target": Out(4),
                "store_address": Out(address_bits),
                "store_row": In(max(self.row_bits[target] for target in STORES)),
                "loading": Out(1),
                "storing": Out(1),
                "progress": Out(1),
                "abort": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        fields = self.fields
        state = Signal(_State)
        is_store, start, step, load_over, store_over = (Signal() for _ in range(5))
        m.d.comb += [
            is_store.eq(fields.target >= Target.STORE_Y.value),
            start.eq((state == _State.IDLE) & self.valid & (self.computes_done >= fields.wait)),
            self.loading.eq((start & ~is_store) | (state == _State.LOAD)),
            self.storing.eq((start & is_store) | (state == _State.STORE)),
            self.take.eq(load_over | store_over),
            self.load_target.eq(fields.target),
            self.store_target.eq(fields.target),
        ]
        with m.If(start):
            m.d.sync += state.eq(Mux(is_store, _State.STORE, _State.LOAD))
        with m.Elif(self.take):
            m.d.sync += state.eq(_State.IDLE)

        address, at_last = self._walk(m, start, step)
        m.d.comb += [self.load_address.eq(address), self.store_address.eq(address)]
        load_step = self._load(m, state == _State.LOAD, at_last, load_over)
        store_step = self._store(m, state == _State.STORE, at_last, start, store_over)
        m.d.comb += [
            step.eq(load_step | store_step),
            self.progress.eq(
                load_step | (self.i.valid & self.i.ready) | (self.o.valid & self.o.ready)
            ),
        ]
        return ResetInserter(self.abort)(m)

    def _walk(self, m: Module, start: Value, step: Value) -> tuple[Value, Value]:
        """Return the address of the current row, and whether it is the last one."""
        fields = self.fields
        address, run = Signal.like(self.load_address), Signal.like(self.load_address)
        inner, outer = Signal.like(fields.inner), Signal.like(fields.outer)
        with m.If(start):
            m.d.sync += [
                address.eq(fields.base),
                run.eq(fields.base),
                inner.eq(fields.inner),
                outer.eq(fields.outer),
            ]
        with m.Elif(step):
            with m.If(inner == 1):
                m.d.sync += [
                    address.eq(run + fields.stride),
                    run.eq(run + fields.stride),
                    inner.eq(fields.inner),
                    outer.eq(outer - 1),
                ]
            with m.Else():
                m.d.sync += [address.eq(address + 1), inner.eq(inner - 1)]
        return address, (inner == 1) & (outer == 1)

    def _load(self, m: Module, active: Value, at_last: Value, over: Signal) -> Value:
        """Gather words to a row, or give out the rows of a word; return whether one is written."""
        row = Signal(max(self.width, len(self.load_row)))
        part = Signal(self._place_bits(LOADS))  # words of a row that are there
        left = Signal(self._place_bits(LOADS))  # rows of `row` that are not written yet
        accept = Signal()
        m.d.comb += [
            self.i.ready.eq(active & ((left == 0) | ((left == 1) & ~at_last))),
            accept.eq(self.i.valid & self.i.ready),
            self.load_en.eq(left != 0),
            self.load_row.eq(row),
            over.eq(self.load_en & at_last),
        ]
        with m.If(self.load_en):
            m.d.sync += left.eq(Mux(at_last, 0, left - 1))
            with m.Switch(self.fields.target):
                for target, bits in self._narrow(LOADS):
                    with m.Case(target):
                        m.d.sync += row[: self.width].eq(row[: self.width] >> bits)
        with m.If(accept):
            m.d.sync += row.word_select(part, self.width).eq(self.i.payload)
            with m.If(part + 1 == self._by_target(self._words, LOADS)):
                m.d.sync += [part.eq(0), left.eq(self._by_target(self._rows, LOADS))]
            with m.Else():
                m.d.sync += part.eq(part + 1)
        return self.load_en

    def _store(self, m: Module, active: Value, at_last: Value, start: Value, over: Signal) -> Value:
        """Ask for rows while there is room, and cut or join them to words; return the asking."""
        asked_all, used, pop = Signal(), Signal(range(_IN_FLIGHT + 1)), Signal()
        m.d.comb += self.store_en.eq(active & ~asked_all & (used != _IN_FLIGHT))
        m.d.sync += used.eq(used + self.store_en - pop)
        with m.If(start):
            m.d.sync += asked_all.eq(0)
        with m.Elif(self.store_en & at_last):
            m.d.sync += asked_all.eq(1)

        # From the memory, through a register, to the queue of rows.
        read, read_last, held, held_last = (Signal() for _ in range(4))
        row = Signal.like(self.store_row, reset_less=True)
        m.d.sync += [
            read.eq(self.store_en),
            read_last.eq(at_last),
            held.eq(read),
            held_last.eq(read_last),
        ]
        with m.If(read):
            m.d.sync += row.eq(self.store_row)
        m.submodules.rows = rows = SyncFIFO(width=len(row) + 1, depth=_IN_FLIGHT)
        quantised = Mux(self.fields.target == Target.STORE_YQ.value, self._quantised(row), row)
        full_row = Signal.like(row)
        m.d.comb += [
            full_row.eq(quantised),
            rows.w_data.eq(Cat(full_row, held_last)),
            rows.w_en.eq(held),
        ]

        # From the queue to the word that is on the stream.
        place = Signal(self._place_bits(STORES))  # words of the row, or rows of the word, before
        head, head_last = rows.r_data[:-1], rows.r_data[-1]
        free, final, whole = (Signal() for _ in range(3))
        m.d.comb += [
            free.eq(~self.o.valid | self.o.ready),
            whole.eq(place + 1 == self._by_target(self._words, STORES)),
            over.eq(self.o.valid & self.o.ready & final),
        ]
        with m.If(free):
            m.d.sync += self.o.valid.eq(0)
        with m.If(free & rows.r_rdy):
            m.d.sync += place.eq(place + 1)
            with m.Switch(self.fields.target):
                for target, bits in self._narrow(STORES):
                    with m.Case(target):
                        m.d.comb += [
                            pop.eq(1),
                            whole.eq(head_last | (place + 1 == self._rows(bits))),
                        ]
                        m.d.sync += self.o.valid.eq(whole)
                        with m.If(place == 0):
                            m.d.sync += self.o.payload.eq(head[:bits])
                        with m.Else():
                            m.d.sync += self.o.payload.word_select(place, bits).eq(head[:bits])
                with m.Default():
                    m.d.comb += pop.eq(whole)
                    m.d.sync += [
                        self.o.valid.eq(1),
                        self.o.payload.eq(head.word_select(place, self.width)),
                    ]
            with m.If(whole):
                m.d.sync += [place.eq(0), final.eq(head_last)]
            with m.Else():
                m.d.sync += final.eq(0)
        m.d.comb += rows.r_en.eq(pop)
        return self.store_en

    def _quantised(self, row: Signal) -> Value:
        """y^Q of each 16-bit y of the row, four bits each."""
        shift, is_unsigned = self.fields.quantise_shift, self.fields.unsigned
        low, high = Mux(is_unsigned, 0, INT4[0]), Mux(is_unsigned, 15, INT4[1])
        values = []
        for n in range(self.machine.vpus):
            y = row.word_select(n, 16).as_signed()
            # The bit below the last kept one, added behind the shift, is half a step added before.
            # A shift by 16 or more leaves nothing of 16 bits.
            half = Mux(shift == 0, 0, y.bit_select((shift - 1)[:4], 1))
            rounded = Mux(shift > 15, 0, (y >> shift[:4]) + half)
            values.append(Mux(rounded < low, low, Mux(rounded > high, high, rounded))[:4])
        return Cat(values)

    def _words(self, bits: int) -> int:
        """Stream words of a row of `bits` bits, at least 1."""
        return max(1, bits // self.width)

    def _rows(self, bits: int) -> int:
        """Rows of a stream word, at least 1."""
        return max(1, self.width // bits)

    def _narrow(self, targets: Iterable[Target]) -> list[tuple[int, int]]:
        """Targets, as numbers, whose rows share a stream word, and the bits of a row."""
        rows = ((target.value, self.row_bits[target]) for target in targets)
        return [(target, bits) for target, bits in rows if bits < self.width]

    def _by_target(self, function: Callable[[int], int], targets: Iterable[Target]) -> Value:
        """`function` of the bits of a row, for the target of the transfer."""
        value: Value = Const(0)
        for target in targets:
            chosen = self.fields.target == target.value
            value = Mux(chosen, function(self.row_bits[target]), value)
        return value

    def _place_bits(self, targets: Iterable[Target]) -> int:
        """Bits that count the words of a row and the rows of a word."""
        most = max(max(self._words(b), self._rows(b)) for b in map(self.row_bits.get, targets))
        return bits_for(most)
