"""The host's way in: a 32-bit port to the registers and the descriptor memories."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..common.descriptor import Fault
from ..common.machine import Machine
from .counters import COUNTERS, COUNTS
from .queue import COUNT_BITS
from .registers import COMPUTE_SLOTS, TRANSFER_SLOTS, WATCHDOG, Register, registers, windows

__all__ = ["HostPort"]


class HostPort(wiring.Component):
    """Registers, windows and the watchdog.

    An access is taken in a cycle with `valid` and `ready`, which is always high. A read answers in
    the next cycle, `read_valid` with `read_data`. The two low bits of an address are ignored. A
    write to a register that cannot be written, or to no register, does nothing; a read of one that
    cannot be read gives 0. :func:`sinai.hw.registers.registers` has the table.

    A write acts in the next cycle: `tail`s change, `abort` and `clear` are asserted for a cycle.
    CONTROL.START asserts `abort` as CONTROL.RESET does, but is ignored while there are descriptors
    or an error; so it aborts nothing. A descriptor word reaches its queue in the cycle of the
    write.

    The first fault of a queue is kept in STATUS, that of computes if both come at once, and
    `stopped` is asserted until CONTROL.RESET. While descriptors are announced that are not done,
    `watchdog` cycles in a row without `progress` are a fault, STALLED, of the computes if there are
    any to do. A stream that keeps a transfer waiting for so long is such a fault too.

    Source: the paper leaves the host open.

    Parameters
    ----------
    machine : Machine
        Gives the registers.
    watchdog : int
        Cycles; at least 2.

    Members
    -------
    valid : ``In(1)``, write : ``In(1)``, address : ``In(16)``, write_data : ``In(32)``
        Access: write or read, byte address, word to be written.
    ready : ``Out(1)``, read_data : ``Out(32)``, read_valid : ``Out(1)``
    transfer_write, compute_write : ``Out(1)``
        Write word `slot_data` at word address `slot_address` of a queue's memory.
    slot_address : ``Out(range(most words of a queue))``, slot_data : ``Out(32)``
    transfer_tail, compute_tail : ``Out(16)``
        Of the queues.
    transfer_head, compute_head : ``In(16)``, transfer_error, compute_error : ``In(8)``
        From the queues.
    progress : ``In(1)``
        Something happens: an issue, a row, a stream word, a step of the projection.
    counts : ``In(COUNTS)``, uncounted : ``In(1)``
        `counts` and `fault` of :class:`~sinai.hw.counters.CauseCounters`.
    clear : ``Out(1)``
        Of the counters.
    abort : ``Out(1)``
        To everything that runs: queues, transfers, computes.
    stopped : ``Out(1)``
        There is an error; `hold` of both queues.

    Raises
    ------
    ValueError
        If `watchdog` is out of range.
    """

    def __init__(self, machine: Machine, *, watchdog: int = WATCHDOG):
        if watchdog < 2:
            raise ValueError(f"Watchdog must wait at least 2 cycles, not {watchdog!r}")
        self.machine = machine
        self.watchdog = watchdog
        slot_bits = max(ceil_log2(window.size // 4) for window in windows(machine))
        members = {
            "valid": In(1),
            "write": In(1),
            "address": In(16),
            "write_data": In(32),
            "ready": Out(1),
            "read_data": Out(32),
            "read_valid": Out(1),
            "slot_address": Out(slot_bits),
            "slot_data": Out(32),
            "progress": In(1),
            "counts": In(COUNTS),
            "uncounted": In(1),
            "clear": Out(1),
            "abort": Out(1),
            "stopped": Out(1),
        }
        for queue in ("transfer", "compute"):
            members |= {
                f"{queue}_write": Out(1),
                f"{queue}_tail": Out(COUNT_BITS),
                f"{queue}_head": In(COUNT_BITS),
                f"{queue}_error": In(8),
            }
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        table = {register.name: register for register in registers(self.machine)}
        writing, reading = Signal(), Signal()
        m.d.comb += [
            self.ready.eq(1),
            writing.eq(self.valid & self.write),
            reading.eq(self.valid & ~self.write),
        ]

        # Descriptor memories: each window lies at a multiple of its size.
        m.d.comb += [self.slot_address.eq(self.address[2:]), self.slot_data.eq(self.write_data)]
        for window, write in zip(
            windows(self.machine), (self.transfer_write, self.compute_write), strict=True
        ):
            bits = ceil_log2(window.size)
            m.d.comb += write.eq(writing & (self.address[bits:] == window.address >> bits))

        parts = self._status(m)
        status = Signal(32)
        for bits in table["STATUS"].bits:
            m.d.comb += status[bits.low : bits.low + bits.width].eq(parts[bits.name])
        self._write(m, table, writing, parts["IDLE"])

        values: dict[str, Value] = {
            "TAIL": Cat(self.transfer_tail, self.compute_tail),
            "HEAD": Cat(self.transfer_head, self.compute_head),
            "STATUS": status,
        }
        high = Signal(32)  # of the counter whose low word was read last
        for name in COUNTERS:
            count = self.counts[name]
            values[f"{name.upper()}_LOW"] = count[:32]
            values[f"{name.upper()}_HIGH"] = high
            with m.If(reading & self._at(table[f"{name.upper()}_LOW"])):
                m.d.sync += high.eq(count[32:])

        data = Signal(32)
        with m.Switch(self.address[2:]):
            for register in table.values():
                with m.Case(register.address >> 2):
                    m.d.comb += data.eq(values.get(register.name, register.reset))
        m.d.sync += self.read_valid.eq(reading)
        with m.If(reading):
            m.d.sync += self.read_data.eq(data)
        return m

    def _at(self, register: Register) -> Value:
        return self.address[2:] == register.address >> 2

    def _write(self, m: Module, table: dict[str, Register], writing: Value, idle: Value) -> None:
        """Tails, and what CONTROL asks for."""
        m.d.sync += [self.abort.eq(0), self.clear.eq(0)]
        with m.If(writing & self._at(table["TAIL"])):
            m.d.sync += Cat(self.transfer_tail, self.compute_tail).eq(self.write_data)
        ask = {bits.name: self.write_data.bit_select(bits.low, 1) for bits in table["CONTROL"].bits}
        with m.If(writing & self._at(table["CONTROL"])):
            m.d.sync += self.clear.eq(ask["CLEAR"])
            with m.If(ask["RESET"] | (ask["START"] & idle)):
                m.d.sync += [
                    self.abort.eq(1),
                    self.transfer_tail.eq(0),
                    self.compute_tail.eq(0),
                ]

    def _status(self, m: Module) -> dict[str, Value]:
        """Keep the first fault, watch for the lack of progress; return the parts of STATUS."""
        to_transfer, to_compute, busy, idle, stalled = (Signal() for _ in range(5))
        error, queue, slot, uncounted = Signal(8), Signal(), Signal(8), Signal()
        quiet = Signal(range(self.watchdog))
        m.d.comb += [
            to_transfer.eq(self.transfer_tail != self.transfer_head),
            to_compute.eq(self.compute_tail != self.compute_head),
            busy.eq(to_transfer | to_compute),
            self.stopped.eq(error != 0),
            idle.eq(~busy & ~self.stopped & ~self.abort),
            stalled.eq(busy & ~self.progress & (quiet == self.watchdog - 1)),
        ]
        with m.If(~busy | self.progress | self.stopped | self.abort | stalled):
            m.d.sync += quiet.eq(0)
        with m.Else():
            m.d.sync += quiet.eq(quiet + 1)

        code, of_compute = Signal(8), Signal()
        m.d.comb += code.eq(
            Mux(
                self.compute_error != 0,
                self.compute_error,
                Mux(
                    self.transfer_error != 0,
                    self.transfer_error,
                    Mux(stalled, Fault.STALLED, Fault.NONE),
                ),
            )
        )
        m.d.comb += of_compute.eq(
            (self.compute_error != 0) | ((self.transfer_error == 0) & to_compute)
        )
        with m.If(self.abort):
            m.d.sync += error.eq(0)
        with m.Elif((error == 0) & (code != 0)):
            m.d.sync += [
                error.eq(code),
                queue.eq(of_compute),
                slot.eq(
                    Mux(
                        of_compute,
                        self.compute_head[: ceil_log2(COMPUTE_SLOTS)],
                        self.transfer_head[: ceil_log2(TRANSFER_SLOTS)],
                    )
                ),
            ]
        with m.If(self.clear):
            m.d.sync += uncounted.eq(0)
        with m.Elif(self.uncounted):
            m.d.sync += uncounted.eq(1)
        return {
            "BUSY": busy,
            "IDLE": idle,
            "STOPPED": self.stopped,
            "UNCOUNTED": uncounted,
            "ERROR": error,
            "QUEUE": queue & self.stopped,
            "SLOT": Mux(self.stopped, slot, 0),
        }
